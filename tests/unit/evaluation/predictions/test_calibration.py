"""Temperature scaling: the optimum against a grid, and what it must survive."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_transfer.evaluation.predictions.calibration import LEAST, MOST, Temperature, fit_temperature, scaled
from ssl_transfer.evaluation.predictions.metrics import calibration_error


def honest(count: int, num_classes: int = 4, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is the truth: labels are drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, num_classes, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    return logits, labels


def test_the_temperature_is_where_the_loss_is_least():
    logits, labels = honest(400)
    logits = 3.0 * logits
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.5), np.log(10.0), 4000))
    losses = [float(F.cross_entropy(logits.double() / value, labels)) for value in grid]
    assert found.value == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    # Labels were drawn at a third of these logits, so 3 is the truth.
    assert found.value == pytest.approx(3.0, rel=0.15)
    assert found.note == ""


def test_the_temperature_follows_the_scale():
    logits, labels = honest(200)
    assert fit_temperature(5.0 * logits, labels).value == pytest.approx(
        5.0 * fit_temperature(logits, labels).value, rel=1e-5
    )


def test_scaling_helps_other_images_and_changes_no_prediction():
    temperature = fit_temperature(*(lambda pair: (3.0 * pair[0], pair[1]))(honest(1000)))
    logits, labels = honest(1000, seed=1)
    found = scaled(3.0 * logits, labels, temperature)
    assert found["log_loss_scaled"] < float(F.cross_entropy(3.0 * logits, labels)) - 0.1
    assert found["calibration_error_scaled"] < calibration_error(3.0 * logits, labels) - 0.05
    assert found["temperature"] == temperature.value
    untouched = scaled(logits, labels, Temperature(value=1.0))
    assert untouched["log_loss_scaled"] == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
    assert untouched["calibration_error_scaled"] == calibration_error(logits, labels)


def test_separated_images_stop_at_the_bound_with_a_warning():
    labels = torch.arange(100) % 3
    found = fit_temperature(4.0 * F.one_hot(labels).float(), labels)
    assert found.value == LEAST
    assert "warning" in found.note
    assert "too well" in found.note


def test_worse_than_chance_stops_at_the_other_bound():
    labels = torch.arange(100) % 3
    found = fit_temperature(4.0 * F.one_hot((labels + 1) % 3).float(), labels)
    assert found.value == MOST
    assert "no better than by chance" in found.note


@pytest.mark.parametrize("logits", [torch.zeros(60, 3), torch.zeros(60, 1)])
def test_logits_that_say_nothing_stay_as_they_are(logits):
    assert fit_temperature(logits, torch.arange(60) % 2) == Temperature(value=1.0)


def test_tiny_validation_sets():
    none = fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert none.value == 1.0
    assert "no validation images" in none.note
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    few = fit_temperature(logits, labels)
    # Two right and one wrong by a margin of 1: the best confidence is 2/3, whose logit is log 2.
    assert few.value == pytest.approx(1.0 / np.log(2.0), rel=1e-4)
    assert "3 validation images only" in few.note


def test_one_logit_has_the_temperature_of_two():
    logits, labels = honest(300, 2)
    single = (logits[:, 1:] - logits[:, :1]).double()
    assert fit_temperature(single, labels).value == pytest.approx(fit_temperature(logits, labels).value, rel=1e-5)
