"""Collect caveats: too few seeds, images or labels, and features that speak against a transfer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.comparison.statistical_power import Resolution, resolutions

FEW_SEEDS = 3
"""Fewer seeds give very wide intervals (Student's factor for two is 12.7)."""
COARSE = 0.05
"""Difference of accuracy, 0..1, that a comparison should be able to show; otherwise a warning is given."""
FEW_VALIDATION = 50
"""Images; with fewer, one image is more than two points."""
FEW_POOL = 500
"""Images; with fewer a warning is given. The digits, where pretraining helps, have 1,146."""
_UNCHANGED = 0.9
"""Similarity to random weights above which a warning is given that pretraining changed little."""


@dataclass(frozen=True, kw_only=True)
class Caveats:
    """Content of the section; each part may be empty."""

    warnings: Sequence[str]
    budgets: Sequence[Mapping[str, str]]
    """Lines of `budget`, `validation`, `runs`, `by_runs`, `by_images`."""
    features: Sequence[Mapping[str, str]]
    """Lines of `arm`, `backbone`, `separability`, `apart`, `scratch`, `imagenet`."""
    has_imagenet: bool
    """Some features are compared with those of ImageNet weights."""


def collect(results: Results) -> Caveats:
    """Collect the caveats of a comparison."""
    found = resolutions(results)
    features = _feature_lines(results.diagnosis)
    return Caveats(
        warnings=[*_of_size(found, results.description), *_of_features(results.diagnosis)],
        budgets=[_budget_line(one, results.description) for one in found],
        features=features,
        has_imagenet=any(line["imagenet"] for line in features),
    )


def _budget_line(one: Resolution, comparison: Mapping[str, Any]) -> dict[str, str]:
    count = comparison["images"][one.labels][1]
    return {
        "budget": budget_title(one.labels),
        "validation": f"{counted(count, 'image')}, {100 / count:.2g} points each",
        "runs": counted(one.num_units, "pretraining" if one.pretrainings > 1 else "seed"),
        "by_runs": "unknown" if math.isnan(one.by_runs) else f"{100 * one.by_runs:.1f} points",
        "by_images": f"{100 * one.by_images:.1f} points",
    }


def _of_size(found: Sequence[Resolution], comparison: Mapping[str, Any]) -> list[str]:
    """Warn of too few seeds, images or images of the pool."""
    sentences = []
    seeds, num_test, num_pool = len(comparison["seeds"]), comparison["num_test"], comparison["num_pool"]
    if seeds < FEW_SEEDS:
        sentences.append(
            f"{counted(seeds, 'seed')}: too few to estimate the effect of the draw of labels. Give --seeds "
            f"{' '.join(map(str, range(FEW_SEEDS)))} or more."
        )
    few_pretrainings = [one for one in found if 1 < one.pretrainings < FEW_SEEDS]
    if few_pretrainings and seeds >= FEW_SEEDS:
        sentences.append(
            f"{counted(few_pretrainings[0].pretrainings, 'pretraining')} of each method: too few to estimate their "
            "spread. Leave out --pretrain-seeds for one a seed, or give 1 for an answer about single networks."
        )
    coarse = [one for one in found if one.by_runs > COARSE]
    if coarse:
        places = "; ".join(f"{budget_title(one.labels)}: {100 * one.by_runs:.1f} points" for one in coarse)
        sentences.append(
            f"These runs find only large differences to scratch ({places}). More --seeds find smaller ones."
        )
    blurred = max((one.by_images for one in found), default=0.0)
    if blurred > COARSE:
        sentences.append(
            f"{counted(num_test, 'test image')}: two models whose mistakes have nothing in common must differ by up to "
            f"{100 * blurred:.1f} points to be told apart on them."
        )
    few = {labels: sizes[1] for labels, sizes in comparison["images"].items() if sizes[1] < FEW_VALIDATION}
    if few:
        places = "; ".join(f"{budget_title(labels)}: {counted(count, 'image')}" for labels, count in few.items())
        sentences.append(f"Validation chooses the phase by few images ({places}): its luck is in what is measured.")
    labelled = max(sizes[0] for sizes in comparison["images"].values())
    if num_pool < FEW_POOL:
        sentences.append(f"The pool for pretraining holds {counted(num_pool, 'image')}: few to learn features from.")
    if num_pool <= labelled:
        sentences.append(
            f"At the largest budget all {counted(num_pool, 'image')} of the pool are labelled: pretraining sees none "
            "that scratch does not see."
        )
    return sentences


def _of_features(diagnosis: Sequence[Mapping[str, str]]) -> list[str]:
    """Warn of arms whose features speak against a transfer."""
    measured = {
        (line["arm"], line["backbone"], line["measure"], line["reference"]): (
            float(line["value"] or "nan"),
            int(line["num_images"]),
        )
        for line in diagnosis
    }
    sentences = []
    for (arm, backbone, measure, reference), (value, count) in measured.items():
        name = f"{arm} on {backbone}"
        # Four standard errors of a guess, and at least five of eight classified correctly.
        if measure == "distance" and value > max(0.5, 4.0 * 2.0 / math.sqrt(2.0 * count)):
            sentences.append(
                f"In the features of {name} a linear classifier tells images of the pool from validation images in "
                f"{_told_apart(value)} of cases (half would be a guess): the pool does not look like the task, or the "
                "backbone has learned its single images by heart."
            )
        if measure == "separability" and arm != "scratch":
            random, _ = measured.get(("scratch", backbone, measure, ""), (math.nan, 0))
            # At the ceiling there is nothing to be better by, and of few images one is many points.
            if value <= random < 1.0 and count >= FEW_VALIDATION:
                sentences.append(
                    f"Frozen features of {name} separate the classes no better than random weights do "
                    f"({value:.0%} and {random:.0%} of {counted(count, 'validation image')}): as far as so many show, "
                    "fine-tuning has all to do."
                )
        if measure == "similarity" and reference == "scratch" and value > _UNCHANGED:
            sentences.append(
                f"Features of {name} are nearly those of random weights (similarity {value:.2f}): pretraining changed "
                "little."
            )
    return sentences


def _feature_lines(diagnosis: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Format a line for each arm on its backbone; empty texts where nothing was measured."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in diagnosis:
        pair = row["arm"], row["backbone"]
        empty = dict.fromkeys(("separability", "apart", "scratch", "imagenet"), "")
        line = lines.setdefault(pair, {"arm": pair[0], "backbone": pair[1], **empty})
        value = float(row["value"] or "nan")
        if math.isnan(value):
            continue
        if row["measure"] == "separability":
            line["separability"] = f"{100 * value:.1f}"
        elif row["measure"] == "distance":
            line["apart"] = f"{value:.2f} ({_told_apart(value)})"
        else:
            name, _, other = row["reference"].partition(" ")
            line[name] = f"{value:.2f}{f' {other}' if other else ''}"
    return list(lines.values())


def _told_apart(value: float) -> str:
    """Format the share of images that a classifier of this proxy A-distance classifies correctly."""
    return f"{0.5 + value / 4.0:.0%}"
