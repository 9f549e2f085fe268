import math

import pytest

from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.reports.comparison import break_even

COSTS = {"scratch": (0.0, 4.0), "simclr": (60.0, 5.0)}
ACCURACIES = {
    ("scratch", "5"): [0.50, 0.52, 0.54],
    ("simclr", "5"): [0.69, 0.72, 0.75],
    ("scratch", "20"): [0.80, 0.82, 0.84],
    ("simclr", "20"): [0.81, 0.80, 0.86],
    ("scratch", "all"): [0.90, 0.92, 0.94],
    ("simclr", "all"): [0.79, 0.82, 0.85],
}


def rows_of(accuracies) -> list[Row]:
    rows = []
    for (arm, labels), values in accuracies.items():
        for seed, value in enumerate(values):
            key = {"arm": arm, "backbone": "net", "labels": labels, "seed": seed, "phase": "chosen"}
            rows.append(Row(**key, split="test", metric="accuracy", value=value))
            for metric, cost in zip(("pretrain_seconds", "transfer_seconds"), COSTS[arm], strict=True):
                rows.append(Row(**key, split="train", metric=metric, value=cost))
    return rows


CURVES = [
    {"arm": "scratch", "backbone": "net", "labels": labels, "seed": "0", "phase": "full", "epoch": step, "step": step}
    | {"split": "validation", "metric": "accuracy", "value": 0.1 * step}
    for labels in ("5", "20", "all")
    for step in (1, 2, 3, 4)
]


def test_seconds_a_point():
    gain, noise, loss = break_even.returns(Results(rows_of(ACCURACIES), curves=CURVES))
    assert [one.labels for one in (gain, noise, loss)] == ["5", "20", "all"]
    assert [one.outcome for one in (gain, noise, loss)] == ["gain", "open", "loss"]
    # 60 s for 20 points; a run from scratch takes 4 s, and its second half brings it from 0.2 to 0.4.
    assert gain.seconds / (100.0 * gain.gain.mean) == pytest.approx(3.0)
    assert (gain.runs, gain.late) == (pytest.approx(15.0), pytest.approx(0.2))
    lines = break_even.lines_of([gain, noise, loss])
    assert [line["price"][:5] for line in lines] == ["3 s [", "no ga", "a los"]
    assert [line["late"] for line in lines] == ["+20.0"] * 3


def test_where_it_pays_is_said():
    rows = rows_of(ACCURACIES)
    assert break_even.sentences_of(break_even.returns(Results(rows, curves=CURVES))) == [
        "simclr on net, over scratch: 60 s of pretraining; a gain at 5 a class. "
        "At 20 a class, all labels it costs more than it is shown to give."
    ]
    few, many = ([row for row in rows if (row.labels == "5") is wanted] for wanted in (True, False))
    assert "a gain at every budget" in break_even.sentences_of(break_even.returns(Results(few, curves=CURVES)))[0]
    assert (
        "no gain is shown at any budget" in break_even.sentences_of(break_even.returns(Results(many, curves=CURVES)))[0]
    )


def test_what_goes_on_from_imagenet_is_held_against_imagenet():
    """The points of ImageNet's weights were not paid for here."""
    COSTS.update({"imagenet": (0.0, 6.0), "imagenet+simclr": (60.0, 6.0)})
    accuracies = {
        ("scratch", "5"): [0.50, 0.52, 0.54],
        ("imagenet", "5"): [0.80, 0.83, 0.85],
        ("imagenet+simclr", "5"): [0.81, 0.82, 0.86],
    }
    (found,) = break_even.returns(Results(rows_of(accuracies)))
    assert (found.baseline, found.outcome, found.runs) == ("imagenet", "open", 10.0)
    assert "no gain is shown" in break_even.sentences_of([found])[0]


def test_a_gain_among_many_is_corrected():
    """The plain interval leaves out zero; among four comparisons that is no proof."""
    accuracies = {("scratch", labels): [0.50, 0.52, 0.54, 0.51] for labels in ("5", "20", "50", "all")}
    accuracies |= {("simclr", labels): [0.51, 0.51, 0.54, 0.53] for labels in ("5", "20", "50")}
    accuracies["simclr", "all"] = [0.51, 0.55, 0.575, 0.53]
    found = break_even.returns(Results(rows_of(accuracies)))
    assert found[-1].gain.low > 0.0
    assert found[-1].gain.p_value < 0.05 < found[-1].p_value
    assert {one.outcome for one in found} == {"open"}


def test_one_seed_shows_no_gain():
    one = [row for row in rows_of(ACCURACIES) if row.seed == 0 and row.labels == "5"]
    (found,) = break_even.returns(Results(one))
    assert found.outcome == "open"
    assert math.isnan(found.late)
    assert break_even.lines_of([found])[0]["gain"] == "+19.0"


def test_what_did_not_pretrain_has_no_line():
    rows = [row for row in rows_of(ACCURACIES) if row.arm == "scratch"]
    assert break_even.returns(Results(rows, curves=CURVES)) == []
