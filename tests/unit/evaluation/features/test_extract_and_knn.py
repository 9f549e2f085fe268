import math

import pytest
import torch

from ssl_transfer.evaluation.features.extract import extract, over_images
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.predictions.metrics import classification

NEIGHBOURS = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.2, 0.9]])
LABELS = torch.tensor([0, 0, 1, 1, 1])


def test_knn_of_a_hand_made_case():
    queries = torch.tensor([[2.0, 0.1], [0.1, 5.0], [1.0, 0.2]])
    assert knn_accuracy(NEIGHBOURS, LABELS, queries, torch.tensor([0, 1, 0]), k=1) == 1.0
    assert knn_accuracy(NEIGHBOURS, LABELS, queries, torch.tensor([1, 1, 0]), k=1) == pytest.approx(2 / 3)


def test_knn_takes_at_most_as_many_neighbours_as_there_are():
    queries = torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(NEIGHBOURS, LABELS, queries, torch.tensor([0]), k=20) == 1.0


def test_near_neighbours_weigh_more_than_many():
    # Three neighbours of class 1 against two of class 0: the two are so much nearer that they win.
    queries, labels = torch.tensor([[1.0, 0.05]]), torch.tensor([0])
    assert knn_accuracy(NEIGHBOURS, LABELS, queries, labels, k=5, temperature=0.07) == 1.0
    assert knn_accuracy(NEIGHBOURS, LABELS, queries, labels, k=5, temperature=1e6) == 0.0


def test_classification_of_a_hand_made_case():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    found = classification(logits, torch.tensor([0, 0, 1, 1]))
    by_hand = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-1)), 3 + math.log(1 + math.exp(-3))]
    assert found["accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx(sum(by_hand) / 4)


def test_extraction_leaves_the_backbone_as_it_was(make_backbone, make_dataset, runtime):
    backbone, data = make_backbone(), make_dataset()
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features = extract(backbone, data, data.splits["train"], runtime)
    assert features.shape == (24, 16)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert backbone.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    expected = backbone.eval()(data.pixels[data.splits["train"]] / 255.0)
    assert torch.allclose(features, expected, atol=1e-5)


def test_images_come_back_in_the_order_asked_for(make_dataset, runtime, monkeypatch):
    monkeypatch.setattr("ssl_transfer.evaluation.features.extract.BATCH_SIZE", 4)
    data = make_dataset()
    indices = torch.tensor([30, 3, 17, 4, 5, 9, 1])
    found = over_images(lambda images: images[:, 0, 0, 0], data, indices, runtime, "reading")
    assert torch.equal(found, data.pixels[indices, 0, 0, 0] / 255.0)
