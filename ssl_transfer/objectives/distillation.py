"""Distillation: a small student learns what a trained teacher says of an image, beside or instead of labels.

    loss = (1 - alpha) * H(y, p)  +  alpha * T^2 * KL(q_T || p_T)  +  hint * L_hint  +  similarity * L_similarity

- Soft targets (Hinton, Vinyals and Dean 2015, section 2): p_T and q_T are the softmax of the student's and the
  teacher's scores divided by the temperature T. Their gradient shrinks as 1 / T^2, hence the factor. Theirs is the
  cross-entropy with q_T; the divergence has the same gradient and is 0 where the two agree.
- Hints (Romero et al. 2015, FitNets, equation 3): 1/2 |teacher's features - projector(student's features)|^2. Theirs
  lie in the middle of the network, on maps; these are what the heads take, pooled, so that any two architectures and
  sizes of images go together. Each side is divided by its head's scale and the square is a mean over dimensions.
- Similarity-preserving (Tung and Mori 2019, equations 2 to 4): with features A (B, D) and G = A A^T, its rows
  normalised, |G_teacher - G_student|^2 / B^2: what is alike to the teacher is to be alike to the student. It compares
  the images of the global batch with each other.

Images without a label (-1) have no first term. All losses are float32, also under autocast. The teacher is no module of
the objective: it is in no state, no optimiser and no wrapper, stays in evaluation mode, and is asked without gradients.

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

from .supervised import Seen, Supervised


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What the student learns of its teacher."""

    temperature: float = 4.0
    """What both sides' scores are divided by: the higher, the more the small probabilities count."""
    alpha: float = 0.9
    """Share of the soft targets in the loss, 0 to 1; the rest is cross-entropy on labels."""
    hint: float = 0.0
    """Weight of the distance between the teacher's pooled features and a projection of the student's (FitNets)."""
    similarity: float = 0.0
    """Weight of the difference in which images of a batch are alike (Tung and Mori 2019); theirs is 3000."""
    teacher_view: Literal["same", "plain"] = "same"
    """same: the teacher sees the student's view, crop, colours and all, at its own size. plain: the whole image."""

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
    """What a teacher says of B images."""

    logits: Tensor
    """(B, K) float32, in the data's order of classes."""
    features: Tensor
    """(B, ...) float32: what its head takes, by the head's scale."""


class Teacher:
    """A trained classifier that is asked and never changed.

    Args:
        classifier: it is frozen.
        augment: of the student's training.
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
        """What it says of a batch.

        Args:
            batch: stored images and their keys.
            student: whose views are shared: the crop and the colours are functions of the key, at any size.
            views: (B, C, S, S) that the student saw, where they are known; they serve where the sizes agree.
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
"""From the keys (B,) of images and views to what the teacher said of them before."""


class Distillation(Objective):
    """A student and what it learns of a teacher.

    Args:
        student: what is trained, as in any transfer; it decides what is frozen and makes the views.
        teacher: see the class; it lies on the student's device.
        labelled_share: of the images of every batch, those that have labels, above 0 to 1.
        temperature: the fields of the config, as all that follows.
        alpha: see there.
        hint: see there.
        similarity: see there.

    Raises:
        InputError: hints between maps.
    """

    def __init__(
        self,
        student: Supervised,
        teacher: Teacher,
        *,
        labelled_share: float = 1.0,
        temperature: float,
        alpha: float,
        hint: float = 0.0,
        similarity: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.projector = _projector(student, teacher) if hint else None
        self.loss_over_batch = bool(similarity) or student.loss_over_batch
        # In a tuple, where torch does not look for modules.
        self._teacher = (teacher,)
        self._recorded: Recorded | None = None
        self._labelled_share, self._temperature, self._alpha = labelled_share, temperature, alpha
        self._hint, self._similarity = hint, similarity

    @property
    def backbone(self) -> Backbone:
        """The student's."""
        return self.student.backbone

    @property
    def teacher(self) -> Teacher:
        """Who is asked."""
        return self._teacher[0]

    def take_answers(self, recorded: Recorded | None) -> None:
        """From now on the teacher is not asked, but looked up: its views are fixed and what it says is known."""
        self._recorded = recorded

    def forward(self, batch: Batch) -> Output:
        """The loss of a batch of which some images, those with label -1, have no label."""
        labelled = (batch.labels >= 0).float()
        targets = self.student.targets(batch.labels.clamp_min(0)) * labelled[:, None]
        seen = self.student.look(batch, targets)
        answer = self._ask(batch, seen)
        losses: dict[str, Tensor] = {}
        weights = {"soft": self._alpha, "hard": 1.0 - self._alpha, "hint": self._hint, "similar": self._similarity}
        # Means over all images, whichever are in this part of the batch: so processes and micro-batches add up.
        counted = labelled / (len(labelled) * self._labelled_share)
        losses["hard"] = (self.student.cross_entropies(seen.logits, seen.targets) * counted[:, None]).sum()
        losses["soft"] = soft_targets(seen.logits, answer.logits, temperature=self._temperature)
        if self.projector is not None:
            losses["hint"] = hints(self.projector(self._scaled(seen)), answer.features)
        if self._similarity:
            losses["similar"] = similarity_preserving(seen.features, answer.features)
        terms = [weights[name] * loss for name, loss in losses.items() if weights[name]]
        right = seen.logits.argmax(dim=1) == seen.targets.argmax(dim=1)
        agreed = seen.logits.argmax(dim=1) == answer.logits.argmax(dim=1)
        shown = {f"{name}_loss": scalar(loss) for name, loss in losses.items()}
        accuracy = scalar((right.float() * counted).sum())
        return Output(torch.stack(terms).sum(), {**shown, "accuracy": accuracy, "agreement": scalar(agreed.float())})

    def _ask(self, batch: Batch, seen: Seen) -> Answer:
        if self._recorded is not None:
            return self._recorded(batch.keys)
        return self.teacher(batch, student=self.student, views=seen.images)

    def _scaled(self, seen: Seen) -> Tensor:
        return seen.features.float() * self.student.head.scale


def _projector(student: Supervised, teacher: Teacher) -> nn.Linear:
    if student.head.takes_maps or teacher.classifier.head.takes_maps:
        raise InputError(
            "distillation.hint compares pooled features, and the head of the student or of the teacher takes the "
            "backbone's maps. Leave the hint out, or take a head that pools as the backbone does."
        )
    return nn.Linear(student.backbone.num_features, teacher.classifier.backbone.num_features)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over images; both (B, K) -> () float32."""
    with torch.autocast(student.device.type, enabled=False):
        ours = F.log_softmax(student.float() / temperature, dim=1)
        theirs = F.log_softmax(teacher.float() / temperature, dim=1)
        # 'mean' would divide by the number of classes too.
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def hints(projected: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared distance of (B, D) and (B, D) -> () float32."""
    return 0.5 * F.mse_loss(projected.float(), teacher.float())


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """See the module: (B, D) or maps (B, ...) of either width -> () float32, over the images of all processes."""
    with torch.autocast(student.device.type, enabled=False):
        ours = collectives.gather(student.float().flatten(1))
        theirs = collectives.gather_without_gradient(teacher.float().flatten(1))
        return (_similarities(theirs) - _similarities(ours)).square().sum() / len(ours) ** 2


def _similarities(features: Tensor) -> Tensor:
    return F.normalize(features @ features.T, dim=1)
