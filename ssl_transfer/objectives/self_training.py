"""Self-training: a teacher labels images of the target, and the student learns those of which it is sure.

The teacher is the moving average of the student (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017), sees images
without augmentation, and its label counts from a confidence on (French et al., "Self-ensembling for visual domain
adaptation", ICLR 2018, section 3.2), the student seeing the augmented image:

    term = weight * mean over the target's images of  sure(x) * balance(y) * cross-entropy(student(x'), y)

with y the teacher's label. Classes are balanced by how often each has been labelled lately: balance(y) is the mean
frequency by that of y, at most `MOST`, so that easy classes do not crowd out the others (in the spirit of Zou et al.,
"Class-balanced self-training", ECCV 2018, who balance thresholds instead).

Shapes: M images of the target, K classes.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Output, scalar
from ssl_transfer.models.heads import features_for

from .domain_adaptation import Adaptation, Domains, Term
from .supervised import Supervised

MOST = 3.0
"""A rare class counts at most so much: its labels are the doubtful ones."""
MEMORY = 0.99
"""Of the frequencies of labels, from step to step."""


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """Settings of self-training."""

    confidence: float = 0.9
    """The teacher's probability from which on its label counts."""
    weight: float = 1.0
    """Of these labels, beside the source's."""
    momentum: float = 0.99
    """How much of the teacher stays in each step."""


class SelfTraining(Term):
    """Teacher, frequencies of its labels, and the loss on them.

    Args:
        supervised: the student.
        confidence: 0 to below 1.
        weight: above 0.
        momentum: 0 to below 1.
    """

    frequencies: Tensor

    def __init__(
        self,
        supervised: Supervised,
        _num_features: int,
        num_classes: int,
        *,
        confidence: float,
        weight: float,
        momentum: float,
    ) -> None:
        super().__init__()
        if not 0.0 <= confidence < 1.0:
            raise InputError(f"confidence {confidence}: 0 or more and below 1.")
        if not weight > 0.0:
            raise InputError(f"weight {weight}: above 0, or nothing is adapted; source-only is a method too.")
        if not 0.0 <= momentum < 1.0:
            raise InputError(f"momentum {momentum}: 0 or more and below 1, usually 0.99.")
        self._confidence, self._weight, self._momentum = confidence, weight, momentum
        self.teacher = copy.deepcopy(supervised).requires_grad_(False).eval()
        self.register_buffer("frequencies", torch.full((num_classes,), 1.0 / num_classes))

    def begin(self, supervised: Supervised) -> None:
        """The teacher begins as the student is, and no class has been seen more often."""
        self._follow(supervised, 0.0)
        self.frequencies.fill_(1.0 / len(self.frequencies))

    def requires_grad_(self, requires_grad: bool = True) -> "SelfTraining":  # noqa: ARG002
        """Nothing of it is trained: the teacher never gets a gradient."""
        return self

    def train(self, mode: bool = True) -> "SelfTraining":
        """The teacher stays in evaluation mode."""
        self.training = mode
        return self

    def forward(self, domains: Domains) -> Output:
        """The weighted loss; for the log, which share of the labels counts."""
        with torch.no_grad():
            shares = self._labels(domains.target_images).softmax(dim=1)
            confidences, labels = shares.max(dim=1)
            sure = (confidences >= self._confidence).float()
            balance = (self.frequencies.mean() / self.frequencies[labels].clamp_min(1e-6)).clamp_max(MOST)
            if self.training:
                self._count(F.one_hot(labels, shares.shape[1]).float() * sure[:, None])
        losses = F.cross_entropy(domains.target_logits, labels, reduction="none")
        return Output(
            self._weight * (sure * balance * losses).mean(),
            {"sure": scalar(sure), "confidence": scalar(confidences)},
        )

    def after_step(self, progress: float, supervised: Supervised) -> None:  # noqa: ARG002
        """The teacher follows the student."""
        self._follow(supervised, self._momentum)

    def _labels(self, images: Tensor) -> Tensor:
        teacher = self.teacher
        return teacher.scores(features_for(teacher.head, teacher.backbone, teacher.plain_view(images)))

    def _count(self, sure: Tensor) -> None:
        """Frequencies of the labels that count, over all processes: (M, K)."""
        everywhere = collectives.gather_without_gradient(sure).mean(dim=0)
        total = everywhere.sum()
        lately = torch.where(total > 0.0, everywhere / total.clamp_min(1e-6), self.frequencies)
        self.frequencies.lerp_(lately, 1.0 - MEMORY)

    @torch.no_grad()
    def _follow(self, supervised: Supervised, momentum: float) -> None:
        """Weights are averaged, and so are BatchNorm's statistics; counters are copied."""
        pairs = zip(self.teacher.state_dict().values(), supervised.state_dict().values(), strict=True)
        for mine, theirs in pairs:
            if mine.is_floating_point():
                mine.lerp_(theirs, 1.0 - momentum)
            else:
                mine.copy_(theirs)


SELF_TRAINING_ADAPTATION = Adaptation(
    summary="a slowly moving teacher's confident labels, classes balanced", config=SelfTrainingConfig, term=SelfTraining
)
