"""Compute the teacher's outputs once, where the views are fixed.

As with features at a frozen boundary (`transfer.feature_cache`), the teacher runs on batches of the size of training
batches, so that cached outputs equal fresh ones to the bit. Micro-batches have other sizes and are excepted.

Shapes: N images, V views, B images of a batch, K classes.
"""

import torch
from torch import Tensor

from ssl_transfer.engine.console.formatting import file_size
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.objectives.distillation import Answer, Recorded, Teacher
from ssl_transfer.stages.transfer.phases import Training

MOST_BYTES = 4 * 10**9
"""Outputs that take more bytes are not cached."""


@torch.no_grad()
def cached_outputs(
    teacher: Teacher, training: Training, indices: Tensor, *, views: int, size: int, with_features: bool
) -> Recorded | str:
    """Compute the teacher's outputs for every view of these images; a sentence where they are too large to cache.

    Args:
        teacher: on the runtime's device.
        training: of the student, whose objective makes the views; augmentation is switched on or off already.
        indices: (N,) int64, each only once.
        views: V; 0 is one view without augmentation.
        size: images per batch of the teacher.
        with_features: cache features beside the logits.
    """
    student, dataset, runtime, seed = training.objective, training.dataset, training.runtime, training.seed
    count = len(indices)
    numbers = range(max(1, views))
    keys = torch.cat([sample_keys(seed, view, indices) for view in numbers])
    parts: list[Answer] = []
    with bar("teacher", len(keys), active=runtime.is_main) as progress, runtime.accelerator.autocast():
        for view in numbers:
            for start in range(0, count, size):
                # The last batch is filled up, so that all have one size.
                asked = indices[torch.arange(start, start + size) % count]
                (images,) = dataset.batches([asked], runtime.device)
                own = sample_keys(seed, view, asked).to(runtime.device)
                answer = teacher(Batch(images, torch.full_like(own, -1), own), student=student)
                if not with_features:
                    answer = answer._replace(features=answer.logits[:, :0])
                if not parts and (needed := _bytes_of(answer) // size * len(keys)) > MOST_BYTES:
                    return f"the teacher's answers would take {file_size(needed)}, so it is asked each time"
                parts.append(Answer(*(value[: count - start] for value in answer)))
                progress.update(view * count + min(start + size, count), "")
    answers = Answer(*(torch.cat(values) for values in zip(*parts, strict=True)))
    sorted_keys, rows = keys.to(runtime.device).sort()

    def look_up(asked: Tensor) -> Answer:
        places = torch.searchsorted(sorted_keys, asked)
        if not torch.equal(sorted_keys[places.clamp(max=len(sorted_keys) - 1)], asked):
            raise RuntimeError("the teacher was not asked of one of these views")
        places = rows[places]
        return Answer(*(values[places] for values in answers))

    return look_up


def _bytes_of(answer: Answer) -> int:
    return sum(value.numel() * value.element_size() for value in answer)
