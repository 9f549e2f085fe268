"""What the statistics promise, on thousands of comparisons whose truth is known."""

import importlib.util
from pathlib import Path

import pytest

from ssl_transfer.evaluation.comparison import significance

SCRIPT = Path(__file__).parents[4] / "scripts/simulate_statistics.py"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulate_statistics", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def few_resamples(monkeypatch):
    """A tenth of the draws: the interval of one comparison moves a little, the share that holds does not."""
    monkeypatch.setattr(significance, "RESAMPLES", 999)


@pytest.mark.parametrize(("num_seeds", "num_test"), [(2, 10_000), (3, 450), (5, 450), (10, 450)])
def test_intervals_over_seeds_hold_the_truth(simulate, num_seeds, num_test):
    assert 0.93 <= simulate.seed_coverage(num_seeds, num_test=num_test) <= 0.97


def test_two_seeds_that_agree_by_chance_have_no_interval(simulate):
    """On 450 images some three pairs of a hundred do; they would be the ones to miss."""
    assert 0.95 <= simulate.seed_coverage(2, num_test=450) <= 0.99


@pytest.mark.parametrize("num_images", [100, 450])
def test_intervals_over_images_hold_what_given_models_are_worth(simulate, num_images, few_resamples):
    assert 0.93 <= simulate.image_coverage(num_images, 0.10, 0.06) <= 0.97


def test_intervals_over_images_are_too_narrow_where_few_images_differ(simulate, few_resamples):
    """Three of 100 images on average: a bootstrap cannot know what it has not seen."""
    assert 0.80 <= simulate.image_coverage(100, 0.02, 0.01) < 0.93


def test_intervals_over_images_do_not_hold_another_draw_of_labels(simulate, few_resamples):
    """Why the sentence claims nothing from one seed."""
    assert simulate.image_coverage_of_draws() < 0.93


@pytest.mark.parametrize(
    ("num_arms", "num_budgets", "num_seeds", "num_validation"), [(1, 3, 3, 50), (4, 3, 5, 50), (4, 3, 3, 10**6)]
)
def test_the_sentence_claims_nothing_of_equal_arms(simulate, num_arms, num_budgets, num_seeds, num_validation):
    """Also where validation knows exactly which model was lucky."""
    said = simulate.false_claims(num_arms, num_budgets, num_seeds, num_validation=num_validation)
    # 2,000 comparisons leave an error of half a point.
    assert said["better"] <= 0.055
    assert said["worse"] <= 0.055
    assert said["paid"] <= 0.055
    # Words that went by the plain intervals would break the promise, and words that never come keep it too well.
    assert said["plain"] > 0.055
    assert said["better"] > 0.0


def test_several_starts_make_no_false_gain(simulate):
    """Validation chooses the start that was lucky: a loss comes too often then, a gain more seldom."""
    said = simulate.false_claims(1, 1, 5, num_validation=10**6, num_starts=6)
    assert said["better"] < 0.03
    assert said["worse"] < 0.12


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_intervals_of_label_values_hold_the_truth(simulate, num_seeds):
    held, _ = simulate.label_value_coverage(num_seeds)
    assert 0.93 <= held <= 0.97
