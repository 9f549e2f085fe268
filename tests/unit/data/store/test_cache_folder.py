"""Folders of the cache are created whole or not at all, and a killed process leaves nothing for ever."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.data.store import cache_folder
from ssl_transfer.engine.io.ownership import MARKER

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def index(folder: Path) -> None:
    cache_folder.index_of(folder)


def entry(folder: Path) -> None:
    with cache_folder.building(folder / "key"):
        pass


def killed(create: Callable[[Path], None], folder: Path, moment: int) -> bool:
    """Create in a fork, which is killed before its file event of this number."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in EVENTS or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(watch)
        create(folder)
    finally:
        os._exit(0)


@pytest.mark.parametrize(("create", "name"), [(index, "index"), (entry, "key")])
def test_killed_at_each_file_event(create: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    moment, was_killed = 0, True
    while was_killed:
        moment += 1
        folder = tmp_path / str(moment)
        folder.mkdir()
        was_killed = killed(create, folder, moment)
        create(folder)
        assert [path.name for path in folder.iterdir()] == [name], moment
    assert moment > 6


def test_folders_of_others_and_of_living_processes_stay(tmp_path: Path) -> None:
    """A name is no sign."""
    theirs = tmp_path / ".index.00000000.part"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    (tmp_path / ".index.11111111.part").mkdir()
    with cache_folder.beside(tmp_path / "index") as aside:
        index(tmp_path)
        assert aside.parent.is_dir()
        assert aside.parent.name == MARKER
        living = aside.parent.parent.name
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([theirs.name, living, "index"])
    assert (theirs / "notes.txt").read_text() == "mine"
