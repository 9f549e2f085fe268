"""The Python in README and docs: what it imports is there, and the two complete examples train."""

import ast
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS

ROOT = Path(__file__).parents[3]
BLOCKS = [
    (str(page.relative_to(ROOT)), block)
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]


def test_all_are_found() -> None:
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(BLOCKS)])
def test_what_it_imports_is_there(page: str, block: str) -> None:
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # A relative import is of a file among the methods.
            above = ("", "ssl_transfer.methods.", "ssl_transfer.")[node.level]
            name = f"{above}{node.module}"
            module = importlib.import_module(name)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{name}.{alias.name}")


def example(page: str, holding: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A block of a page as the module that it would be."""
    (block,) = (block for at, block in BLOCKS if at == page and holding in block)
    file = folder / f"{name.rpartition('.')[2]}.py"
    file.write_text(block, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_example_of_a_method_pretrains(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("docs/howto/method.md", "METHOD =", "ssl_transfer.methods.mine", tmp_path, monkeypatch)
    monkeypatch.setitem(METHODS, "mine", module.METHOD)
    answer = run("pretrain", "mine", *tiny["pretrain"], *tiny["convolutional"], "--method.width", 16, "--output", "run")
    assert answer.status == 0, answer.err
    assert "--method.width" in run("pretrain", "mine", "--help").out


def test_the_example_of_an_objective_adapts(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("docs/howto/objective.md", "MEANS =", "ssl_transfer.objectives.means", tmp_path, monkeypatch)
    monkeypatch.setitem(ADAPTATIONS, "means", module.MEANS)
    domains = ("--source", "digits", "--target", "blended-digits", "--output", "run")
    answer = run("adapt", "means", *domains, *tiny["transfer"], *tiny["convolutional"], "--method.weight", 0.5)
    assert answer.status == 0, answer.err
    assert '"distance"' in (tmp_path / "run" / "metrics.jsonl").read_text()
