"""docs/papers.md: every default in its tables is that of the code, and no setting of a method is missing there."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.distillation import DistillationConfig
from ssl_transfer.stages.evaluate import EvaluateConfig
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

PAGE = (Path(__file__).parents[3] / "docs" / "papers.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z0-9_.-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
NAMED = set(re.findall(r"`([a-z0-9-]+\.[a-z0-9_.]+)`", PAGE))
WHOLE = {
    **{name: entry.config for name, entry in METHODS.items()},
    **{name: entry.config for name, entry in ADAPTATIONS.items()},
    "augment": AugmentConfig,
    "distillation": DistillationConfig,
}
"""Settings that are all on the page."""
CITING = {"transfer": TransferRecipe}
"""Of these, the settings whose help names a paper."""
OTHERS = {"optimizer": OptimizerConfig, "evaluate": EvaluateConfig}
YEAR = re.compile(r"\b(19|20)\d\d\b")


def held(name: str) -> Any:
    """The default of a setting as the page names it."""
    root, *path = name.split(".")
    if root in METHODS and path[0] == "optimizer":
        value: Any = METHODS[root]
    else:
        value = {**WHOLE, **CITING, **OTHERS}[root]()
    for part in path:
        value = getattr(value, part)
    return value


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is None:
        return "by size"
    if isinstance(value, tuple):
        return " to ".join(shown(item) for item in value)
    if isinstance(value, (bool, str)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def helps(kind: type) -> dict[str, str]:
    """The docstring under each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


@pytest.mark.parametrize(("name", "default", "there", "source"), ROWS, ids=[row[0] for row in ROWS])
def test_a_default_is_that_of_the_code(name: str, default: str, there: str, source: str) -> None:
    assert shown(held(name)) == default
    assert there.strip()
    assert source.strip()


def test_no_setting_is_missing() -> None:
    nested = ("augment", "second_augment")
    expected = {f"{name}.{field.name}" for name, kind in WHOLE.items() for field in dataclasses.fields(kind)}
    expected = {name for name in expected if not name.endswith(nested)}
    expected |= {
        f"{name}.{field}" for name, kind in CITING.items() for field, text in helps(kind).items() if YEAR.search(text)
    }
    assert expected - NAMED == set()
    assert len(expected) > 80


def test_nothing_is_named_that_is_not_there() -> None:
    roots = {**WHOLE, **CITING, **OTHERS}
    for name in NAMED:
        if name.partition(".")[0] in roots:
            held(name)
    assert len(ROWS) > 80


def test_every_departure_of_an_optimiser_is_named() -> None:
    """Weight decay, clipping and moments that a method sets have a source; rates are ours but where a row has one."""
    plain = OptimizerConfig()
    for name, entry in METHODS.items():
        for field in ("weight_decay", "clip_norm", "momentum", "second_momentum"):
            if getattr(entry.optimizer, field) != getattr(plain, field):
                assert f"{name}.optimizer.{field}" in NAMED
