"""Features computed once give the run that computing them in each epoch gives, bit for bit; frozen stays frozen."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.data.sources import Dataset, LoadingConfig, load
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.stages.transfer import feature_cache, phases
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.transfer import transfer


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", image_size=16, config=LoadingConfig())


@pytest.fixture
def outcome(digits: Dataset, runtime: Runtime, log_of: Callable, request, tmp_path: Path) -> Callable[..., list]:
    """`outcome("name", kind, plan=...)`: all weights that a transfer run ends with, and what it logged."""

    def call(name: str, kind: str, **settings) -> list:
        config = TransferConfig(
            labels="5",
            image_size=16,
            backbone=request.getfixturevalue(kind),
            epochs=1,
            # Not a multiple of the images: the last batch of features is filled up.
            batch_size=16,
            head_steps=10,
            finetune_steps=6,
            optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
            output=tmp_path / name,
            **settings,
        )
        transfer(config, runtime=runtime, dataset=digits, quiet=True)
        weights = [load_file(tmp_path / name / part / f"{part}.safetensors") for part in ("backbone", "head")]
        times = ("images_per_second",)
        log = [{key: value for key, value in line.items() if key not in times} for line in log_of(tmp_path / name)]
        return [*weights, log]

    return call


def assert_equal(one: list, other: list) -> None:
    for first, second in zip(one[:2], other[:2], strict=True):
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert one[2] == other[2]


PLANS = [("feature-extraction",), ("partial", "last:1"), ("fine-tune",)]
QUICK = {(PLANS[0], 0, "convolutional"), (PLANS[1], 2, "convolutional"), (PLANS[1], 0, "transformer")}
QUICK |= {(PLANS[2], 2, "transformer")}
"""Each plan, each number of views with each backbone; the other combinations are slow."""
COMBINATIONS = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
    for case in itertools.product(PLANS, (0, 2), ("convolutional", "transformer"))
]


@pytest.mark.parametrize(("plan", "views", "kind"), COMBINATIONS)
def test_the_run_is_that_of_the_live_path(outcome, monkeypatch, kind, views, plan):
    computed = []
    original = feature_cache.training_features

    def counted(*arguments):
        found = original(*arguments)
        computed.append(tuple(found.features.shape[:2]))
        return found

    monkeypatch.setattr(feature_cache, "training_features", counted)
    once = outcome("once", kind, plan=plan, frozen_views=views)
    # The head's phase, and the partial one behind its boundary; to train all there is no boundary.
    assert computed == [(max(1, views), 50)] * (2 if plan[0] == "partial" else 1)
    monkeypatch.setattr(feature_cache, "training_features", lambda *_: "computed live")
    assert_equal(once, outcome("live", kind, plan=plan, frozen_views=views))


@pytest.mark.parametrize("head", [HeadConfig(kind="flatten-256"), HeadConfig(pooling="attention", dropout=0.5)])
def test_heads_that_take_maps_have_their_features_once_too(outcome, monkeypatch, head):
    once = outcome("once", "convolutional", plan=("feature-extraction",), frozen_views=2, head=head)
    monkeypatch.setattr(feature_cache, "training_features", lambda *_: "computed live")
    live = outcome("live", "convolutional", plan=("feature-extraction",), frozen_views=2, head=head)
    assert_equal(once, live)


def test_without_fixed_views_each_epoch_has_new_ones(outcome):
    fresh = outcome("fresh", "convolutional", plan=("feature-extraction",))
    fixed = outcome("fixed", "convolutional", plan=("feature-extraction",), frozen_views=2)
    assert not torch.equal(fresh[1]["layers.0.weight"], fixed[1]["layers.0.weight"])
    assert_equal([fresh[0], {}, []], [fixed[0], {}, []])


def test_too_many_features_are_computed_live_and_it_is_said(outcome, monkeypatch, capsys):
    once = outcome("once", "convolutional", plan=("feature-extraction",), frozen_views=1)
    monkeypatch.setattr(feature_cache, "MOST_BYTES", 1000)
    said = []
    monkeypatch.setattr(phases.Training, "say", lambda _, message: said.append(message))
    live = outcome("live", "convolutional", plan=("feature-extraction",), frozen_views=1)
    assert any("computed live" in message for message in said)
    assert_equal(once, live)
