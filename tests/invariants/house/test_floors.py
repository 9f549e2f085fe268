"""Imports run downward: from a floor to lower floors, and between the folders of a floor in one direction."""

import ast
from collections import Counter
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ssl_transfer

PACKAGE = Path(ssl_transfer.__file__).parent
TESTS = Path(__file__).parents[2]
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
NUM_FILES = 314
"""Python files of the package. A new file raises it, a deleted one lowers it."""
MOST_FILES = 16
"""Python files directly in one folder, of the package or of the tests."""


@dataclass(frozen=True)
class Import:
    """An import of `target` (dotted name) in `file` (path below the package), at the top or inside a function."""

    file: str
    target: str

    @property
    def floor(self) -> str:
        """Floor of the importing file."""
        return Path(self.file).parts[0].removesuffix(".py")

    @property
    def folder(self) -> str:
        """Folder of the importing file, such as engine/training."""
        return str(Path(self.file).parent)

    @property
    def target_floor(self) -> str | None:
        """Floor of the target; None outside the package and for its version."""
        parts = self.target.split(".")
        return parts[1] if parts[0] == "ssl_transfer" and parts[1:] not in ([], ["__version__"]) else None


def read_imports(path: Path) -> list[Import]:
    """Find every import in a file, those inside functions too; `from ..data import store` gets its dotted name."""
    file = str(path.relative_to(PACKAGE))
    package = ["ssl_transfer", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.extend(Import(file, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.extend(Import(file, f"{origin}.{alias.name}") for alias in node.names)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [one for path in FILES for one in read_imports(path)]


def runs_upward(one: Import) -> bool:
    """Check for an import of a higher floor, or between methods and objectives."""
    if one.target_floor is None:
        return False
    if {one.floor, one.target_floor} == {"methods", "objectives"}:
        return True
    return FLOORS[one.target_floor] > FLOORS[one.floor]


def folder_of(target: str) -> str | None:
    """Return the folder of an imported module, such as engine/training; None outside the package."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return str(path.parent.relative_to(PACKAGE)) if parts[0] == "ssl_transfer" else None
        if (path / "__init__.py").is_file():
            return str(path.relative_to(PACKAGE)) if parts[0] == "ssl_transfer" else None
    return None


def test_every_file_is_seen() -> None:
    assert len(FILES) == NUM_FILES
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} == FLOORS.keys()
    assert len([one for one in IMPORTS if one.target_floor]) > 1000


def test_no_import_runs_upward() -> None:
    assert [one for one in IMPORTS if runs_upward(one)] == []


def test_folders_import_each_other_in_one_direction() -> None:
    arrows: dict[str, set[str]] = {}
    for one in IMPORTS:
        folder = folder_of(one.target)
        # A package re-exports from its own files; these import it for that.
        if folder is not None and folder != one.folder and "." not in (folder, one.folder):
            arrows.setdefault(one.folder, set()).add(folder)
    assert sum(map(len, arrows.values())) > 100
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"folders import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("root", [PACKAGE, TESTS])
def test_no_folder_is_crowded(root: Path) -> None:
    counts = Counter(str(path.parent.relative_to(root)) for path in root.rglob("*.py"))
    assert len(counts) > 20
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("accelerate", {"engine/distributed/runtime.py", "engine/tracking/other_trackers.py"}),
        ("wandb", {"engine/tracking/wandb_run.py"}),
        ("submitit", {"engine/launch/slurm.py"}),
    ],
)
def test_a_library_has_one_home(library: str, home: set[str]) -> None:
    assert {one.file for one in IMPORTS if one.target.split(".")[0] == library} == home


def test_the_engine_imports_no_image_library() -> None:
    targets = {one.target for one in IMPORTS if one.floor == "engine"}
    # timm's optimisers and norms process no images.
    libraries = {one.split(".")[0] for one in targets if not one.startswith(("timm.optim", "timm.layers.norm_act"))}
    assert not libraries & {"torchvision", "PIL", "timm", "lightly", "sklearn"}
