"""Measure accuracy under attack: of single models over images, of arms over seeds, and differences between arms.

Shapes: N images, K classes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.evaluation.comparison.estimates import Estimate, estimate, paired_difference
from ssl_transfer.evaluation.metric_properties import SHARE
from ssl_transfer.models.classifier import Classifier

from .attacks import Attack, attacked, least_likely, scores_of

CLEAN = "clean"
BATCH_SIZE = 128
RUN_COLUMNS = (
    "run",
    "arm",
    "seed",
    "attack",
    "epsilon",
    "num_images",
    "accuracy",
    "target_share",
    "mean_true_probability",
)
ARM_COLUMNS = (
    *("arm", "attack", "epsilon", "num_seeds", "num_images", "accuracy", "low", "high", "over"),
    *("target_share", "target_low", "target_high"),
    *("baseline", "difference", "difference_low", "difference_high", "p_value"),
)
Condition = tuple[str, float]
"""(attack, epsilon); (`clean`, 0)."""


@dataclass(frozen=True, kw_only=True)
class RunName:
    """Run under attack; runs of one arm differ only in their seed."""

    name: str
    """Name in tables and figures."""
    arm: str
    seed: int
    start: str = ""
    """Run whose weights it starts from; runs that share one are nested in it. Empty from scratch or public weights."""


@dataclass(frozen=True, kw_only=True)
class AttackPlan:
    """Attacks that are applied to every run."""

    attacks: Sequence[Attack]
    epsilons: Sequence[float]
    """Largest changes of a pixel, in units of 0..1; every attack is run at each."""
    target: int | None
    """Class of targeted attacks, which leave out its own images; None: for each image its least likely wrong class."""
    seed: int
    """Seed of the random starts."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One model under one attack."""

    run: RunName
    images: tuple[str, ...]
    """Names of N images."""
    condition: Condition
    hits: np.ndarray
    """(N,) uint8: 1 where the true class is predicted."""
    reached: np.ndarray | None
    """(N,) uint8 of a targeted attack: 1 where its class is predicted. Its images are those of other classes."""
    mean_true_probability: float
    """Probability of the true class, mean over images."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm under one attack."""

    arm: str
    condition: Condition
    num_images: int
    accuracy: Estimate
    target_share: Estimate | None
    """Share of images for which a targeted attack reaches its class."""
    baseline: str
    """First arm; empty for itself."""
    difference: Estimate | None
    """To the baseline, paired by seed; with one seed by image."""


def outcomes(
    classifier: Classifier, dataset: Dataset, indices: Tensor, runtime: Runtime, *, run: RunName, plan: AttackPlan
) -> list[Outcome]:
    """Measure a model on clean images, then under every attack at every epsilon.

    Args:
        classifier: on the device of the runtime.
        dataset: of the images.
        indices: (N,) int64, of labelled images.
        runtime: the device.
        run: the model's name, arm and seed.
        plan: the attacks.

    Raises:
        InputError: every image is of the class of the targeted attacks.
    """
    conditions = [(attack, epsilon) for attack in plan.attacks for epsilon in plan.epsilons]
    names: list[Condition] = [(CLEAN, 0.0), *((attack.label, epsilon) for attack, epsilon in conditions)]
    predicted: dict[Condition, list[Tensor]] = {name: [] for name in names}
    sure: dict[Condition, list[Tensor]] = {name: [] for name in names}
    wanted = []
    scores = scores_of(classifier)
    targeted = {attack.label for attack in plan.attacks if attack.targeted}
    for views, labels, samples in _batches(dataset, indices, classifier, runtime, len(names), run.name):
        keys = sample_keys(plan.seed, 0, samples).to(views.device)
        towards = least_likely(scores, views, labels) if plan.target is None else torch.full_like(labels, plan.target)
        wanted.append(towards.cpu())
        for (attack, epsilon), name in zip([(None, 0.0), *conditions], names, strict=True):
            shown = views
            if attack is not None:
                classes = towards if attack.targeted else labels
                shown = attacked(scores, views, classes, keys, attack=attack, epsilon=epsilon)
            with torch.no_grad():
                probabilities = scores(shown).softmax(dim=1)
            predicted[name].append(probabilities.argmax(dim=1).cpu())
            sure[name].append(probabilities[torch.arange(len(labels)), labels].cpu())
    truth, to = dataset.labels[indices], torch.cat(wanted)
    if targeted and not bool((truth != to).any()):
        raise InputError(f"--target {dataset.classes[int(to[0])]}: every image is of this class already. Give another.")
    found = []
    for name in names:
        # An attack towards an image's own class would make it correct.
        kept = truth != to if name[0] in targeted else torch.ones_like(truth, dtype=torch.bool)
        answers = torch.cat(predicted[name])[kept]
        found.append(
            Outcome(
                run=run,
                images=tuple(str(dataset.names[index]) for index in indices[kept].tolist()),
                condition=name,
                hits=(answers == truth[kept]).numpy().astype(np.uint8),
                reached=(answers == to[kept]).numpy().astype(np.uint8) if name[0] in targeted else None,
                mean_true_probability=float(torch.cat(sure[name])[kept].double().mean()),
            )
        )
    return found


def _batches(
    dataset: Dataset, indices: Tensor, classifier: Classifier, runtime: Runtime, work: int, run: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield views and labels on the device, and indices, batch by batch, with a progress bar."""
    spec, chunks, done = classifier.backbone.spec, indices.split(BATCH_SIZE), 0
    with bar(f"attacks on {run}", len(indices), active=runtime.is_main) as progress:
        for chunk, images in zip(chunks, dataset.batches(chunks, runtime.device), strict=True):
            view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
            yield view, dataset.labels[chunk].to(runtime.device), chunk
            done += len(chunk)
            progress.update(done, f"images, {work} times each")


def lines_of(found: Sequence[Outcome]) -> list[Line]:
    """Estimate the accuracies of arms; the first arm is the baseline of the others."""
    arms = list(dict.fromkeys(one.run.arm for one in found))
    by_arm: dict[tuple[str, Condition], dict[int, Outcome]] = {}
    for one in found:
        by_arm.setdefault((one.run.arm, one.condition), {})[one.run.seed] = one
    lines = []
    for condition in dict.fromkeys(one.condition for one in found):
        first = by_arm[arms[0], condition]
        for arm in arms:
            held = by_arm[arm, condition]
            shares = {seed: one.reached for seed, one in held.items() if one.reached is not None}
            pretrainings = _pretrainings(held)
            lines.append(
                Line(
                    arm=arm,
                    condition=condition,
                    num_images=len(next(iter(held.values())).hits),
                    accuracy=_estimate({seed: one.hits for seed, one in held.items()}, pretrainings),
                    target_share=_estimate(shares, pretrainings) if shares else None,
                    baseline="" if arm == arms[0] else arms[0],
                    difference=_difference(held, first) if arm != arms[0] and held.keys() & first.keys() else None,
                )
            )
    return lines


def _pretrainings(runs: Mapping[int, Outcome]) -> dict[int, int] | None:
    """Number the runs that the runs of an arm start from, by seed; None where one starts from no run."""
    starts = list(dict.fromkeys(one.run.start for one in runs.values()))
    return None if "" in starts else {seed: starts.index(one.run.start) for seed, one in runs.items()}


def _estimate(images: Mapping[int, np.ndarray], pretrainings: Mapping[int, int] | None) -> Estimate:
    """Estimate a share over seeds, nested in pretrainings; with one seed over its images."""
    return estimate(
        [float(one.mean()) for one in images.values()],
        next(iter(images.values())),
        within=SHARE,
        pretrainings=None if pretrainings is None else [pretrainings[seed] for seed in images],
    )


def _difference(ours: Mapping[int, Outcome], theirs: Mapping[int, Outcome]) -> Estimate:
    our_hits = {seed: one.hits for seed, one in ours.items()}
    their_hits = {seed: one.hits for seed, one in theirs.items()}
    return paired_difference(
        {seed: float(hits.mean()) for seed, hits in our_hits.items()},
        {seed: float(hits.mean()) for seed, hits in their_hits.items()},
        our_hits,
        their_hits,
        within=SHARE,
        pretrainings=max(
            filter(None, (_pretrainings(ours), _pretrainings(theirs))),
            key=lambda one: len(set(one.values())),
            default=None,
        ),
    )


def run_rows(found: Sequence[Outcome]) -> list[tuple[object, ...]]:
    """Return the lines of `attacks_runs.csv`, of the columns `RUN_COLUMNS`."""
    return [
        (
            *(one.run.name, one.run.arm, one.run.seed, *one.condition, len(one.hits), float(one.hits.mean())),
            *(math.nan if one.reached is None else float(one.reached.mean()), one.mean_true_probability),
        )
        for one in found
    ]


def arm_rows(lines: Sequence[Line]) -> list[tuple[object, ...]]:
    """Return the lines of `attacks.csv`, of the columns `ARM_COLUMNS`; unknown numbers are empty."""
    rows: list[tuple[object, ...]] = []
    for one in lines:
        share, difference = _three(one.target_share), _three(one.difference)
        p_value = one.difference.p_value if one.difference else math.nan
        known = (one.accuracy.count, one.num_images, *_three(one.accuracy), one.accuracy.over)
        rows.append((one.arm, *one.condition, *known, *share, one.baseline, *difference, p_value))
    return rows


def _three(found: Estimate | None) -> tuple[float, float, float]:
    """Return mean, low and high; nan where unknown."""
    if found is None:
        return math.nan, math.nan, math.nan
    low, high = (bound if math.isfinite(bound) else math.nan for bound in (found.low, found.high))
    return found.mean, low, high
