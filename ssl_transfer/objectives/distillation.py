"""Distil a trained teacher into a small student, beside or instead of labels.

    loss = (1 - alpha) * H(y, p)  +  alpha * T^2 * KL(q_T || p_T)  +  hint * L_hint  +  similarity * L_similarity

- Soft targets (Hinton, Vinyals and Dean 2015, section 2): p_T and q_T are the softmax of the student's and the
  teacher's logits divided by the temperature T. Their gradient shrinks as 1 / T^2, hence the factor. The paper has the
  cross-entropy with q_T; the divergence has the same gradient and is 0 where the two agree.
- Hints (Romero et al. 2015, FitNets, equation 3): 1/2 |teacher's features - projector(student's features)|^2. The paper
  compares maps in the middle of the network. Here features are the pooled inputs of the heads, so that any two
  architectures and image sizes fit. Each side is divided by its head's scale, and the square is a mean over dimensions.
- Similarity-preserving (Tung and Mori 2019, equations 2 to 4): with features A (B, D) and G = A A^T, its rows
  normalised, |G_teacher - G_student|^2 / B^2. Images similar to the teacher should be similar to the student. The
  images are those of the global batch.

Images without a label (-1) have no first term. All losses are float32, also under autocast. The teacher is no submodule
of the objective: no state, optimiser or wrapper holds it. It stays in evaluation mode and runs without gradients.

Shapes: B images, C channels, S pixels a side, K classes, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig, augment, evaluation_view
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone, freeze
from ssl_transfer.models.classifier import Classifier

from .supervised import Supervised, TrainingPass


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Set up the loss between student and teacher."""

    temperature: float = 4.0
    """Divides both sides' logits; the higher, the more the small probabilities count."""
    alpha: float = 0.9
    """Share of the soft targets in the loss, 0 to 1; the rest is cross-entropy on labels."""
    hint: float = 0.0
    """Weight of the distance between the teacher's pooled features and a projection of the student's (FitNets)."""
    similarity: float = 0.0
    """Weight of the difference between similarities of images in a batch (Tung and Mori 2019); theirs is 3000."""
    teacher_view: Literal["same", "plain"] = "same"
    """same: the teacher gets the student's view, crop, colours and all, at its own size. plain: the whole image."""

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise InputError(f"distillation.temperature {self.temperature}: above 0, usually 1 to 20.")
        if not 0.0 <= self.alpha <= 1.0:
            raise InputError(f"distillation.alpha {self.alpha}: 0 (labels alone) to 1 (the teacher alone).")
        if not (self.hint >= 0.0 and self.similarity >= 0.0):
            raise InputError(f"distillation.hint {self.hint}, similarity {self.similarity}: neither may be negative.")
        if not (self.alpha or self.hint or self.similarity):
            raise InputError(
                "distillation.alpha, hint and similarity are all 0: nothing is learnt of the teacher. Give one of "
                "them, or use `ssl-transfer transfer`."
            )


class Answer(NamedTuple):
    """Hold the teacher's outputs for B images."""

    logits: Tensor
    """(B, K) float32, in the data's order of classes."""
    features: Tensor
    """(B, ...) float32: inputs of its head, multiplied by the head's scale."""


class Teacher:
    """Run a trained and frozen classifier on the student's batches.

    Args:
        classifier: frozen here.
        augment: augmentation of the student's training.
        view: as in `DistillationConfig.teacher_view`.
    """

    def __init__(
        self, classifier: Classifier, *, augment: AugmentConfig, view: Literal["same", "plain"] = "same"
    ) -> None:
        freeze(classifier.backbone)
        freeze(classifier.head)
        self.classifier, self._augment, self._plain = classifier, augment, view == "plain"

    @torch.no_grad()
    def __call__(self, batch: Batch, *, student: Supervised, views: Tensor | None = None) -> Answer:
        """Compute logits and features of a batch.

        Args:
            batch: stored images and their keys.
            student: source of the views: crop and colours are functions of the key, at any size.
            views: (B, C, S, S), the student's views where they are known; used where the sizes agree.
        """
        features = self.classifier.features(self._view(batch, student, views))
        return Answer(self.classifier.scores(features), (features * self.classifier.head.scale).float())

    def _view(self, batch: Batch, student: Supervised, views: Tensor | None) -> Tensor:
        mine, its = self.classifier.backbone.spec, student.backbone.spec
        shared = mine.image_size == its.image_size and (student.augmented or mine.interpolation == its.interpolation)
        if views is not None and shared and not self._plain:
            return views
        if self._plain or not student.augmented:
            return evaluation_view(batch.images, size=mine.image_size, interpolation=mine.interpolation)
        return augment(batch.images, batch.keys, view=0, size=mine.image_size, config=self._augment)


Recorded = Callable[[Tensor], Answer]
"""Map the keys (B,) of images and views to the teacher's outputs, computed before."""


class Distillation(Objective):
    """Train a student on labels and on a teacher's outputs.

    Args:
        student: it decides which layers are frozen, and makes the views.
        teacher: on the student's device.
        config: temperature and weights of the terms.
        labelled_share: share of the images of every batch that have labels, above 0 to 1.

    Raises:
        InputError: hints between maps.
    """

    def __init__(
        self, student: Supervised, teacher: Teacher, config: DistillationConfig, *, labelled_share: float = 1.0
    ) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.projector = _projector(student, teacher) if config.hint else None
        self.loss_over_batch = bool(config.similarity) or student.loss_over_batch
        # In a tuple, so that the teacher is no submodule.
        self._teacher = (teacher,)
        self._recorded: Recorded | None = None
        self._labelled_share = labelled_share

    @property
    def backbone(self) -> Backbone:
        """Return the student's backbone."""
        return self.student.backbone

    @property
    def teacher(self) -> Teacher:
        """Return the teacher."""
        return self._teacher[0]

    def take_answers(self, recorded: Recorded | None) -> None:
        """Look the teacher's outputs up instead of computing them; None ends it."""
        self._recorded = recorded

    def forward(self, batch: Batch) -> Output:
        """Compute the loss of a batch in which label -1 means no label."""
        labelled = (batch.labels >= 0).float()
        targets = self.student.targets(batch.labels.clamp_min(0)) * labelled[:, None]
        seen = self.student.training_pass(batch, targets)
        answer = self._teacher_outputs(batch, seen)
        losses: dict[str, Tensor] = {}
        config = self.config
        weights = {
            "soft": config.alpha,
            "hard": 1.0 - config.alpha,
            "hint": config.hint,
            "similar": config.similarity,
        }
        # Means over all images of the batch: sums over processes and micro-batches stay exact.
        counted = labelled / (len(labelled) * self._labelled_share)
        losses["hard"] = (self.student.cross_entropies(seen.logits, seen.targets) * counted[:, None]).sum()
        losses["soft"] = soft_targets(seen.logits, answer.logits, temperature=config.temperature)
        if self.projector is not None:
            losses["hint"] = hints(self.projector(self._scaled(seen)), answer.features)
        if config.similarity:
            losses["similar"] = similarity_preserving(seen.features, answer.features)
        terms = [weights[name] * loss for name, loss in losses.items() if weights[name]]
        right = seen.logits.argmax(dim=1) == seen.targets.argmax(dim=1)
        agreed = seen.logits.argmax(dim=1) == answer.logits.argmax(dim=1)
        shown = {f"{name}_loss": scalar(loss) for name, loss in losses.items()}
        accuracy = scalar((right.float() * counted).sum())
        return Output(torch.stack(terms).sum(), {**shown, "accuracy": accuracy, "agreement": scalar(agreed.float())})

    def _teacher_outputs(self, batch: Batch, seen: TrainingPass) -> Answer:
        if self._recorded is not None:
            return self._recorded(batch.keys)
        return self.teacher(batch, student=self.student, views=seen.images)

    def _scaled(self, seen: TrainingPass) -> Tensor:
        return seen.features.float() * self.student.head.scale


def _projector(student: Supervised, teacher: Teacher) -> nn.Linear:
    if student.head.takes_maps or teacher.classifier.head.takes_maps:
        raise InputError(
            "distillation.hint compares pooled features, and the head of the student or of the teacher takes the "
            "backbone's maps. Leave the hint out, or take a head that pools as the backbone does."
        )
    return nn.Linear(student.backbone.num_features, teacher.classifier.backbone.num_features)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits (B, K), averaged over images."""
    with torch.autocast(student.device.type, enabled=False):
        ours = F.log_softmax(student.float() / temperature, dim=1)
        theirs = F.log_softmax(teacher.float() / temperature, dim=1)
        # 'mean' would divide by the number of classes too.
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def hints(projected: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean squared distance of features (B, D): () float32."""
    return 0.5 * F.mse_loss(projected.float(), teacher.float())


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare similarities of images of all processes, from (B, D) or maps (B, ...) of any two widths: () float32."""
    with torch.autocast(student.device.type, enabled=False):
        ours = collectives.gather(student.float().flatten(1))
        theirs = collectives.gather_without_gradient(teacher.float().flatten(1))
        return (_similarities(theirs) - _similarities(ours)).square().sum() / len(ours) ** 2


def _similarities(features: Tensor) -> Tensor:
    return F.normalize(features @ features.T, dim=1)
