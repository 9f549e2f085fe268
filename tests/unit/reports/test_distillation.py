"""The distillation demo's table and sentence, from rows made by hand; the speed of a model."""

import pytest
import torch

from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.features.throughput import images_per_second
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.reports import distillation as page

ARMS = ("alone", "taught", "worse", "teacher")
ACCURACIES = {
    "alone": (0.80, 0.84, 0.82),
    "taught": (0.90, 0.93, 0.92),
    "worse": (0.70, 0.75, 0.72),
    "teacher": (0.95, 0.95, 0.96),
}


@pytest.fixture
def rows() -> list[Row]:
    found = []
    for arm, values in ACCURACIES.items():
        key = {"arm": arm, "backbone": "net", "labels": "5", "phase": "chosen"}
        for seed, value in enumerate(values):
            found.append(Row(**key, seed=seed, split="test", metric="accuracy", value=value))
            found.append(Row(**key, seed=seed, split="validation", metric="accuracy", value=0.0))
            size = 4000.0 if arm == "teacher" else 400.0
            found.append(Row(**key, seed=seed, split="train", metric="num_parameters", value=size))
    return found


def test_differences_are_paired_by_seed(rows: list[Row]) -> None:
    lines = page.lines_of(Results(rows), {"student": 300.0, "teacher": 100.0}, ARMS)
    assert [line.arm for line in lines] == list(ARMS)
    assert [line.num_parameters for line in lines] == [400, 400, 400, 4000]
    assert [line.images_per_second for line in lines] == [300.0, 300.0, 300.0, 100.0]
    assert lines[0].difference is None
    taught = lines[1].difference
    assert taught is not None
    assert taught.mean == pytest.approx((0.10 + 0.09 + 0.10) / 3)
    # Of 0.10, 0.09, 0.10: Student's t with two degrees of freedom.
    assert taught.high - taught.mean == pytest.approx(4.302653 * 0.0057735 / 3**0.5, rel=1e-4)


def test_the_sentence_says_what_the_intervals_say(rows: list[Row]) -> None:
    speeds = {"student": 300.0, "teacher": 100.0}
    sentence = page._sentence(page.lines_of(Results(rows), speeds, ARMS))
    assert "taught, yes (+9.7 [+8.2, +11.1] points)" in sentence
    assert "worse, it loses (-9.7" in sentence
    one_seed = page._sentence(page.lines_of(Results([row for row in rows if row.seed == 0]), speeds, ARMS))
    assert "taught, not known" in one_seed
    noisy = [row if row.arm != "taught" else Row(**{**vars(row), "value": 0.7 + 0.15 * row.seed}) for row in rows]
    assert "taught, not told apart" in page._sentence(page.lines_of(Results(noisy), speeds, ARMS))


def test_speed_is_that_of_a_forward(make_backbone, monkeypatch) -> None:
    monkeypatch.setattr("ssl_transfer.evaluation.features.throughput.SECONDS", 0.1)
    backbone, threads = make_backbone(), torch.get_num_threads()
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = images_per_second(backbone, make_head(HeadConfig(), backbone, 3), torch.device("cpu"))
    assert 100 < found < 1e8
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
