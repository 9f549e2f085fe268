"""Train under a teacher: batches of labelled images and of the pool, loss, cached outputs of the teacher."""

from dataclasses import replace

import torch
from torch import Tensor

from ssl_transfer.data.loaders.labelled_and_pool import MixedLoader
from ssl_transfer.data.loaders.loader import Loader, Sampling
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.objective import Batches
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.objectives.distillation import Distillation, DistillationConfig, Teacher
from ssl_transfer.stages.transfer.phases import PhaseTraining, Training
from ssl_transfer.stages.transfer.plans.phase_tree import Phase

from .teacher_cache import cached_outputs


def batch_sizes(
    batch_size: int, pool_share: float, *, num_labelled: int, num_pool: int, num_processes: int
) -> tuple[int, int]:
    """Divide a batch into labelled images and images of the pool, equally many on each process.

    Args:
        batch_size: of both together. Where there are fewer labelled images than their share, the pool fills up; without
            a pool the batch is smaller then.
        pool_share: share of the pool in a batch, 0 to below 1.
        num_labelled: labelled images in all.
        num_pool: images of the pool in all.
        num_processes: that share both.

    Raises:
        InputError: too few for every process.
    """

    def even(count: float) -> int:
        return round(count) // num_processes * num_processes

    labelled = min(even(batch_size * (1.0 - pool_share)), even(num_labelled))
    pool = even(batch_size) - labelled if pool_share else 0
    if labelled < num_processes or (pool_share and not num_processes <= pool <= num_pool):
        raise InputError(
            f"--batch-size {batch_size}: comes to {labelled} of {num_labelled} labelled images and {pool} of "
            f"{num_pool} of the pool, for {num_processes} process(es). Every process needs some of each, and a batch "
            "holds no image twice: give another --batch-size or --pool-share, or fewer processes."
        )
    return labelled, pool


class Lessons:
    """Put a teacher around the phases (`phases.Around`): its loss, and batches with images of the pool.

    Args:
        training: of the student; its objective lies on the device.
        classifier: the teacher, on the device.
        config: of the distillation.
        pool: (P,) int64, images without labels; may be empty.
        sizes: from `batch_sizes`.
        fixed_views: views of each image whose teacher outputs are cached, 0 for the plain view; None: new views in
            each epoch.
    """

    def __init__(
        self,
        training: Training,
        classifier: Classifier,
        config: DistillationConfig,
        *,
        pool: Tensor,
        sizes: tuple[int, int],
        fixed_views: int | None,
    ) -> None:
        objective, runtime, recipe = training.objective, training.runtime, training.recipe
        # The projector's weights; the head was drawn before.
        torch.manual_seed(seed_from(training.seed, 3))
        self.module = Distillation(
            objective,
            Teacher(classifier, augment=recipe.augment, view=config.teacher_view),
            config,
            labelled_share=sizes[0] / sum(sizes),
        ).to(runtime.device)

        def loader(indices: Tensor, batch_size: int, *, labelled: bool) -> Loader:
            return Loader(
                training.dataset,
                indices,
                batch_size=batch_size,
                seed=training.seed,
                runtime=runtime,
                labelled=labelled,
                sampling=Sampling(balanced=labelled and recipe.imbalance == "sampling", views=fixed_views),
            )

        own = loader(training.labelled, sizes[0], labelled=True)
        self.batches: Batches = MixedLoader(own, loader(pool, sizes[1], labelled=False)) if len(pool) else own
        self._objective, self._augmented = objective, fixed_views != 0
        if fixed_views is None:
            return
        objective.set_trained("all", augmented=self._augmented)
        answers = cached_outputs(
            self.module.teacher,
            training,
            torch.cat([training.labelled, pool]).unique(),
            views=fixed_views,
            size=sum(sizes) // runtime.num_processes,
            with_features=bool(config.hint or config.similarity),
        )
        if isinstance(answers, str):
            training.say(answers)
        else:
            self.module.take_answers(answers)

    def begin(self, phase: Phase, plain: PhaseTraining) -> PhaseTraining:
        """See `phases.Around`."""
        keeps = phase.batch_norm == "frozen"
        self._objective.set_trained(phase.trained, augmented=self._augmented, keep_statistics=keeps)
        return replace(plain, batches=self.batches)
