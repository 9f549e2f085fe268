"""Run rounds: one damage, one command, and the remedies of its messages until it ends with status 0.

A round copies prepared runs, puts files of a user beside them, flips a bit, cuts, blanks, deletes or swaps a file,
fills the disk, or kills the command at a file event. The numbers at the end must be those of an undamaged run, and
each file of the user must be there.
"""

import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from adversary import commands
from adversary.commands import COMMANDS, Answer, Prepared
from adversary.damages import DAMAGES, FILE_DAMAGES, FULL, KILL, damage_file, hook_of
from adversary.disk import Disk
from adversary.remedies import ANOTHER_OUTPUT, Remedies
from adversary.round_folder import FINISHED, STATES, RoundError, RoundFolder
from ssl_transfer.engine.runs.seal import damages

EQUAL, REMEDIED, UNDETECTABLE, FAILED = "ended equal", "remedy worked", "not detectable", "FAILED"
TABLES = ("results.csv", "curves.csv", "test_hits.npz", "confusions.csv", "embeddings.csv", "diagnosis.csv")
FOR_PEOPLE = ("per_class.csv",)
"""Tables that no command reads, without a checksum."""
WITH_CHECKSUMS = ("backbone", "head", "checkpoints")
"""Folders whose files have checksums in every version."""
_ATTEMPTS = 6


class Round:
    """One damage and one command.

    Args:
        prepared: finished and half-done runs.
        disk: for the copy.
        seed: of all choices.
    """

    def __init__(self, prepared: Prepared, disk: Disk, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.name = self._random.choice(list(prepared.numbers))
        self.damage = self._random.choice(DAMAGES)
        command = COMMANDS[self.name]
        self.state = self._random.choice(STATES if command.resumes and command.folder == "." else STATES[::2])
        if command.writes_into or command.folder != ".":
            self.state = FINISHED
        self.folder = RoundFolder(prepared, disk, self.name, self.state, self._random)
        self.remedies = Remedies(self.folder, self._random)
        self.damaged: list[Path] = []
        self.detail = ""

    def run(self) -> str:
        """Return how the round ended.

        Raises:
            RoundError: a promise is broken.
        """
        files = self.folder.files()
        self.folder.put_foreign_files()
        if self.damage in FILE_DAMAGES:
            if not files:
                return EQUAL
            self.damaged = damage_file(self.damage, files, self._random)
            self.detail = " with ".join(str(path.relative_to(self.folder.path)) for path in self.damaged)
            if any(path.name == "written" and not path.exists() for path in self.damaged):
                self.folder.accept_names()
        tables = self._tables()
        answer = self._first()
        self._check(answer, tables)
        if answer.status == -signal.SIGKILL:
            answer = self.remedies.same_command()
            self._check(answer, tables)
        for _ in range(_ATTEMPTS):
            if answer.status == 0:
                break
            before, answer = answer, self.remedies.carry_out(answer)
            self._check(answer, tables)
            if answer.status and answer.err == before.err:
                raise RoundError(f"the remedy {self.remedies.names[-1]} changes nothing")
        if answer.status:
            raise RoundError(f"still exit status {answer.status} after {_ATTEMPTS} remedies")
        return self._compare(answer)

    def record(self) -> dict[str, Any]:
        """Return the choices and the course of the round."""
        return {
            "command": self.name,
            "state": self.state,
            "damage": self.damage,
            "file": f"{self.detail} {self.folder.in_the_way}".strip(),
            "statuses": self.folder.statuses,
            "remedies": self.remedies.names,
        }

    def _first(self) -> Answer:
        """Start the command; the machine may kill it or refuse its writes."""
        words = self.folder.command.line()
        if self.damage in FILE_DAMAGES:
            return self.folder.start(words)
        if self.damage == FULL:
            room = int(10 ** self._random.uniform(0, 6.3)) if self._random.random() < 0.9 else 0
            self.detail = f"{room} bytes"
            with self.folder.disk.left(room):
                return self.folder.start(words)
        events = max(2, self.folder.prepared.events[self.name])
        moment = self._random.randint(1, events if self.state != FINISHED else max(2, events // 4))
        self.detail = f"event {moment}"
        return self.folder.start(words, event_hook=hook_of(self.damage, moment))

    def _tables(self) -> dict[str, bytes]:
        root = self.folder.root
        return {name: (root / name).read_bytes() for name in TABLES if (root / name).is_file()}

    def _check(self, answer: Answer, tables: dict[str, bytes]) -> None:
        if "Traceback (most recent" in answer.err or "Traceback (most recent" in answer.out:
            raise RoundError("a traceback")
        if answer.status not in (0, 1, 2, -signal.SIGKILL):
            raise RoundError(f"exit status {answer.status}")
        if answer.status == -signal.SIGKILL and self.damage != KILL:
            raise RoundError("killed")
        self.folder.check_foreign()
        if self.folder.may_move or ANOTHER_OUTPUT in self.remedies.names:
            return
        for name, before in tables.items():
            path = self.folder.root / name
            if not path.is_file():
                raise RoundError(f"{name} is gone")
            after = path.read_bytes()
            if after == before or self._is_complete(name, after):
                continue
            if answer.status > 0:
                raise RoundError(f"a refused start altered {name}")
            if after.count(b"\n") < before.count(b"\n"):
                raise RoundError(f"{name} became smaller")

    def _is_complete(self, name: str, content: bytes) -> bool:
        """Check that a table has at least as many lines as that of the finished comparison."""
        reference = self.folder.reference / self.folder.output / name
        return content.count(b"\n") >= reference.read_bytes().count(b"\n") or name.endswith(".npz")

    def _compare(self, answer: Answer) -> str:
        """Compare the numbers with those of the undamaged run."""
        folder = self.folder
        expected = folder.prepared.numbers[self.name]
        foreign = {str(path.relative_to(folder.root)) for path in folder.foreign if path.is_relative_to(folder.root)}
        found = commands.numbers_of(folder.command, folder.path, answer, folder.output)
        names = (found.keys() | expected.keys()) - foreign
        if self.folder.was_warned:
            names = {name for name in names if not name.endswith(commands.LOG)}
        differing = [name for name in sorted(names) if found.get(name) != expected.get(name)]
        if not differing:
            return REMEDIED if self.remedies.names else EQUAL
        if self.damaged and all(map(self._has_no_checksum, self.damaged)):
            return UNDETECTABLE
        raise RoundError(f"other numbers: {', '.join(differing[:6])}")

    def _has_no_checksum(self, path: Path) -> bool:
        """Check for a file whose damage this command need not notice.

        These are texts of version 0.1, a bit of one row of pixels, and outputs that a later command refuses.
        """
        command = self.folder.command
        if command.folder != ".":
            return path.parent.name not in WITH_CHECKSUMS
        if self.state == FINISHED and command.resumes and self.name != "compare" and not self.remedies.names:
            # "Finished before": no output was read.
            root = self.folder.root
            return path.is_relative_to(root) and (path.name in FOR_PEOPLE or bool(damages(root)))
        return path.name == "pixels.npy" and self.damage == "flip"


def rounds(workshop: Path, names: Sequence[str], *, count: int, seed: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each round, of these commands."""
    commands.warm_up(names)
    prepared = commands.prepare(workshop, names)
    with Disk(workshop / "disk") as disk:
        for number in range(first, first + count):
            begun = time.monotonic()
            one = Round(prepared, disk, f"{seed}-{number}")
            why = ""
            try:
                ended = one.run()
            except RoundError as error:
                ended, why = FAILED, str(error)
            found = {"round": number, "seed": seed, **one.record(), "ended": ended}
            found |= {"seconds": round(time.monotonic() - begun, 1)}
            yield found | ({"why": why, "messages": one.folder.messages} if why else {})


def table(found: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the counts per command and per damage."""
    endings = (EQUAL, REMEDIED, UNDETECTABLE, FAILED)
    lines = [f"{'':20}{'rounds':>8}" + "".join(f"{one:>16}" for one in endings)]
    for key, names in (("command", tuple(COMMANDS)), ("damage", DAMAGES)):
        for name in names:
            counts = Counter(one["ended"] for one in found if one[key] == name)
            lines.append(f"{name:20}{sum(counts.values()):>8}" + "".join(f"{counts[one]:>16}" for one in endings))
    total = Counter(one["ended"] for one in found)
    return [*lines, f"{'all':20}{len(found):>8}" + "".join(f"{total[one]:>16}" for one in endings)]


def soak(names: Sequence[str], *, count: int, seed: int, first: int, say: Callable[[str], object]) -> bool:
    """Run rounds, print each and the counts; return whether all kept the promises."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for one in rounds(Path(folder), names or tuple(COMMANDS), count=count, seed=seed, first=first):
            found.append(one)
            say(json.dumps(one))
    for line in table(found):
        say(line)
    return all(one["ended"] != FAILED for one in found)
