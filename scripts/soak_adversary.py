"""Damage runs of all commands at random, and check that each ends equal or in a message whose remedy works.

python scripts/soak.py --adversary --rounds 100 --seed 0

A round copies prepared runs, puts files of a user beside them, flips a bit, cuts, blanks, deletes or swaps a file,
fills the disk, or kills the command at a file event. Then it starts a command, and carries out the remedy of its
message until it ends with status 0. Its numbers must be those of an undamaged run, and each file of the user must
be there. One line of JSON is printed for each round, and a table of counts at the end.
"""

import contextlib
import errno
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import soak_commands as commands
from soak_commands import COMMANDS, Answer, Command, Prepared

FILE_DAMAGES = ("flip", "cut", "blank", "delete", "swap")
DAMAGES = (*FILE_DAMAGES, "kill", "full", "refused writes")
STATES = ("new", "half", "finished")
EQUAL, REMEDIED, UNDETECTABLE, FAILED = "ended equal", "remedy worked", "not detectable", "FAILED"
TABLES = ("results.csv", "curves.csv", "test_hits.npz", "confusions.csv", "embeddings.csv", "diagnosis.csv")
FOR_PEOPLE = ("per_class.csv",)
"""Tables that no command reads, without a checksum."""
_DISK = 256 * 2**20
_ATTEMPTS = 4
_ANOTHER_OUTPUT = re.compile(r"(another|a new or an empty) (--output|folder)|--output [^ ]+: .* Give another")
_PATH = re.compile(r"[\w.@/-]*/[\w.@/-]*\w|\.?\w[\w.-]*\.\w+")


def _is_found(folder: Path) -> bool:
    """Check that a command which reads the run in a folder finds damage."""
    from ssl_transfer.engine.errors import InputError
    from ssl_transfer.engine.io.checksum import file_checksum
    from ssl_transfer.engine.io.weight_files import WeightFile
    from ssl_transfer.engine.runs.seal import damages

    try:
        if damages(folder):
            return True
        files = [WeightFile(folder, name) for name in ("backbone", "head") if (folder / name).is_dir()]
        seen = files[0].folder / "seen.npy"
        return [file.fingerprint for file in files] == [] or (
            seen.is_file() and file_checksum(seen) != files[0].description["seen.npy"]
        )
    except (InputError, OSError):
        return True


class RoundError(Exception):
    """A promise that a round found broken."""


class Disk:
    """A small disk for the rounds, mounted where that is allowed; otherwise a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(place)]
        self.is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0  # noqa: S603

    def close(self) -> None:
        """Unmount the disk."""
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.place)], check=True)  # noqa: S603, S607

    @contextlib.contextmanager
    def left(self, count: int) -> Iterator[None]:
        """Leave so many bytes of the disk for the `with` block; without a mount, limit the size of each file."""
        if self.is_mounted:
            found = os.statvfs(self.place)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            self._resize(used + count)
            try:
                yield
            finally:
                self._resize(_DISK)
        else:
            before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)

    def _resize(self, size: int) -> None:
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(self.place)], check=True)  # noqa: S603, S607


class Round:
    """One damage and one command.

    Args:
        prepared: finished and half-done runs.
        disk: for the copy.
        seed: of all choices.
    """

    def __init__(self, prepared: Prepared, disk: Disk, seed: str) -> None:
        self.prepared, self.disk, self.random = prepared, disk, random.Random(seed)  # noqa: S311
        self.name = self.random.choice(list(prepared.numbers))
        self.command: Command = COMMANDS[self.name]
        self.damage = self.random.choice(DAMAGES)
        self.state = self.random.choice(STATES if self.command.resumes and self.command.folder == "." else STATES[::2])
        if self.command.writes_into or self.command.folder != ".":
            self.state = "finished"
        self.place = disk.place / "round"
        self.folder = self.place / self.command.folder
        self.outside = disk.place / "outside"
        self.output = self.command.output
        self.file = ""
        self.remedies: list[str] = []
        self.statuses: list[int] = []
        self.messages: list[str] = []
        self.foreign: dict[Path, bytes] = {}
        self.may_move = False
        """A remedy that moves folders aside was carried out."""

    def run(self) -> str:
        """Return how the round ended.

        Raises:
            RoundError: a promise is broken.
        """
        self._copy()
        files = self._targets()
        self._put_foreign_files()
        if self.damage in FILE_DAMAGES:
            if not files:
                return EQUAL
            self._damage(files)
        tables = self._tables()
        answer = self._first()
        self._check(answer, tables)
        if self.damage in ("kill", "full", "refused writes") and answer.status == -signal.SIGKILL:
            self.remedies.append("same command")
            answer = self._start(self.command.line())
            self._check(answer, tables)
        for _ in range(_ATTEMPTS):
            if answer.status == 0:
                break
            answer = self._remedy(answer)
            self._check(answer, tables)
        if answer.status:
            raise RoundError(f"still exit status {answer.status} after {_ATTEMPTS} remedies")
        return self._compare(answer)

    def _copy(self) -> None:
        for folder in (self.place, self.outside):
            shutil.rmtree(folder, ignore_errors=True)
        self.outside.mkdir()
        source = self.prepared.place
        self.place.mkdir()
        if self.command.folder != ".":
            shutil.copytree(source / self.command.folder, self.folder)
            return
        for name in ("digits.npz", "inverted.npz"):
            shutil.copy(source / name, self.place)
        for name in ("pictures", "cache", *self._read_folders(self.command)):
            if (source / name).exists():
                shutil.copytree(source / name, self.place / name)
        if self.state == "half":
            shutil.copytree(self.prepared.halves / self.output, self.place / self.output)
        elif self.state == "finished" and self.output and not (self.place / self.output).exists():
            shutil.copytree(source / self.output, self.place / self.output)

    def _read_folders(self, command: Command) -> list[str]:
        found: list[str] = []
        for name in command.reads:
            found += [*self._read_folders(COMMANDS[name]), name] if name in COMMANDS else [name]
        return list(dict.fromkeys(found))

    def _targets(self) -> list[Path]:
        folders = {self.output, "cache", *self.command.reads} - {""}
        found = [path for name in sorted(folders) for path in sorted((self.folder / name).rglob("*"))]
        return [path for path in found if path.is_file() and path.suffix != ".lock" and path.name != "lock"]

    def _put_foreign_files(self) -> None:
        content = self.random.randbytes(200)
        roots = [self.folder / name for name in {self.output, "cache", *self.command.reads} - {""}]
        for root in sorted(roots):
            if not root.is_dir():
                continue
            folders = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
            folders = [path for path in folders if ".ssl_transfer" not in path.parts]
            for name in ("photo.jpg", "README.md", "notes.md", ".movie.mkv.part"):
                path = self.random.choice(folders) / name
                if not path.exists():
                    path.write_bytes(content)
                    self.foreign[path] = content
            target = self.outside / f"{root.name}.txt"
            target.write_bytes(content)
            link = self.random.choice(folders) / "link.txt"
            link.symlink_to(target)
            self.foreign[target] = self.foreign[link] = content
        if self.state == "half" and self.random.random() < 0.3:
            # A file of the user with the name of an output that is not there yet.
            finished = self.prepared.place / self.output
            names = [path.relative_to(finished) for path in sorted(finished.rglob("*")) if path.is_file()]
            names = [name for name in names if name.parts[0] != "checkpoints" and ".ssl_transfer" not in name.parts]
            free = [
                self.folder / self.output / name for name in names if not (self.folder / self.output / name).exists()
            ]
            if free:
                path = self.random.choice(free)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                self.foreign[path] = content
                self.file = f"in the way: {path.relative_to(self.folder)}"

    def _damage(self, files: list[Path]) -> None:
        path = self.random.choice(files)
        self.file = f"{path.relative_to(self.folder)} {self.file}".strip()
        self.damaged = path
        content = bytearray(path.read_bytes())
        if self.damage == "flip" and content:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        elif self.damage == "cut":
            content = content[: self.random.randrange(len(content))] if content else content
        elif self.damage == "blank":
            content = bytearray(len(content))
        elif self.damage == "delete":
            path.unlink()
            return
        elif self.damage == "swap":
            others = [one for one in files if one != path and one.suffix == path.suffix] or [path]
            same = [one for one in others if one.name == path.name]
            other = self.random.choice(same or others)
            self.file += f" with {other.relative_to(self.folder)}"
            content = bytearray(other.read_bytes())
            other.write_bytes(path.read_bytes())
        path.write_bytes(content)

    def _first(self) -> Answer:
        """Start the command; the machine may kill it or refuse its writes."""
        events = max(2, self.prepared.events[self.name])
        moment = self.random.randint(1, events if self.state != "finished" else max(2, events // 4))

        def kill(count: int, _: str) -> None:
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def refuse(count: int, name: str) -> None:
            if count >= moment and name in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if self.damage == "kill":
            self.file = f"event {moment} {self.file}".strip()
            return self._start(self.command.line(), event_hook=kill)
        if self.damage == "refused writes":
            self.file = f"event {moment} {self.file}".strip()
            return self._start(self.command.line(), event_hook=refuse)
        if self.damage == "full":
            room = int(10 ** self.random.uniform(0, 6.3)) if self.random.random() < 0.9 else 0
            self.file = f"{room} bytes {self.file}".strip()
            with self.disk.left(room):
                return self._start(self.command.line())
        return self._start(self.command.line())

    def _start(self, words: tuple[str, ...], **hooks: Any) -> Answer:
        answer = commands.call(words, self.folder, **hooks)
        self.statuses.append(answer.status)
        if answer.status:
            self.messages.append(answer.text[-1500:])
        return answer

    def _tables(self) -> dict[str, bytes]:
        folder = self.folder / self.output
        if "compar" not in self.output:
            return {}
        return {name: (folder / name).read_bytes() for name in TABLES if (folder / name).is_file()}

    def _check(self, answer: Answer, tables: dict[str, bytes]) -> None:
        if "Traceback (most recent" in answer.err or "Traceback (most recent" in answer.out:
            raise RoundError("a traceback")
        if answer.status not in (0, 1, 2, -signal.SIGKILL):
            raise RoundError(f"exit status {answer.status}")
        if answer.status == -signal.SIGKILL and self.damage != "kill":
            raise RoundError("killed")
        self._check_foreign()
        if self.may_move or "another output" in self.remedies:
            return
        for name, before in tables.items():
            path = self.folder / self.output / name
            if not path.is_file():
                raise RoundError(f"{name} is gone")
            after = path.read_bytes()
            if answer.status > 0 and after != before and not self._is_reference(name, after):
                raise RoundError(f"a refused start altered {name}")
            if after != before and after.count(b"\n") < before.count(b"\n") and not self._is_reference(name, after):
                raise RoundError(f"{name} became smaller")

    def _is_reference(self, name: str, content: bytes) -> bool:
        """Check that a table has at least as many lines as that of the finished comparison."""
        reference = self.prepared.place / self.command.folder / self.output / name
        return content.count(b"\n") >= reference.read_bytes().count(b"\n") or name.endswith(".npz")

    def _check_foreign(self) -> None:
        moved: set[bytes] | None = None
        for path, content in self.foreign.items():
            if path.is_file() and path.read_bytes() == content:
                continue
            if self.may_move:
                if moved is None:
                    moved = {one.read_bytes() for one in self.place.rglob(path.name) if one.is_file()}
                if any(one.is_file() and one.read_bytes() == content for one in self.place.rglob(path.name)):
                    continue
            raise RoundError(f"a file of the user is not as it was: {path.relative_to(self.disk.place)}")

    def _remedy(self, answer: Answer) -> Answer:
        """Carry out one of the remedies of a message, and start the command again."""
        options = self._options(answer.text)
        if not options:
            raise RoundError("no known remedy")
        name = self.random.choice(sorted(options))
        self.remedies.append(name)
        return options[name]()

    def _options(self, text: str) -> dict[str, Callable[[], Answer]]:
        named = [Path(one) for one in _PATH.findall(text)]
        paths = [self.folder / one for one in named if not one.is_absolute()] + [
            one for one in named if one.is_absolute()
        ]
        owner = self._owner(text)
        found: dict[str, Callable[[], Answer]] = {}
        again = self.command.line(self.output) if self.output else self.command.line()

        def then(act: Callable[[], object]) -> Callable[[], Answer]:
            def carry_out() -> Answer:
                act()
                return self._start(again)

            return carry_out

        def moving(words: tuple[str, ...], *, is_own: bool) -> Callable[[], Answer]:
            def carry_out() -> Answer:
                self.may_move = True
                answer = self._start(words)
                return answer if is_own or answer.status else self._start(again)

            return carry_out

        for line in re.findall(r"`([^`]*ssl-transfer [^`]*)` writes", text):
            found["command in backticks"] = then(lambda line=line: self._shell(line))
        if owner is not None:
            words, is_own = COMMANDS[owner].line(), owner == self.name
            if "--retry" in text and words[0] == "compare":
                found["--retry"] = moving((*words, "--retry"), is_own=is_own)
            if "--fresh" in text and words[0] in ("pretrain", "transfer", "adapt", "distill"):
                found["--fresh"] = moving((*words, "--fresh"), is_own=is_own)
            if "--fresh" in text and words[0] == "compare" and "--retry" not in text:
                found["--fresh"] = moving((*words, "--fresh"), is_own=is_own)
        if re.search(r"[Tt]ake another copy( of its folder)?", text):
            found["another copy"] = then(lambda: self._restore(paths))
        if re.search(r"--loading.cache .* [Gg]ive (another|a new or an empty) folder", text):
            found["another cache"] = lambda: self._start((*again, "--loading.cache", "other-cache"))
        elif not self.command.writes_into and self.output and _ANOTHER_OUTPUT.search(text):
            found["another output"] = self._elsewhere
        if "--overwrite" in text:
            found["--overwrite"] = lambda: self._overwrite(again)
        if re.search(r"[Mm]ove (it|that file) away", text):
            found["move it away"] = then(lambda: self._move_away(paths))
        if "Remove it" in text:
            found["remove it"] = then(lambda: self._remove(paths))
        if line_number := re.search(r"line (\d+) is damaged .*Remove that line", text):
            found["remove that line"] = then(lambda: self._remove_line(paths, int(line_number[1])))
        if "same command again" in text:
            found["same command"] = lambda: self._start(again)
        return found

    def _owner(self, text: str) -> str | None:
        """Return the command whose folder the message names first."""
        for word in _PATH.findall(text.split("error:", 1)[-1]) + text.split():
            first = Path(word.strip(":'`")).parts[:1]
            for name, command in COMMANDS.items():
                if command.folder == self.command.folder and command.resumes and first == (command.output,):
                    return name
        return self.name if self.command.resumes else None

    def _shell(self, line: str) -> None:
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[0] == "mv":
                shutil.move(self.folder / words[1], self.folder / words[2])
            else:
                answer = self._start(tuple(words[1:]))
                if answer.status:
                    raise RoundError(f"the command of the message ends with {answer.status}: {line}")

    def _restore(self, paths: list[Path]) -> None:
        source = self.prepared.place / self.command.folder
        for path in paths:
            with contextlib.suppress(ValueError):
                name = path.relative_to(self.folder)
                if path in self.foreign or str(name) == ".":
                    continue
                if (source / name).is_dir():
                    shutil.copytree(source / name, path, dirs_exist_ok=True)
                elif (source / name).is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source / name, path)
        self._check_foreign()

    def _elsewhere(self) -> Answer:
        self.output = f"{self.command.output}-elsewhere"
        return self._start(self.command.line(self.output))

    def _overwrite(self, words: tuple[str, ...]) -> Answer:
        self._forget(self.folder / self.output / self.command.file)
        return self._start((*words, "--overwrite"))

    def _forget(self, path: Path) -> None:
        self.foreign.pop(path, None)

    def _first_existing(self, paths: list[Path]) -> Path:
        for path in paths:
            if os.path.lexists(path) and not path.is_dir() and path.is_relative_to(self.folder):
                return path
        for name in (path.name for path in paths):
            # A message about the cache names the entry and the file apart.
            for path in self.foreign:
                if path.name == name and path.is_relative_to(self.folder) and path.is_file():
                    return path
        raise RoundError("the message names no file that exists")

    def _move_away(self, paths: list[Path]) -> None:
        path = self._first_existing(paths)
        self._forget(path)
        os.replace(path, self.outside / f"moved-{len(self.remedies)}")

    def _remove(self, paths: list[Path]) -> None:
        path = self._first_existing(paths)
        if path in self.foreign:
            raise RoundError("the message says to remove a file of the user")
        path.unlink()

    def _remove_line(self, paths: list[Path], number: int) -> None:
        path = self._first_existing(paths)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))

    def _compare(self, answer: Answer) -> str:
        """Compare the numbers with those of the undamaged run."""
        expected = self.prepared.numbers[self.name]
        root = self.folder / self.output
        foreign = {str(path.relative_to(root)) for path in self.foreign if path.is_relative_to(root)}
        found = commands.numbers_of(self.command, self.folder, answer, self.output)
        names = (found.keys() | expected.keys()) - foreign
        differing = [name for name in sorted(names) if found.get(name) != expected.get(name)]
        if not differing:
            return REMEDIED if self.remedies else EQUAL
        if self._is_unseen():
            return UNDETECTABLE
        raise RoundError(f"other numbers: {', '.join(differing[:6])}")

    def _is_unseen(self) -> bool:
        """Check for damage that no checksum can show: old folders, a bit of one row of pixels."""
        if self.damage not in FILE_DAMAGES:
            return False
        if self.command.folder != ".":
            return True
        root = self.folder / self.output
        if self.state == "finished" and self.command.resumes and self.name != "compare" and not self.remedies:
            # "Finished before": no output was read; a later command that reads one refuses it.
            return self.damaged.is_relative_to(root) and (_is_found(root) or self.damaged.name in FOR_PEOPLE)
        return self.damaged.name == "pixels.npy" and self.damage == "flip"


def rounds(workshop: Path, names: Sequence[str], *, count: int, seed: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each round, of these commands."""
    commands.warm_up()
    yield from _rounds(commands.prepare(workshop, names), workshop, count=count, seed=seed, first=first)


def _rounds(prepared: Prepared, workshop: Path, *, count: int, seed: int, first: int) -> Iterator[dict[str, Any]]:
    disk = Disk(workshop / "disk")
    try:
        for number in range(first, first + count):
            begun = time.monotonic()
            one = Round(prepared, disk, f"{seed}-{number}")
            why = ""
            try:
                ended = one.run()
            except RoundError as error:
                ended, why = FAILED, str(error)
            found: dict[str, Any] = {"round": number, "seed": seed, "command": one.name, "state": one.state}
            found |= {"damage": one.damage, "file": one.file, "statuses": one.statuses, "remedies": one.remedies}
            found |= {"ended": ended, "seconds": round(time.monotonic() - begun, 1)}
            yield found | ({"why": why, "messages": one.messages} if why else {})
    finally:
        disk.close()


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
