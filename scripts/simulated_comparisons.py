"""Draw comparisons with known truth, and count the claims and intervals of the project's own analysis.

accuracy = expectation + label draw + own deviation + pretraining effect
- label draw: shared by all arms of a seed; half of its variance is shared by the budgets, which are nested. Deviation
  `SHARED`.
- own deviation: of one arm, budget and seed. Deviation `OWN`.
- pretraining effect: of one arm and pretraining, shared by its seeds. Deviation k `OWN`; correlation `BETWEEN_BUDGETS`
  between the budgets.

Test accuracy is rounded to steps of one image. Validation measures the same model on images of its own.
`simulate_statistics.py` prints the tables.

Shapes: C comparisons, A arms (starts first), B budgets, S seeds, P pretrainings, N test images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from ssl_transfer.evaluation.comparison.estimates import Estimate, estimate, paired_difference, unit_means
from ssl_transfer.evaluation.comparison.findings import Finding, findings
from ssl_transfer.evaluation.comparison.label_efficiency import equal_count
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.statistical_power import least_difference
from ssl_transfer.evaluation.comparison.variance_components import crossed_estimate
from ssl_transfer.evaluation.metric_properties import SHARE
from ssl_transfer.reports.comparison.break_even import Return, returns

SHARED, OWN, BETWEEN_BUDGETS, NUM_TEST = 0.03, 0.015, 0.7, 450
"""Deviations over label draws (the digits at five labels a class have less), a correlation, and test images."""
ACCURACY, WORTHWHILE = 0.8, 0.01
"""Expected accuracy of every start, and the least gain that matters."""
DIFFERENCE = (-1.0, 1.0)
"""Limits of a difference of two shares."""
EXACT = 10**6
"""Validation images with which validation measures the same accuracy as test, luck included."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison and the truth about it; every start has the same expected accuracy."""

    seeds: int = 5
    pretrainings: int = 5
    arms: int = 1
    """Pretrained arms."""
    starts: int = 1
    """scratch on so many backbones."""
    budgets: int = 1
    effect: float = 1.0
    """k: deviation of the pretraining effect, in units of the own deviation."""
    correlation: float = 0.0
    """Between pretrained arms: of their pretraining effects and of their own deviations."""
    gain: float = 0.0
    """True gain of every arm at every budget."""
    num_validation: int = 50

    @property
    def pretraining_of(self) -> np.ndarray:
        """(S,) pretraining of each seed."""
        return np.arange(self.seeds) % self.pretrainings

    @property
    def description(self) -> dict[str, Any]:
        """Return the part of `comparison.json` that the analysis needs."""
        return {
            "seeds": list(range(self.seeds)),
            "pretrainings": self.pretraining_of.tolist(),
            "worthwhile": 100.0 * WORTHWHILE,
        }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Simulated accuracies."""

    test: np.ndarray
    """(C, A, B, S)."""
    validation: np.ndarray
    """(C, A, B, S)."""
    network_effects: np.ndarray
    """(C, arms, B) effect of the one pretraining; zeros with several, whose expectation is 0."""


def draw(design: Design, comparisons: int, *, means: np.ndarray | None = None, seed: int = 0) -> Drawn:
    """Draw the accuracies of many comparisons.

    Args:
        design: of each comparison.
        comparisons: C.
        means: (A, B) expectations; None gives those of the design.
        seed: of the generator.
    """
    rng = np.random.default_rng([seed, design.seeds, design.pretrainings, design.arms, design.budgets, design.starts])
    if means is None:
        means = np.full((design.starts + design.arms, design.budgets), ACCURACY)
        means[design.starts :] += design.gain
    budgets, shape = means.shape[1], (comparisons, len(means), means.shape[1], design.seeds)
    label_draw = rng.normal(size=(comparisons, 1, 1, design.seeds)) + rng.normal(
        size=(comparisons, 1, budgets, design.seeds)
    )
    own, effects = rng.normal(size=shape), rng.normal(size=(comparisons, design.arms, budgets, design.pretrainings))
    effects = _correlated(effects, rng.normal(size=(comparisons, design.arms, 1, design.pretrainings)), BETWEEN_BUDGETS)
    if design.correlation:
        common = rng.normal(size=(comparisons, 1, 1, design.pretrainings))
        effects = _correlated(effects, common, design.correlation)
        common = rng.normal(size=(comparisons, 1, budgets, design.seeds))
        own[:, design.starts :] = _correlated(own[:, design.starts :], common, design.correlation)
    effects = design.effect * OWN * effects
    found = means[:, :, None] + SHARED * label_draw / math.sqrt(2.0) + OWN * own
    found[:, design.starts :] += effects[..., design.pretraining_of]
    found = found.clip(0.0, 1.0)
    return Drawn(
        test=np.round(found * NUM_TEST) / NUM_TEST,
        validation=rng.binomial(design.num_validation, found) / design.num_validation,
        network_effects=effects[..., 0] if design.pretrainings == 1 else np.zeros(effects.shape[:-1]),
    )


def _correlated(own: np.ndarray, common: np.ndarray, correlation: float) -> np.ndarray:
    return math.sqrt(1.0 - correlation) * own + math.sqrt(correlation) * common


def rows_of(splits: Sequence[tuple[str, str, np.ndarray]], starts: int = 1) -> list[Row]:
    """Return lines of `results.csv`.

    Args:
        splits: (split, metric, (A, B, S) values).
        starts: scratch, each on a backbone of its own; the other arms are methods on the first backbone.
    """
    num_arms = splits[0][2].shape[0]
    places = [("scratch", f"net{arm}") if arm < starts else (f"method{arm}", "net0") for arm in range(num_arms)]
    return [
        Row(
            arm=places[arm][0],
            backbone=places[arm][1],
            labels=str(5 * 4**budget),
            seed=seed,
            phase="chosen",
            split=split,
            metric=metric,
            value=value,
        )
        for split, metric, values in splits
        for arm, by_budget in enumerate(values.tolist())
        for budget, by_seed in enumerate(by_budget)
        for seed, value in enumerate(by_seed)
    ]


@dataclass(kw_only=True)
class Rates:
    """Shares of comparisons with a claim, and of intervals that contain the truth.

    The truth is the true gain; with one pretraining it is the gain of that network. An unknown interval contains it.
    """

    better: float = 0.0
    """At least one `better`."""
    worse: float = 0.0
    """At least one `worse`."""
    false_better: float = 0.0
    """At least one `better` whose true gain is 0 or less."""
    false_worse: float = 0.0
    """At least one `worse` whose true gain is 0 or more."""
    no: float = 0.0
    """The answer is no at every budget."""
    false_no: float = 0.0
    """The answer is no at every budget, and an arm gains what matters."""
    false_no_somewhere: float = 0.0
    """The answer is no at one budget or more, where an arm gains what matters."""
    false_cost: float = 0.0
    """A false gain or a false loss in the table of costs."""
    coverage: float = 0.0
    old_better: float = 0.0
    """At least one `better` by t over seeds, whatever the number of pretrainings; one start."""
    old_worse: float = 0.0
    old_coverage: float = 0.0
    """Of the gain expected of the method."""


def rates(design: Design, comparisons: int, *, with_costs: bool = False) -> Rates:
    """Simulate a design and count claims."""
    drawn, counted = draw(design, comparisons), Rates()
    truths = design.gain + drawn.network_effects
    for test, validation, truth in zip(drawn.test, drawn.validation, truths, strict=True):
        splits = [("test", "accuracy", test), ("validation", "accuracy", validation)]
        if with_costs:
            times = [("pretrain_seconds", 60.0), ("transfer_seconds", 4.0)]
            splits += [("train", metric, np.full_like(test, seconds)) for metric, seconds in times]
        results = Results(rows_of(splits, design.starts), curves=[], description=design.description)
        found = findings(results)
        true_gains = {
            (f"method{design.starts + arm}", str(5 * 4**budget)): gain for (arm, budget), gain in np.ndenumerate(truth)
        }
        _count(counted, found, [true_gains[item.arm, item.labels] for item in found])
        if with_costs:
            counted.false_cost += any(_is_false(one, true_gains[one.arm, one.labels]) for one in returns(results))
        if design.starts == design.arms == design.budgets == 1:
            old = estimate(test[1, 0] - test[0, 0], within=DIFFERENCE)
            counted.old_better += old.p_value <= 0.05 and old.mean > 0.0
            counted.old_worse += old.p_value <= 0.05 and old.mean < 0.0
            counted.old_coverage += _holds(old, design.gain)
    return Rates(**{name: value / comparisons for name, value in vars(counted).items()})


def _count(counted: Rates, found: Sequence[Finding], true_gains: Sequence[float]) -> None:
    outcomes = [item.outcome for item in found]
    pairs = list(zip(outcomes, true_gains, strict=True))
    counted.better += "better" in outcomes
    counted.worse += "worse" in outcomes
    counted.false_better += any(outcome == "better" and gain <= 0.0 for outcome, gain in pairs)
    counted.false_worse += any(outcome == "worse" and gain >= 0.0 for outcome, gain in pairs)
    counted.coverage += float(
        np.mean(
            [item.difference.low <= gain <= item.difference.high for item, gain in zip(found, true_gains, strict=True)]
        )
    )
    wrong = []
    for labels in dict.fromkeys(item.labels for item in found):
        own = [pair for item, pair in zip(found, pairs, strict=True) if item.labels == labels]
        is_no = all(outcome in ("worse", "small") for outcome, _ in own)
        wrong.append((is_no, is_no and any(gain >= WORTHWHILE for _, gain in own)))
    is_no_everywhere = all(is_no for is_no, _ in wrong)
    counted.no += is_no_everywhere
    counted.false_no += is_no_everywhere and any(is_wrong for _, is_wrong in wrong)
    counted.false_no_somewhere += any(is_wrong for _, is_wrong in wrong)


def _is_false(cost: Return, gain: float) -> bool:
    return (cost.outcome == "gain" and gain <= 0.0) or (cost.outcome == "loss" and gain >= 0.0)


def least_differences(design: Design, comparisons: int) -> tuple[float, float]:
    """Return the least difference that four of five comparisons show, and the median that they estimate themselves."""
    test = draw(design, comparisons).test[:, :, 0]
    units = unit_means((test[:, 1] - test[:, 0]).T, design.pretraining_of.tolist())
    variances, least = units.var(axis=0, ddof=1), least_difference(1.0, len(units))
    return least * float(np.sqrt(variances.mean())), least * float(np.median(np.sqrt(variances)))


def pooled_rates(
    design: Design, comparisons: int, *, wide: float, pooled: bool, gain: float
) -> tuple[float, float, float]:
    """Simulate a rule that was not taken: pool the variance of the units over the arms, with their degrees of freedom.

    Args:
        design: four arms or so at one budget, one start.
        comparisons: C.
        wide: deviation of the first arm's pretraining effect, in units of that of the others.
        pooled: False takes the variance of each arm by itself, as `findings` does.
        gain: of all arms, for the power.

    Returns:
        Share of comparisons with a false claim; coverage of the first arm's interval; share of arms whose `gain` is
        found. P values are corrected by the number of arms.
    """
    plain = draw(replace(design, effect=0.0), comparisons).test[:, :, 0]
    rng = np.random.default_rng(1)
    effects = design.effect * OWN * rng.normal(size=(comparisons, design.arms, design.pretrainings))
    effects[:, 0] *= wide
    differences = plain[:, 1:] - plain[:, :1] + effects[..., design.pretraining_of]
    units = unit_means(np.moveaxis(differences, 2, 0), design.pretraining_of.tolist())
    mean, variance, freedom = units.mean(axis=0), units.var(axis=0, ddof=1), len(units) - 1
    if pooled:
        variance, freedom = variance.mean(axis=1, keepdims=True), freedom * design.arms
    error = np.sqrt(variance / len(units))
    critical = [float(special.stdtrit(freedom, 1.0 - 0.025 / family)) for family in (1, design.arms)]
    claimed = np.abs(mean) > critical[1] * error
    held = np.abs(mean[:, 0]) <= np.broadcast_to(critical[0] * error, mean.shape)[:, 0]
    found = mean + gain > critical[1] * error
    return float(claimed.any(axis=1).mean()), float(held.mean()), float(found.mean())


def crossed_coverage(design: Design, comparisons: int) -> tuple[float, float, float]:
    """Simulate correct test images, and cover the gain over all images.

    Image i is correct where mean + difficulty_i + (arm, image) + label draw + own deviation + pretraining effect +
    (pretraining, image) + noise > 0, all normal: the expected accuracy is Phi(mean / deviation of the sum).

    Returns:
        Coverage of the interval over runs and test images; of the interval over runs alone; median ratio of their
        lengths.
    """
    rng, scale = np.random.default_rng([7, design.seeds, design.pretrainings]), 0.28 / 1.53
    # One point of accuracy is 0.01 / scale here: 0.28 is the normal density at accuracy 0.8, 1.53 the deviation.
    shared, own, effect = SHARED / scale, OWN / scale, design.effect * OWN / scale
    of_arm, of_pretraining = 0.5, 0.3 * min(1.0, design.effect)
    plain = 1.0 + of_arm**2 + shared**2 + own**2 + 1.0
    variances = [plain, plain + effect**2 + of_pretraining**2]
    means = [
        math.sqrt(variance) * float(special.ndtri(accuracy))
        for variance, accuracy in zip(variances, (ACCURACY, ACCURACY + 0.04), strict=True)
    ]
    held, ratios = np.zeros(2), []
    for _ in range(comparisons):
        difficulty, draws = rng.normal(size=NUM_TEST), shared * rng.normal(size=(design.seeds, 1))
        effects = effect * rng.normal(size=(design.pretrainings, 1))
        on_images = effects + of_pretraining * rng.normal(size=(design.pretrainings, NUM_TEST))
        hits = []
        for mean, added in zip(means, (0.0, on_images[design.pretraining_of]), strict=True):
            luck = own * rng.normal(size=(design.seeds, 1)) + rng.normal(size=(design.seeds, NUM_TEST))
            hits.append(mean + difficulty + of_arm * rng.normal(size=NUM_TEST) + draws + luck + added > 0.0)
        ours = special.ndtr(means[1] / math.sqrt(variances[1]))
        if design.pretrainings == 1:
            ours = special.ndtr((means[1] + effects[0, 0]) / math.sqrt(variances[1] - effect**2))
        truth, differences = float(ours) - ACCURACY, hits[1].astype(np.int8) - hits[0]
        groups = design.pretraining_of.tolist()
        crossed = crossed_estimate(differences, within=DIFFERENCE, pretrainings=groups)
        runs = estimate(differences.mean(axis=1), within=DIFFERENCE, pretrainings=groups)
        if crossed is None:
            raise ValueError(f"{differences.shape} differences without any variance: raise OWN or NUM_TEST.")
        held += [_holds(one, truth) for one in (crossed, runs)]
        ratios.append((crossed.high - crossed.low) / (runs.high - runs.low))
    return float(held[0] / comparisons), float(held[1] / comparisons), float(np.median(ratios))


def image_coverage(num_images: int, only_ours: float, only_theirs: float, comparisons: int) -> float:
    """Cover the difference of two given models with the interval over test images of one seed.

    Args:
        num_images: N.
        only_ours: probability that an image is correct for ours alone.
        only_theirs: for theirs alone.
        comparisons: C.
    """
    rng, held = np.random.default_rng(num_images), []
    for _ in range(comparisons):
        kind = rng.choice(3, p=[only_ours, only_theirs, 1.0 - only_ours - only_theirs], size=num_images)
        ours, theirs = (kind != 1).astype(np.uint8), (kind != 0).astype(np.uint8)
        found = paired_difference({0: ours.mean()}, {0: theirs.mean()}, {0: ours}, {0: theirs}, within=SHARE)
        held.append(_holds(found, only_ours - only_theirs))
    return float(np.mean(held))


def image_coverage_of_draws(comparisons: int) -> float:
    """Cover the gain expected over label draws with the interval over test images of one seed, made for another aim."""
    rng, held = np.random.default_rng(0), []
    one = Design(seeds=1, pretrainings=1, effect=0.0, gain=0.04)
    for theirs, ours in draw(one, comparisons).test[:, :, 0, 0]:
        hits = [(rng.random(NUM_TEST) < share).astype(np.uint8) for share in (ours, theirs)]
        by_one = {0: hits[0].mean()}, {0: hits[1].mean()}
        held.append(_holds(paired_difference(*by_one, {0: hits[0]}, {0: hits[1]}, within=SHARE), 0.04))
    return float(np.mean(held))


def _holds(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def label_value_coverage(design: Design, comparisons: int, *, resamples: int = 0) -> tuple[float, float]:
    """Cover the label count at which scratch equals an arm: 20 labels worth 45, budgets 5, 20, 80 and 320.

    Args:
        design: one arm and one start; with one pretraining the truth is that of the network.
        comparisons: C.
        resamples: bootstrap draws of the units, which the project does not use; 0 skips them.

    Returns:
        Coverage of the interval, and of the bootstrap's percentiles (nan without).
    """
    counts, truth = np.array([5.0, 20.0, 80.0, 320.0]), 45.0
    theirs_mean = np.array([0.70, 0.80, 0.88, 0.92])
    ours_mean = float(np.interp(np.log(truth), np.log(counts), theirs_mean))
    means = np.array([theirs_mean, [0.0, ours_mean, 0.0, 0.0]])
    rng, held, resampled = np.random.default_rng(0), 0, 0
    drawn = draw(design, comparisons, means=means)
    for (theirs, ours), effect in zip(drawn.test, drawn.network_effects[:, 0, 1], strict=True):
        if design.pretrainings == 1:
            reached = ours_mean + effect
            truth = float(np.exp(np.interp(reached, theirs_mean, np.log(counts))))
            truth = math.inf if reached > theirs_mean[-1] else -math.inf if reached < theirs_mean[0] else truth
        columns = unit_means(np.column_stack([ours[1], theirs.T]), design.pretraining_of.tolist())
        _, low, high = equal_count(columns[:, 0], columns[:, 1:], counts)
        held += low <= truth <= high
        if resamples:
            picks = rng.integers(len(columns), size=(resamples, len(columns)))
            again = [columns[pick].mean(axis=0) for pick in picks]
            values = [equal_count(one[:1], one[None, 1:], counts)[0] for one in again]
            low, high = np.quantile(values, [0.025, 0.975], method="nearest")
            resampled += low <= truth <= high
    return held / comparisons, resampled / comparisons if resamples else math.nan
