"""Nothing is claimed of networks that equal scratch: ten methods at a learning rate of 1e-12, through `compare`.

Each pretraining begins with random weights of its own, so that its network differs from scratch, and from every other
arm, by chance alone. Only the learning rate keeps the method from changing them. The backbone has no BatchNorm, whose
statistics a method would set.

24 seeds, each with its own pretraining, are eight comparisons of three seeds: independent draws of labels and networks
on the same test images. Of eight comparisons more than 3 with a claim, and of 5 x 8 disjoint pairs of arms more than 7
with p <= 5 %, come once in a thousand times at the nominal rate: the binomial quantile of 99.9 %.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.evaluation.comparison.findings import findings
from ssl_transfer.evaluation.comparison.results import Results, chosen_accuracy
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.stages.common import initialization
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.pretrain import pretrain
from ssl_transfer.stages.pretrain.config import name_of

SEEDS, GROUP, LEVEL = 24, 3, 0.05
FLAGS = (
    *("--image-size", 8, "--labels", 5, "--epochs", 1, "--batch-size", 512, "--augmentation", "digits"),
    *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=16", "depth=1", "num_heads=2", "patch_size=2"),
    *("--transfer.plan", "feature-extraction", "--transfer.frozen-views", 1, "--transfer.epochs", 1),
    *("--transfer.head-steps", 60, "--transfer.optimizer.learning-rate", 1e-2),
)


def own_seed(method: str, seed: int) -> int:
    """Seed of the random weights of one method's pretraining."""
    return seed_from(seed, list(METHODS).index(method), 7)


@pytest.fixture
def own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each method weights of its own; by default all arms of a seed begin with the same."""

    def initial_backbone(config, dataset, run):
        return initialization.initial_backbone(
            replace(config, seed=own_seed(name_of(config.method), config.seed)), dataset, run
        )

    monkeypatch.setattr(pretrain, "initial_backbone", initial_backbone)


def part_of(results: Results, seeds: list[int]) -> Results:
    """The comparison of some of the seeds, each with its own pretraining."""
    rows = [row for row in results.rows if row.seed in seeds]
    return Results(rows, hits={}, curves=[], description={**results.description, "seeds": seeds, "pretrainings": seeds})


@pytest.mark.slow
def test_ten_arms_of_random_weights_are_not_told_from_scratch(run: Callable, own_weights: None, tmp_path: Path) -> None:
    folder, methods, seeds = tmp_path / "null", list(METHODS), list(range(SEEDS))
    assert len(methods) == 10
    rates = itertools.chain.from_iterable((f"--{name}.optimizer.learning-rate", 1e-12) for name in methods)
    arms = ("scratch", *methods)
    assert run("compare", "--arms", *arms, "--seeds", *seeds, "--output", folder, *FLAGS, *rates) == 0

    for method in methods:
        (path,) = folder.glob(f"pretrain/{method}-*-seed0")
        exported = Run(path)
        weights = exported.load_backbone(image_size=8).state_dict()
        random = pretrained.scratch(exported.spec, seed=seed_from(own_seed(method, 0), 0)).state_dict()
        assert weights.keys() == random.keys()
        assert [name for name in weights if not torch.allclose(weights[name], random[name], atol=1e-8)] == [], method

    results = Results.read(folder)
    backbone = results.pairs[0][1]
    groups = [part_of(results, seeds[start : start + GROUP]) for start in range(0, SEEDS, GROUP)]
    found = [findings(group) for group in groups]
    assert [len(items) for items in found] == [10] * 8
    assert {item.difference.pretrainings for items in found for item in items} == {GROUP}
    claims = [any(item.outcome in ("better", "worse") for item in items) for items in found]
    assert sum(claims) <= stats.binom.ppf(0.999, len(claims), LEVEL) == 3

    cells = [chosen_accuracy(method, backbone, "5") for method in methods]
    pairs = [
        group.difference(ours, theirs) for group in groups for ours, theirs in zip(cells[::2], cells[1::2], strict=True)
    ]
    assert len(pairs) == 40
    differ = [pair.p_value <= LEVEL for pair in pairs if not math.isnan(pair.p_value)]
    assert sum(differ) <= stats.binom.ppf(0.999, len(pairs), LEVEL) == 7
    print(f"{sum(claims)} of 8 comparisons with a claim, {sum(differ)} of 40 disjoint pairs with p <= 5 %")
