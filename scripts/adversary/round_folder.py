"""Copy prepared runs for a round, put files of a user beside them, and start commands there."""

import random
import shutil
from pathlib import Path
from typing import Any

from adversary.commands import COMMANDS, Answer, Command, Prepared, call
from adversary.disk import Disk
from ssl_transfer.engine.io.ownership import is_recorded

FINISHED, HALF, NEW = "finished", "half", "new"
STATES = (NEW, HALF, FINISHED)


class RoundError(Exception):
    """A promise that a round found broken."""


class RoundFolder:
    """The folder of a round: a copy of prepared runs, in which one command is started.

    Args:
        prepared: finished and half-done runs.
        disk: for the copy.
        name: of the command.
        state: of its output: new, half or finished.
        choices: decides all that is random.
    """

    def __init__(self, prepared: Prepared, disk: Disk, name: str, state: str, choices: random.Random) -> None:
        self.prepared, self.disk, self.name, self.state = prepared, disk, name, state
        self.command: Command = COMMANDS[name]
        self.place, self.outside = disk.place / "round", disk.place / "outside"
        self.path = self.place / self.command.folder
        self.output = self.command.output
        self.foreign: dict[Path, bytes] = {}
        """Content of each file of the user."""
        self.may_move = False
        """A remedy that moves folders aside was carried out."""
        self._in_the_way: list[Path] = []
        self.was_warned = False
        """A damaged line of a log was left out, and said so."""
        self.statuses: list[int] = []
        self.messages: list[str] = []
        self._random = choices
        self._copy()

    @property
    def root(self) -> Path:
        """Folder of the command's results."""
        return self.path / self.output

    @property
    def in_the_way(self) -> str:
        """Name the file of the user that has the name of an output; empty where there is none."""
        return "".join(f"in the way: {path.relative_to(self.path)}" for path in self._in_the_way)

    @property
    def reference(self) -> Path:
        """Folder of the undamaged runs."""
        return self.prepared.place / self.command.folder

    def files(self) -> list[Path]:
        """List the files that the command reads or goes on from, without locks."""
        found = [path for root in self._roots() for path in sorted(root.rglob("*"))]
        return [path for path in found if path.is_file() and path.suffix != ".lock" and path.name != "lock"]

    def start(self, words: tuple[str, ...], **hooks: Any) -> Answer:
        """Run a command in the folder, and keep its exit status and message."""
        answer = call(words, self.path, **hooks)
        self.statuses.append(answer.status)
        self.was_warned |= "go on without these lines" in answer.text
        if answer.status:
            self.messages.append(answer.text[-1500:])
        return answer

    def start_again(self) -> Answer:
        """Run the command of the round once more."""
        return self.start(self.command.line(self.output))

    def put_foreign_files(self) -> None:
        """Put photographs, texts, unfinished downloads and links of a user beside the files of the runs."""
        content = self._random.randbytes(200)
        for root in filter(Path.is_dir, self._roots()):
            folders = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
            folders = [path for path in folders if ".ssl_transfer" not in path.parts]
            for name in ("photo.jpg", "README.md", "notes.md", ".movie.mkv.part"):
                path = self._random.choice(folders) / name
                if not path.exists():
                    path.write_bytes(content)
                    self.foreign[path] = content
            target = self.outside / f"{root.name}.txt"
            target.write_bytes(content)
            link = self._random.choice(folders) / "link.txt"
            link.symlink_to(target)
            self.foreign[target] = self.foreign[link] = content
        if self.state == HALF and self._random.random() < 0.3:
            self._put_in_the_way(content)

    def check_foreign(self) -> None:
        """Compare the files of the user with their content.

        Raises:
            RoundError: one differs, or is not there.
        """
        for path, content in self.foreign.items():
            moved = self.place.rglob(path.name) if self.may_move else ()
            if not any(one.is_file() and one.read_bytes() == content for one in (path, *moved)):
                raise RoundError(f"a file of the user is not as it was: {path.relative_to(self.disk.place)}")

    def accept_names(self) -> None:
        """Let the run replace the file in the way: without a record, files with names of outputs count as its own."""
        self.foreign = {path: content for path, content in self.foreign.items() if path not in self._in_the_way}

    def _copy(self) -> None:
        for folder in (self.place, self.outside):
            shutil.rmtree(folder, ignore_errors=True)
        self.outside.mkdir()
        source = self.prepared.place
        self.place.mkdir()
        if self.command.folder != ".":
            shutil.copytree(source / self.command.folder, self.path)
            return
        for name in ("digits.npz", "inverted.npz"):
            shutil.copy(source / name, self.place)
        for name in ("pictures", "cache", *_read_folders(self.command)):
            if (source / name).exists():
                shutil.copytree(source / name, self.place / name)
        if self.state == HALF:
            shutil.copytree(self.prepared.halves / self.output, self.place / self.output)
        elif self.state == FINISHED and self.output and not (self.place / self.output).exists():
            shutil.copytree(source / self.output, self.place / self.output)

    def _roots(self) -> list[Path]:
        return [self.path / name for name in sorted({self.output, "cache", *self.command.reads} - {""})]

    def _put_in_the_way(self, content: bytes) -> None:
        """Put a file of the user where the command has not yet written one of its outputs."""
        finished = self.prepared.place / self.output
        names = [path.relative_to(finished) for path in sorted(finished.rglob("*")) if path.is_file()]
        names = [name for name in names if name.parts[0] != "checkpoints" and ".ssl_transfer" not in name.parts]
        # A name in the record is ours, whether or not its file was created before the kill.
        free = [self.root / name for name in names if not is_recorded(self.root / name)]
        free = [path for path in free if not path.exists()]
        if free:
            path = self._random.choice(free)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.foreign[path] = content
            self._in_the_way = [path]


def _read_folders(command: Command) -> list[str]:
    """List the folders that a command reads, and those that were read for them."""
    found: list[str] = []
    for name in command.reads:
        found += [*_read_folders(COMMANDS[name]), name] if name in COMMANDS else [name]
    return list(dict.fromkeys(found))
