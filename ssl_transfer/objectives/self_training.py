"""Adapt with self-training: train on a momentum teacher's confident labels of target images.

The teacher is the exponential moving average of the student (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017). Its
input is the image without augmentation, and its label y counts from a confidence on (French et al., "Self-ensembling
for visual domain adaptation", ICLR 2018, section 3.2). The student's input x' is the augmented image:

    term = weight * mean over the target's images of  sure(x) * balance(y) * cross-entropy(student(x'), y)

balance(y) is the mean frequency of recent labels by that of y, at most `MOST`: easy classes do not displace the others
(similar to Zou et al., "Class-balanced self-training", ECCV 2018, who balance thresholds instead).

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

from .domain_adaptation import Adaptation, Domains, Term, check_weight
from .supervised import Supervised

MOST = 3.0
"""Largest weight of a rare class: its labels are the doubtful ones."""
MEMORY = 0.99
"""Momentum of the frequencies of labels."""


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """Set up self-training."""

    confidence: float = 0.9
    """Least probability with which a label of the teacher counts, 0 to below 1."""
    weight: float = 1.0
    """Weight of these labels, beside the source's."""
    momentum: float = 0.99
    """Share of the teacher that stays at each step, 0 to below 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence < 1.0:
            raise InputError(f"confidence {self.confidence}: 0 or more and below 1.")
        check_weight("weight", self.weight)
        if not 0.0 <= self.momentum < 1.0:
            raise InputError(f"momentum {self.momentum}: 0 or more and below 1, usually 0.99.")


class SelfTraining(Term):
    """Train the student on its momentum teacher's labels."""

    frequencies: Tensor

    def __init__(self, student: Supervised, _num_features: int, num_classes: int, config: SelfTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.register_buffer("frequencies", torch.full((num_classes,), 1.0 / num_classes))

    def begin(self, supervised: Supervised) -> None:
        """Copy the student to the teacher, and make the classes' frequencies equal."""
        self._update_teacher(supervised, momentum=0.0)
        self.frequencies.fill_(1.0 / len(self.frequencies))

    def requires_grad_(self, requires_grad: bool = True) -> "SelfTraining":  # noqa: ARG002
        """Do nothing: the teacher never gets a gradient."""
        return self

    def train(self, mode: bool = True) -> "SelfTraining":
        """Set this module's mode; the teacher stays in evaluation mode."""
        self.training = mode
        return self

    def forward(self, domains: Domains) -> Output:
        """Compute the weighted loss; log the share of labels that count, and the confidence."""
        with torch.no_grad():
            shares = self.teacher.logits(domains.target_images).softmax(dim=1)
            confidences, labels = shares.max(dim=1)
            sure = (confidences >= self.config.confidence).float()
            balance = (self.frequencies.mean() / self.frequencies[labels].clamp_min(1e-6)).clamp_max(MOST)
            if self.training:
                self._update_frequencies(F.one_hot(labels, shares.shape[1]).float() * sure[:, None])
        losses = F.cross_entropy(domains.target_logits, labels, reduction="none")
        return Output(
            self.config.weight * (sure * balance * losses).mean(),
            {"sure": scalar(sure), "confidence": scalar(confidences)},
        )

    def after_step(self, progress: float, supervised: Supervised) -> None:  # noqa: ARG002
        """Update the teacher's exponential moving average."""
        self._update_teacher(supervised, momentum=self.config.momentum)

    def _update_frequencies(self, sure: Tensor) -> None:
        """Average the labels that count, (M, K), over all processes, and update their frequencies."""
        everywhere = collectives.gather_without_gradient(sure).mean(dim=0)
        total = everywhere.sum()
        recent = torch.where(total > 0.0, everywhere / total.clamp_min(1e-6), self.frequencies)
        self.frequencies.lerp_(recent, 1.0 - MEMORY)

    @torch.no_grad()
    def _update_teacher(self, student: Supervised, *, momentum: float) -> None:
        """Average weights and BatchNorm's statistics, and copy counters."""
        pairs = zip(self.teacher.state_dict().values(), student.state_dict().values(), strict=True)
        for average, value in pairs:
            if average.is_floating_point():
                average.lerp_(value, 1.0 - momentum)
            else:
                average.copy_(value)


SELF_TRAINING_ADAPTATION = Adaptation(
    summary="a slowly moving teacher's confident labels, classes balanced", config=SelfTrainingConfig, term=SelfTraining
)
