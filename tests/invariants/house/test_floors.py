"""The floors of the house: a file imports from its own floor or from lower ones, never from above."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

import ssl_transfer

PACKAGE = Path(ssl_transfer.__file__).parent
FLOORS = {
    "engine": 0,
    "data": 1,
    "models": 2,
    "objectives": 3,
    "methods": 3,
    "evaluation": 4,
    "reports": 5,
    "stages": 6,
    "cli": 7,
    "__init__": 8,
    "__main__": 8,
}


@dataclass(frozen=True)
class Import:
    """`file` imports `target` (a dotted name), inside a function or at its top."""

    file: str
    target: str
    in_function: bool

    @property
    def floor(self) -> str:
        """Of the importing file."""
        return Path(self.file).parts[0].removesuffix(".py")

    @property
    def target_floor(self) -> str | None:
        """Of what is imported; None outside the package, and for its version, which is a text."""
        parts = self.target.split(".")
        return parts[1] if parts[0] == "ssl_transfer" and parts[1:] not in ([], ["__version__"]) else None


def read_imports(path: Path, root: Path = PACKAGE) -> list[Import]:
    """Every import in a file, `from ..data import cache` resolved to `ssl_transfer.data.store.cache`."""
    file = str(path.relative_to(root))
    package = ["ssl_transfer", *path.relative_to(root).parts[:-1]]
    found = []

    def visit(node: ast.AST, in_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(file, alias.name, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                origin = ".".join([*base, *([child.module] if child.module else [])])
                found.extend(Import(file, f"{origin}.{alias.name}", in_function) for alias in child.names)
            visit(child, in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [one for path in FILES for one in read_imports(path)]


def breaks_the_house(one: Import) -> bool:
    """Whether an import goes up, or across between methods and objectives."""
    if one.target_floor is None:
        return False
    if {one.floor, one.target_floor} == {"methods", "objectives"}:
        return True
    return FLOORS[one.target_floor] > FLOORS[one.floor]


def test_every_file_was_seen():
    # `make` a new file, and this number goes up.
    assert len(FILES) >= 44
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders == FLOORS.keys() - {"__init__", "__main__"}
    assert len(IMPORTS) > 200
    assert len([one for one in IMPORTS if one.target_floor]) > 100


def test_nothing_imports_from_above():
    assert [one for one in IMPORTS if breaks_the_house(one)] == []


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("accelerate", {"engine/distributed/runtime.py", "engine/tracking/other_trackers.py"}),
        ("wandb", {"engine/tracking/wandb_run.py"}),
        ("submitit", {"engine/launch/slurm.py"}),
    ],
)
def test_libraries_that_few_files_know(library, home):
    assert {one.file for one in IMPORTS if one.target.split(".")[0] == library} == home


def test_the_engine_knows_no_images():
    targets = {one.target for one in IMPORTS if one.floor == "engine"}
    # timm's optimisers and norms know no images either.
    libraries = {one.split(".")[0] for one in targets if not one.startswith(("timm.optim", "timm.layers.norm_act"))}
    assert not libraries & {"torchvision", "PIL", "timm", "lightly", "sklearn"}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engine/new.py", "from ..data import sources"),
        ("methods/new.py", "from ..objectives.supervised import Supervised"),
        ("objectives/new.py", "from .. import methods"),
        ("methods/new.py", "import ssl_transfer.stages.transfer.transfer"),
        ("reports/figures.py", "from ..stages import summary"),
        ("reports/new.py", "def draw():\n    from ..stages import summary"),
        ("data/new.py", "def cheat():\n    from ssl_transfer.models.heads import LinearHead"),
    ],
)
def test_this_test_can_fail(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(line)
    assert any(breaks_the_house(one) for one in read_imports(path, tmp_path))
