"""Whether the statistics of a comparison hold what they say: thousands of comparisons whose truth is known.

    python scripts/simulate_statistics.py

Prints how often the intervals hold the truth and how often the sentence claims a difference between equal arms, by the
functions that write `summary.csv`, `label_value.csv` and the sentence. docs/decisions.md holds what it printed.

An accuracy is its arm's expectation, plus what the draw of labels of this budget and seed does to every arm, half of it
shared by the budgets (they are nested), plus what it does to this arm alone; on test in steps of one image. Validation
sees the same model, luck and all, on a few images of its own.

Shapes: A arms (the first is scratch), B budgets, S seeds, N images.
"""

import argparse
from collections.abc import Iterable

import numpy as np

from ssl_transfer.evaluation.comparison.estimates import Estimate, paired_difference
from ssl_transfer.evaluation.comparison.label_efficiency import equal_count
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.significance import holm
from ssl_transfer.evaluation.comparison.verdict import findings
from ssl_transfer.evaluation.metric_properties import SHARE
from ssl_transfer.reports.comparison.break_even import returns

SHARED, OWN, NUM_TEST = 0.03, 0.015, 450
"""Deviations over draws of labels (the digits at five labels a class have less), and images in the test split."""


def accuracies(
    rng: np.random.Generator,
    means: np.ndarray,
    num_seeds: int,
    num_validation: int = 50,
    num_test: int = NUM_TEST,
) -> tuple[np.ndarray, np.ndarray]:
    """Test and validation accuracies, (A, B, S) each, of arms whose expectations are `means`, (A, B)."""
    num_arms, num_budgets = means.shape
    draw = rng.normal(size=num_seeds) + rng.normal(size=(num_budgets, num_seeds))
    own = rng.normal(size=(num_arms, num_budgets, num_seeds))
    found = (means[:, :, None] + SHARED * draw / np.sqrt(2.0) + OWN * own).clip(0.0, 1.0)
    validation = rng.binomial(num_validation, found) / num_validation
    return np.round(found * num_test) / num_test, validation


def by_seed(values: np.ndarray) -> dict[int, float]:
    """(S,) values as the statistics take them."""
    return dict(enumerate(values.tolist()))


def share_held(intervals: Iterable[Estimate], truth: float) -> float:
    """The share of the intervals that hold the truth."""
    return float(np.mean([found.low <= truth <= found.high for found in intervals]))


def seed_coverage(num_seeds: int, comparisons: int = 2000, num_test: int = NUM_TEST) -> float:
    """Of paired differences over seeds: one arm 4 points ahead. Seeds that agree have no interval: it holds."""
    rng, means = np.random.default_rng(num_seeds), np.array([[0.8], [0.84]])
    drawn = (accuracies(rng, means, num_seeds, num_test=num_test)[0][:, 0] for _ in range(comparisons))
    return share_held((paired_difference(by_seed(ours), by_seed(theirs), within=SHARE) for theirs, ours in drawn), 0.04)


def image_coverage(num_images: int, only_ours: float, only_theirs: float, comparisons: int = 2000) -> float:
    """Of the paired difference of two given models over test images.

    Args:
        num_images: N.
        only_ours: the chance that an image is right for ours alone.
        only_theirs: for theirs alone.
        comparisons: how many.
    """
    rng, held = np.random.default_rng(num_images), []
    for _ in range(comparisons):
        kind = rng.choice(3, p=[only_ours, only_theirs, 1.0 - only_ours - only_theirs], size=num_images)
        ours, theirs = (kind != 1).astype(np.uint8), (kind != 0).astype(np.uint8)
        held.append(paired_difference({0: ours.mean()}, {0: theirs.mean()}, {0: ours}, {0: theirs}, within=SHARE))
    return share_held(held, only_ours - only_theirs)


def image_coverage_of_draws(comparisons: int = 2000) -> float:
    """How often one seed's interval over images holds what another draw of labels would give on average.

    What it does not claim: two models that are each right on their own accuracy's share of images.
    """
    rng, held = np.random.default_rng(0), []
    for _ in range(comparisons):
        theirs, ours = accuracies(rng, np.array([[0.8], [0.84]]), 1)[0][:, 0, 0]
        hits = [(rng.random(NUM_TEST) < share).astype(np.uint8) for share in (ours, theirs)]
        by_one = {0: hits[0].mean()}, {0: hits[1].mean()}
        held.append(paired_difference(*by_one, {0: hits[0]}, {0: hits[1]}, within=SHARE))
    return share_held(held, 0.04)


def false_claims(
    num_arms: int,
    num_budgets: int,
    num_seeds: int,
    *,
    num_validation: int = 50,
    comparisons: int = 2000,
    num_starts: int = 1,
) -> dict[str, float]:
    """How often the report says something of arms that are all equal to scratch.

    Args:
        num_arms: that pretrained.
        num_budgets: B.
        num_seeds: S.
        num_validation: images.
        comparisons: how many.
        num_starts: scratch on so many backbones, of which validation chooses.

    Returns:
        The shares of comparisons with a `better` or a `worse` somewhere in the sentence, or a gain in what it says of
        costs (`paid`); and with a `better` if the words went by the 95 % intervals (`plain`), or by p values corrected
        for the budgets alone (`budgets`).
    """
    rng, means = np.random.default_rng(num_arms), np.full((num_arms + num_starts, num_budgets), 0.8)
    said = dict.fromkeys(("better", "worse", "paid", "plain", "budgets"), 0)
    for _ in range(comparisons):
        test, validation = accuracies(rng, means, num_seeds, num_validation)
        results = Results(rows_of(test, validation, num_starts))
        found = findings(results)
        said["paid"] += any(one.outcome == "gain" for one in returns(results))
        said["better"] += any(item.outcome == "better" for item in found)
        said["worse"] += any(item.outcome == "worse" for item in found)
        said["plain"] += any(item.difference.low > 0 for item in found)
        corrected = holm([item.difference.p_value for item in found])
        said["budgets"] += any(p <= 0.05 and item.difference.mean > 0 for p, item in zip(corrected, found, strict=True))
    return {name: count / comparisons for name, count in said.items()}


def rows_of(test: np.ndarray, validation: np.ndarray, num_starts: int = 1) -> list[Row]:
    """(A, B, S) accuracies as lines of `results.csv`; validation's log-loss stands in for that of test.

    The first `num_starts` are scratch, each on a backbone of its own; the others are methods on the first.
    """
    rows = []
    places = [("scratch", f"net{arm}") for arm in range(num_starts)]
    places += [(f"method{arm}", "net0") for arm in range(num_starts, len(test))]
    for split, metric, values in (
        ("test", "accuracy", test),
        ("validation", "accuracy", validation),
        ("validation", "log_loss", 1.0 - validation),
        ("train", "pretrain_seconds", np.full_like(test, 60.0)),
        ("train", "transfer_seconds", np.full_like(test, 4.0)),
    ):
        rows += [
            Row(
                arm=places[arm][0],
                backbone=places[arm][1],
                labels=str(5 * 4**budget),
                seed=seed,
                phase="chosen",
                split=split,
                metric=metric,
                value=float(value),
            )
            for (arm, budget, seed), value in np.ndenumerate(values)
        ]
    return rows


def label_value_coverage(num_seeds: int, *, comparisons: int = 2000, resamples: int = 0) -> tuple[float, float]:
    """Of the label count at which scratch equals an arm: 20 labels worth 45, between budgets of 5, 20, 80 and 320.

    Returns:
        The share of intervals that hold 45; and that of intervals from so many bootstrap draws of the seeds (nan for
        0), which are not what `label_value` does.
    """
    rng, counts, truth = np.random.default_rng(num_seeds), np.array([5.0, 20.0, 80.0, 320.0]), 45.0
    theirs_mean = np.array([0.70, 0.80, 0.88, 0.92])
    ours_mean = np.interp(np.log(truth), np.log(counts), theirs_mean)
    means = np.array([theirs_mean, [0.0, ours_mean, 0.0, 0.0]])
    held = resampled = 0
    for _ in range(comparisons):
        theirs, ours = accuracies(rng, means, num_seeds)[0]
        _, low, high = equal_count(ours[1], theirs.T, counts)
        held += low <= truth <= high
        if resamples:
            picks = rng.integers(num_seeds, size=(resamples, num_seeds))
            drawn = [equal_count(ours[1][p].mean(keepdims=True), theirs.T[p].mean(0)[None], counts)[0] for p in picks]
            low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
            resampled += low <= truth <= high
    return held / comparisons, resampled / comparisons if resamples else float("nan")


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    comparisons = parser.add_argument("--comparisons", type=int, default=2000)
    comparisons.help = "how many for each figure"
    count = parser.parse_args().comparisons
    for num_seeds, num_test in ((2, NUM_TEST), (2, 10_000), (3, NUM_TEST), (5, NUM_TEST), (10, NUM_TEST)):
        found = seed_coverage(num_seeds, count, num_test)
        print(f"paired differences, {num_seeds} seeds, {num_test:,} test images: {found:.1%} of intervals hold it")
    for num_images, only_ours, only_theirs in (
        *((100, 0.10, 0.06), (450, 0.10, 0.06), (2000, 0.10, 0.06)),
        *((100, 0.02, 0.01), (450, 0.02, 0.01), (2000, 0.02, 0.01)),
    ):
        found = image_coverage(num_images, only_ours, only_theirs, count)
        print(f"one seed, {num_images} images, {only_ours:.0%} and {only_theirs:.0%} right for one alone: {found:.1%}")
    print(f"one seed, for another draw of labels: {image_coverage_of_draws(count):.1%}")
    for num_arms, num_budgets, num_seeds, num_validation in (
        *((1, 1, 3, 50), (1, 3, 3, 50), (4, 3, 3, 50), (4, 3, 5, 50), (8, 3, 5, 50)),
        *((4, 3, 5, 10**6), (8, 3, 5, 10**6)),
    ):
        said = false_claims(num_arms, num_budgets, num_seeds, num_validation=num_validation, comparisons=count)
        print(
            f"equal arms, {num_arms} of them, {num_budgets} budgets, {num_seeds} seeds, {num_validation:,} validation "
            f"images: better {said['better']:.1%}, worse {said['worse']:.1%}, a gain for its cost {said['paid']:.1%}; "
            f"better by plain intervals {said['plain']:.1%}, corrected for budgets alone {said['budgets']:.1%}"
        )
    for num_starts, num_seeds in ((3, 5), (6, 5), (6, 3)):
        said = false_claims(1, 1, num_seeds, num_validation=10**6, comparisons=count, num_starts=num_starts)
        print(
            f"one arm equal to {num_starts} starts of which validation chooses, {num_seeds} seeds: better "
            f"{said['better']:.1%}, worse {said['worse']:.1%}"
        )
    for num_seeds in (3, 5, 10):
        held, _ = label_value_coverage(num_seeds, comparisons=count)
        few = label_value_coverage(num_seeds, comparisons=min(count, 300), resamples=499)[1]
        print(f"label value, {num_seeds} seeds: {held:.1%} hold it; a bootstrap over seeds {few:.1%} (of 300)")


if __name__ == "__main__":
    main()
