"""What a teacher says, computed once: where views are fixed, each of them is asked about one time.

As with features at a frozen boundary (`features`), the teacher runs on batches of the size that it would be asked with,
so that its answers have the bits that asking it each time has. Without micro-batches, whose sizes are others.

Shapes: N images, V views, B images of a batch, K classes.
"""

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine.console.formatting import file_size
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.objectives.distillation import Answer, Recorded, Teacher
from ssl_transfer.objectives.supervised import Supervised

MOST_BYTES = 4 * 10**9
"""Answers that would take more than this are asked for each time."""


@torch.no_grad()
def recorded_answers(
    teacher: Teacher,
    student: Supervised,
    dataset: Dataset,
    indices: Tensor,
    runtime: Runtime,
    *,
    seed: int,
    views: int,
    size: int,
    with_features: bool,
) -> Recorded | str:
    """The teacher's answers to every view of these images, by key, or a sentence about why they are not kept.

    Args:
        teacher: on the runtime's device.
        student: whose views are shared; it knows already whether they are augmented.
        dataset: holds the pixels.
        indices: (N,) int64, each only once.
        runtime: device and processes.
        seed: of the loaders.
        views: V; 0 is one view without augmentation.
        size: images that the teacher is asked about at once.
        with_features: whether anything but the scores is asked for.
    """
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
