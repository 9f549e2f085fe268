"""Hold the promises of the statistics on thousands of comparisons whose truth is known."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from ssl_transfer.evaluation.comparison import significance
from ssl_transfer.evaluation.comparison.findings import findings
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.comparison.verdict import sentences

SCRIPT = Path(__file__).parents[4] / "scripts/simulated_comparisons.py"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulated_comparisons", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def few_resamples(monkeypatch):
    """Draw a tenth: the interval of one comparison moves a little, the coverage does not."""
    monkeypatch.setattr(significance, "RESAMPLES", 999)


def most(share: float, comparisons: int) -> float:
    """The share that is exceeded by chance once in a thousand times."""
    return share + 3.1 * math.sqrt(share * (1.0 - share) / comparisons)


@pytest.mark.parametrize(("seeds", "pretrainings", "effect"), [(3, 3, 1.0), (5, 5, 2.0), (5, 2, 1.0), (10, 5, 1.0)])
def test_one_pretraining_is_not_counted_as_many(simulate, seeds, pretrainings, effect):
    """Balanced or not: one in forty is claimed better by chance, one in forty worse."""
    found = simulate.rates(simulate.Design(seeds=seeds, pretrainings=pretrainings, effect=effect), 500)
    assert found.better == found.false_better <= most(0.025, 500)
    assert found.worse == found.false_worse <= most(0.025, 500)
    assert found.better > 0.005
    assert 0.93 <= found.coverage <= 0.97


@pytest.mark.parametrize(("seeds", "effect"), [(3, 1.0), (5, 2.0)])
def test_one_pretraining_supports_a_claim_about_its_network(simulate, seeds, effect):
    found = simulate.rates(simulate.Design(seeds=seeds, pretrainings=1, effect=effect), 500)
    assert found.false_better + found.false_worse <= most(0.05, 500)
    assert 0.93 <= found.coverage <= 0.97
    # About the method the same claims would be false too often, and the interval too short.
    assert found.better + found.worse > 0.09
    assert found.old_coverage < 0.91


def test_a_family_of_arms_and_budgets_claims_nothing_of_equal_arms(simulate):
    """Also where validation knows exactly which model was lucky."""
    found = simulate.rates(simulate.Design(arms=3, budgets=2, num_validation=simulate.EXACT), 200)
    assert found.false_better + found.false_worse <= most(0.05, 200)


def test_several_starts_make_no_false_claim(simulate):
    """Validation prefers the start that was lucky."""
    found = simulate.rates(simulate.Design(starts=6, num_validation=simulate.EXACT), 200)
    assert found.false_better + found.false_worse <= most(0.05, 200)


@pytest.mark.parametrize(("starts", "budgets"), [(1, 3), (6, 2)])
def test_a_gain_that_matters_is_seldom_denied(simulate, starts, budgets):
    """The arm gains exactly what matters, over starts of which validation prefers the luckiest."""
    design = simulate.Design(
        gain=simulate.WORTHWHILE, starts=starts, budgets=budgets, num_validation=simulate.EXACT, effect=0.5
    )
    found = simulate.rates(design, 200)
    assert found.false_no_somewhere <= most(0.05, 200)


def test_the_verdict_denies_what_the_simulation_counts(simulate):
    """The simulation reads its answer from the findings: it is the headline of the verdict."""
    design = simulate.Design(effect=0.0, seeds=10, pretrainings=10, gain=0.002)
    drawn, denied = simulate.draw(design, 30), 0
    for test, validation in zip(drawn.test, drawn.validation, strict=True):
        rows = simulate.rows_of([("test", "accuracy", test), ("validation", "accuracy", validation)])
        results = Results(rows, description=design.description)
        is_no = all(item.outcome in ("worse", "small") for item in findings(results))
        assert sentences(results)[0].startswith("No") == is_no
        denied += is_no
    assert 0 < denied < 30


@pytest.mark.parametrize(("seeds", "pretrainings", "effect"), [(3, 3, 4.0), (5, 1, 1.0)])
def test_crossed_intervals_cover_the_gain_over_all_images(simulate, seeds, pretrainings, effect):
    design = simulate.Design(seeds=seeds, pretrainings=pretrainings, effect=effect)
    crossed, _, _ = simulate.crossed_coverage(design, 600)
    assert 0.93 <= crossed <= 0.98


@pytest.mark.parametrize(("seeds", "pretrainings"), [(3, 3), (5, 5), (5, 1)])
def test_intervals_of_label_values_contain_the_truth(simulate, seeds, pretrainings):
    held, _ = simulate.label_value_coverage(simulate.Design(seeds=seeds, pretrainings=pretrainings), 600)
    assert 0.93 <= held <= 0.98


@pytest.mark.parametrize("num_images", [100, 450])
def test_intervals_over_images_contain_the_difference_of_given_models(simulate, num_images, few_resamples):
    assert 0.93 <= simulate.image_coverage(num_images, 0.10, 0.06, 600) <= 0.97


def test_intervals_over_images_are_too_short_where_few_images_differ(simulate, few_resamples):
    """Three of 100 images on average: a bootstrap draws only what it has seen."""
    assert 0.80 <= simulate.image_coverage(100, 0.02, 0.01, 600) < 0.93


def test_intervals_over_images_do_not_cover_another_draw_of_labels(simulate, few_resamples):
    """Show the low coverage that rules out claims from one seed."""
    assert simulate.image_coverage_of_draws(600) < 0.93


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("seeds", "pretrainings"), [(3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3), (5, 5), (10, 2), (10, 3), (20, 5)]
)
def test_claims_and_coverage_of_every_design(simulate, seeds, pretrainings, effect):
    found = simulate.rates(simulate.Design(seeds=seeds, pretrainings=pretrainings, effect=effect), 2000)
    assert found.false_better <= most(0.025, 2000)
    assert found.false_worse <= most(0.025, 2000)
    assert 0.93 <= found.coverage <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.7])
@pytest.mark.parametrize(("arms", "budgets"), [(2, 1), (8, 1), (4, 3), (8, 3)])
def test_families_of_arms_and_budgets(simulate, arms, budgets, correlation):
    design = simulate.Design(arms=arms, budgets=budgets, correlation=correlation)
    # A family of 24 takes 40 ms a comparison.
    comparisons = 1000 if arms * budgets < 24 else 400
    found = simulate.rates(design, comparisons, with_costs=True)
    assert found.false_better + found.false_worse <= most(0.05, comparisons)
    assert found.false_cost <= most(0.05, comparisons)
    assert 0.93 <= found.coverage <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("starts", "budgets", "arms"), [(1, 3, 1), (6, 3, 1), (6, 1, 4), (3, 3, 4)])
def test_denied_gains_of_every_family(simulate, starts, budgets, arms):
    design = simulate.Design(
        gain=simulate.WORTHWHILE, starts=starts, budgets=budgets, arms=arms, num_validation=simulate.EXACT
    )
    assert simulate.rates(design, 1000).false_no_somewhere <= most(0.05, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("seeds", "pretrainings"), [(3, 1), (5, 1), (5, 2), (3, 3), (5, 3), (5, 5), (10, 5)])
def test_crossed_coverage_of_every_design(simulate, seeds, pretrainings, effect):
    design = simulate.Design(seeds=seeds, pretrainings=pretrainings, effect=effect)
    # Two units and no effect of the pretraining: too long, as long as the interval over runs.
    assert 0.93 <= simulate.crossed_coverage(design, 3000)[0] <= 0.99
