"""Train the phases of a plan on two domains, and choose by criteria without labels of the target."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.two_domains import Domain, DomainLoader
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.training.early_stopping import Stopper, Watched
from ssl_transfer.evaluation import adaptation_criteria as criteria
from ssl_transfer.evaluation.features.extract import BATCH_SIZE, over_images
from ssl_transfer.evaluation.features.transferability import distance
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.objectives.domain_adaptation import Adaptation, Adapting
from ssl_transfer.objectives.domain_batch_norm import kept_norms
from ssl_transfer.stages.transfer.phases import PhaseTraining, Training
from ssl_transfer.stages.transfer.plans.phase_tree import Phase

Choose = Literal["source", "information", "density", "importance"]
CRITERIA: dict[str, Watched] = {
    "source": Watched(metric="log_loss", higher_is_better=False),
    "information": Watched(metric="information", higher_is_better=True),
    "density": Watched(metric="density", higher_is_better=True),
    "importance": Watched(metric="importance", higher_is_better=False),
}
"""Criteria for candidates, and their metric in the log."""
ORACLE = Watched(metric="target_accuracy", higher_is_better=True)
"""Accuracy on labelled validation images of the target, an upper bound that is unknown in real use."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Images to adapt to."""

    dataset: Dataset
    pool: Tensor
    """(P,) int64: images to adapt on."""
    held: Tensor
    """(M,) int64: images for the criteria. Only the oracle reads their labels."""


class DomainTraining:
    """Train the phases of a plan on two domains (`phases.Around`): every evaluation is a candidate.

    Args:
        training: of the labelled images; its dataset is the source, or for train-on-target the target.
        adaptation: the method.
        module: its objective around that of `training`.
        target: images to adapt to.
        choose: criterion that chooses among the candidates.
        oracle: keep the best candidate by the labels of `target.held` too.
        images: at most so many images of the pool give the target's statistics, where those are estimated.
    """

    def __init__(
        self,
        training: Training,
        adaptation: Adaptation,
        module: Adapting,
        *,
        target: Target,
        choose: Choose,
        oracle: bool,
        images: int | None,
    ) -> None:
        self.training, self.adaptation, self.module = training, adaptation, module
        self.target, self.pool, self.held = target.dataset, target.pool, target.held
        self.watched, self.oracle, self.images = CRITERIA[choose], oracle, images
        self.oracles: dict[str, Stopper] = {}

    def adapts(self, phase: Phase) -> bool:
        """Check for a phase that trains features; those of a frozen backbone cannot be aligned."""
        return self.adaptation.term is not None and phase.trained != "head"

    def loader(self) -> DomainLoader:
        """Return batches of both domains."""
        training = self.training
        return DomainLoader(
            Domain(training.dataset, training.labelled),
            Domain(self.target, self.pool),
            batch_size=training.recipe.batch_size,
            seed=training.seed,
            runtime=training.runtime,
            balanced=training.recipe.imbalance == "sampling",
        )

    def begin(self, phase: Phase, plain: PhaseTraining) -> PhaseTraining:
        """See `phases.Around`."""
        adapting = self.adapts(phase)
        batches = self.loader() if adapting else plain.batches
        if isinstance(batches, DomainLoader):
            # With few labels the source has not enough images for its half.
            self.module.begin(adapting=True, source_share=batches.source_share)
        else:
            self.module.begin(adapting=False)
        # Without early stopping a phase runs to its end, and still keeps its best candidate.
        patience = plain.stopping.patience or phase.epochs
        if self.oracle:
            self.oracles[phase.name] = Stopper(patience=phase.epochs, min_delta=0.0, watched=ORACLE)
        return replace(
            plain,
            batches=batches,
            validate=self.measure,
            watched=self.watched,
            stopping=replace(plain.stopping, patience=patience),
            noting=[self.oracles[phase.name]] if self.oracle else [],
        )

    def measure(self) -> dict[str, float]:
        """Measure the source's validation images, and the criteria of the target without labels.

        With separate statistics of BatchNorm, each domain is measured with its own.
        """
        training = self.training
        dataset, labels = training.dataset, training.dataset.labels[training.validation]
        logits, features = self.outputs(dataset, training.validation)
        _, known = self.outputs(dataset, criteria.few(training.labelled))
        if self.adaptation.estimates_statistics and self.module.statistics is not None:
            self.module.statistics.estimate(self._views())
        with self.module.in_target():
            target_logits, target_features = self.outputs(self.target, self.held)
        weights = criteria.density_ratio(known, target_features, features)
        losses = F.cross_entropy(logits.double(), labels, reduction="none")
        found = {
            **classification(logits, labels),
            "information": criteria.information(target_logits),
            "density": criteria.neighbourhood_density(target_logits),
            "importance": criteria.importance_weighted_loss(losses, weights),
            "a_distance": distance(criteria.few(features), criteria.few(target_features), seed=0),
        }
        if self.oracle:
            right = target_logits.argmax(dim=1) == self.target.labels[self.held]
            found[ORACLE.metric] = float(right.double().mean())
        return found

    def _views(self) -> Iterator[Tensor]:
        """Yield images of the target's pool in their evaluation view, in batches of two or more."""
        chunks = criteria.few(self.pool, self.images or len(self.pool)).split(BATCH_SIZE)
        for images in self.target.batches([one for one in chunks if len(one) > 1], self.training.runtime.device):
            yield self.module.supervised.plain_view(images)

    def outputs(self, dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (N, K) and features (N, D) of these images, float32 on the CPU."""
        found = over_images(self.module.outputs, dataset, indices, self.training.runtime, "evaluating")
        count = len(self.training.dataset.classes)
        return found[:, :count], found[:, count:]

    def oracle_of(self, test: Tensor) -> dict[str, Any]:
        """Measure the candidate that the target's labels prefer, an upper bound; the module then holds its weights."""
        described = {phase: one.describe() for phase, one in self.oracles.items()}
        name = f"best_{ORACLE.metric}"
        phase = max(described, key=lambda one: described[one][name])
        self.oracles[phase].restore(self.module)
        tested = classification(self.target_logits(test), self.target.labels[test]) if len(test) else None
        found = described[phase]
        return {
            "upper_bound": True,
            "phase": phase,
            "epoch": int(found["best_epoch"]),
            "target_validation": found[name],
            "target_test": tested,
        }

    def target_logits(self, indices: Tensor) -> Tensor:
        """Compute logits (N, K) of the target's images with the target's statistics."""
        with self.module.in_target():
            return self.outputs(self.target, indices)[0]


def check_norms(module: Any, adaptation: Adaptation, name: str, *, separate: bool) -> None:
    """Refuse statistics of the target for a backbone without BatchNorm."""
    if kept_norms(module) or not (separate or adaptation.estimates_statistics):
        return
    asked = "--domain-norm separate" if separate else name
    raise InputError(
        f"{asked}: sets BatchNorm's statistics, and {module.spec.label} has no BatchNorm. Take another backbone, "
        f"{'leave it out' if separate else 'or another method'}."
    )


def candidates(metrics: Path) -> dict[str, dict[str, Any]]:
    """Read the candidate that each criterion prefers from a log: `phase`, `epoch`, `value`, and its other measures.

    The first of equal candidates counts, as in the training.
    """
    measured = evaluations(metrics)
    watched = {**CRITERIA, "oracle": ORACLE}
    found = {}
    for name, one in watched.items():
        rows = [line for line in measured if one.metric in line]
        if rows:
            sign = 1.0 if one.higher_is_better else -1.0
            best = max(rows, key=lambda line: sign * line[one.metric])
            found[name] = {"phase": best["phase"], "epoch": best["epoch"], "value": best[one.metric]} | {
                key: best[key] for key in ("accuracy", ORACLE.metric) if key in best
            }
    return found


def evaluations(metrics: Path) -> list[dict[str, Any]]:
    """Select the candidates of a log: without the start, and without repeated measures of a phase's best weights."""
    over, found = set(), []
    for line in read_lines(metrics):
        if line["split"] == "stopping":
            over.add(line["phase"])
        elif line["split"] == "validation" and line["epoch"] > 0 and line["phase"] not in over:
            found.append(line)
    return found


def kept(metrics: Path, choose: str) -> dict[str, Any]:
    """Return `phase` and `epoch` of the candidate whose weights were kept.

    The criterion prefers it, except for gains below `stopping.min_delta`.
    """
    watched = CRITERIA[choose]
    lines = read_lines(metrics)
    name, sign = f"best_{watched.metric}", 1.0 if watched.higher_is_better else -1.0
    best = max((one for one in lines if one["split"] == "stopping" and name in one), key=lambda one: sign * one[name])
    return {"phase": best["phase"], "epoch": int(best["best_epoch"])}


def training_of(metrics: Path, candidate: dict[str, Any], *, adapted: bool) -> dict[str, float]:
    """Read the metrics of the training batches in a candidate's epoch; without adaptation, in the last epoch."""
    rows = [row for row in read_lines(metrics) if row["split"] == "train"]
    own = [row for row in rows if (row["phase"], row["epoch"]) == (candidate["phase"], candidate["epoch"])]
    row = own[0] if own and adapted else rows[-1]
    return {key: value for key, value in row.items() if key not in ("phase", "epoch", "step", "split")}
