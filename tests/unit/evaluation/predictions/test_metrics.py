"""Metrics of predictions, against scikit-learn, torchmetrics, and the equations written out."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.predictions import metrics


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (200, 7) that are right more often than not, and their labels; class 4 is absent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 5, 6])[torch.randint(0, 6, (200,), generator=generator)]
    logits = 2.0 * torch.randn(200, 7, generator=generator)
    logits[torch.arange(200), labels] += 2.0
    return logits, labels


def naive_calibration_error(logits: torch.Tensor, labels: torch.Tensor, num_bins: int) -> float:
    """Guo et al. 2017, eq. 3, image by image."""
    total = 0.0
    sure, guess = torch.softmax(logits.double(), dim=1).max(dim=1)
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = [i for i in range(len(labels)) if low < float(sure[i]) <= high]
        if inside:
            accuracy = sum(float(guess[i] == labels[i]) for i in inside) / len(inside)
            confidence = sum(float(sure[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


def test_averages_over_the_classes_that_are_present(drawn):
    logits, labels = drawn
    predicted = logits.argmax(dim=1)
    assert bool((predicted == 4).any())
    found = metrics.classification(logits, labels)
    _, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=0)
    others = [0, 1, 2, 3, 5, 6]
    assert found["balanced_accuracy"] == recall[others].mean()
    assert found["macro_f1"] == f1[others].mean()
    assert found["balanced_accuracy"] > recall.mean()
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["log_loss"] == pytest.approx(
        reference.log_loss(labels, torch.softmax(logits.double(), dim=1), labels=range(7))
    )
    assert found["top_5_accuracy"] == pytest.approx(
        reference.top_k_accuracy_score(labels, logits, k=5, labels=range(7))
    )


def test_calibration_error_is_the_equation(drawn):
    assert metrics.calibration_error(*drawn) == pytest.approx(naive_calibration_error(*drawn, 15), abs=1e-12)
    assert metrics.calibration_error(*drawn, num_bins=4) == pytest.approx(naive_calibration_error(*drawn, 4), abs=1e-12)
    assert metrics.calibration_error(*drawn) > 0.02


def test_calibration_error_is_that_of_torchmetrics(drawn):
    logits, labels = drawn
    expected = multiclass_calibration_error(torch.softmax(logits, dim=1), labels, num_classes=7, n_bins=15)
    assert metrics.calibration_error(logits, labels) == pytest.approx(float(expected), abs=1e-5)


def test_calibration_error_of_a_hand_made_case():
    # Three times 80 % sure and twice right; once 60 % sure and wrong.
    logits = torch.tensor([[0.8, 0.2]] * 3 + [[0.6, 0.4]]).log()
    labels = torch.tensor([0, 0, 1, 1])
    assert metrics.calibration_error(logits, labels) == pytest.approx(3 / 4 * (0.8 - 2 / 3) + 1 / 4 * 0.6, abs=1e-6)
    # Certain and right: the last bin holds its upper edge.
    assert metrics.calibration_error(torch.tensor([[1e4, 0.0]]), torch.tensor([0])) == 0.0


def test_one_logit_is_two_classes():
    logits, labels = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 0, 0])
    found = metrics.classification(logits, labels)
    assert found == metrics.classification(torch.cat([torch.zeros(3, 1), logits], dim=1), labels)
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(0.5))]
    assert found["log_loss"] == pytest.approx(sum(by_hand) / 3, abs=1e-7)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert "top_5_accuracy" not in found


def test_top_5_needs_more_than_five_classes(drawn):
    logits, labels = drawn
    few = labels < 4
    assert "top_5_accuracy" not in metrics.classification(logits[few][:, :5], labels[few])
    assert "top_5_accuracy" in metrics.classification(logits, labels)


def test_no_images_are_refused():
    with pytest.raises(InputError, match="no labelled images"):
        metrics.classification(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))


def test_confusion_and_report(drawn):
    logits, labels = drawn
    predicted = logits.argmax(dim=1)
    matrix = metrics.confusion(logits, labels)
    expected = np.zeros((7, 7), dtype=int)
    for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        expected[label, guess] += 1
    assert np.array_equal(matrix, expected)
    rows = metrics.per_class_report(logits, labels, "abcdefg")
    assert [row["class"] for row in rows] == list("abcdefg")
    assert [row["support"] for row in rows] == torch.bincount(labels, minlength=7).tolist()
    known = reference.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=np.nan)
    for place, name in enumerate(("precision", "recall")):
        assert np.allclose([row[name] for row in rows], known[place], equal_nan=True)
    f1 = np.array([row["f1"] for row in rows])
    assert math.isnan(f1[4])
    assert np.allclose(np.delete(f1, 4), np.delete(known[2], 4))


def test_bins_hold_their_upper_edge():
    # 50 % sure (exactly) twice, 80 % once.
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [4.0, 1.0]]).double()
    logits[2] = logits[2].log()
    counts, accuracy, confidence = metrics.confidence_bins(logits, torch.tensor([0, 1, 0]), num_bins=4)
    assert counts.tolist() == [0.0, 2.0, 0.0, 1.0]
    assert np.allclose(accuracy, [np.nan, 0.5, np.nan, 1.0], equal_nan=True)
    assert np.allclose(confidence, [np.nan, 0.5, np.nan, 0.8], equal_nan=True)
