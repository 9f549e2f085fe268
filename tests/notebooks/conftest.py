"""Run notebooks from start to end: all in one folder, and in their tiny form in another."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def folder_in(project: Path) -> Path:
    """The folder of the notebooks, beside a link to the project's docs."""
    folder = project / "notebooks"
    folder.mkdir()
    (project / "docs").symlink_to(ROOT / "docs")
    return folder


def environment(place: Path) -> dict[str, str]:
    """Of a kernel: it finds this project, and keeps its cache in the tests' folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(place.parent)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_in(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def tiny_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One for all notebooks in their tiny form, as most of that is importing torch."""
    manager, place = KernelManager(kernel_name="python3"), folder_in(tmp_path_factory.mktemp("tiny"))
    manager.start_kernel(env={**environment(place), "SSL_TRANSFER_FAST": "1"}, cwd=str(place))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def execute(place: Path) -> Callable[..., nbformat.NotebookNode]:
    """`execute("1_quick_start", timeout=60)` runs a notebook and returns it with its outputs; no cell takes longer."""

    def run(name: str, *, timeout: int, kernel: KernelManager | None = None) -> nbformat.NotebookNode:
        book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        if kernel is not None:
            # Nothing of the notebook before it is left.
            book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        resources = {"metadata": {"path": str(place)}}
        client = NotebookClient(book, timeout=timeout, km=kernel, resources=resources)
        return client.execute() if kernel is not None else client.execute(env=environment(place))

    return run
