"""Read the remedies of a message, and carry them out literally."""

import contextlib
import os
import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from adversary.commands import COMMANDS, Answer
from adversary.round_folder import RoundError, RoundFolder

SAME_COMMAND, ANOTHER_OUTPUT = "same command", "another output"
_ANOTHER_OUTPUT = re.compile(r"(another|a new or an empty) (--output|folder)|--output [^ ]+: .* Give another")
_PATH = re.compile(r"[\w.@/-]*/[\w.@/-]*\w|\.?\w[\w.-]*\.\w+")
_WITH_FRESH = ("pretrain", "transfer", "adapt", "distill")
Remedy = Callable[[], Answer]


class Remedies:
    """The remedies of the messages of one round.

    Args:
        folder: in which they are carried out.
        choices: decides among the remedies of a message.
    """

    def __init__(self, folder: RoundFolder, choices: random.Random) -> None:
        self.folder, self.command = folder, folder.command
        self.names: list[str] = []
        """Remedies carried out so far."""
        self._random = choices

    def same_command(self) -> Answer:
        """Start the command again, as after a kill."""
        self.names.append(SAME_COMMAND)
        return self.folder.start_again()

    def carry_out(self, answer: Answer) -> Answer:
        """Carry out one of the remedies of a message, and start the command again.

        Raises:
            RoundError: the message has no remedy that is known here.
        """
        options = self._options(answer.text)
        if not options:
            raise RoundError("no known remedy")
        name = self._random.choice(sorted(options))
        self.names.append(name)
        return options[name]()

    def _options(self, text: str) -> dict[str, Remedy]:
        named = [Path(one) for one in _PATH.findall(text)]
        paths = [self.folder.path / one for one in named if not one.is_absolute()]
        paths += [one for one in named if one.is_absolute()]
        found: dict[str, Remedy] = {}
        lines = list(dict.fromkeys(re.findall(r"`([^`]*ssl-transfer [^`]*)` (?:writes|removes)", text)))
        if first := re.search(r"Move (\S+) away, then `", text):
            path = self.folder.path / first[1]
            return {"move it away": self._then(lambda: self._move_aside(path))}
        if lines:
            found["command in backticks"] = self._then(lambda: self._shell(" && ".join(lines)))
        if (flag := self._repeating_flag(text)) and (owner := self._owner(text)):
            found[flag] = self._repeat(owner, flag)
        if re.search(r"[Tt]ake another copy( of its folder)?", text):
            found["another copy"] = self._then(lambda: self._restore(paths))
        if re.search(r"--loading.cache .* [Gg]ive (another|a new or an empty) folder", text):
            again = self.command.line(self.folder.output)
            found["another cache"] = lambda: self.folder.start((*again, "--loading.cache", "other-cache"))
        elif not self.command.writes_into and self.folder.output and _ANOTHER_OUTPUT.search(text):
            found[ANOTHER_OUTPUT] = self._elsewhere
        if "--overwrite" in text:
            found["--overwrite"] = self._overwrite
        if re.search(r"[Mm]ove (it|that file) away", text):
            repeats = "--retry runs them again" in text
            found["move it away"] = lambda: self._move_away(paths, repeats=repeats)
            if repeats:
                # The message names both, one after the other.
                found.pop("--retry", None)
        if folder := re.search(r"Move (?!it )(\S+) away", text):
            found["move the folder away"] = self._then(lambda: self._move_aside(self.folder.path / folder[1]))
        if "Remove it" in text:
            found["remove it"] = self._then(lambda: self._remove(paths))
        if line_number := re.search(r"line (\d+) is damaged .*Remove that line", text):
            found["remove that line"] = self._then(lambda: self._remove_line(paths, int(line_number[1])))
        if "same command again" in text:
            found[SAME_COMMAND] = self.folder.start_again
        return found

    def _then(self, act: Callable[[], object]) -> Remedy:
        def carry_out() -> Answer:
            act()
            return self.folder.start_again()

        return carry_out

    def _repeating_flag(self, text: str) -> str:
        """Return the flag with which the command of the damaged run repeats it; empty where the message names none."""
        owner = self._owner(text)
        kind = COMMANDS[owner].words[0] if owner is not None else ""
        if kind in ("compare", "demo") and "--retry" in text:
            return "--retry"
        return "--fresh" if kind in ("compare", *_WITH_FRESH) and "--fresh" in text else ""

    def _owner(self, text: str) -> str | None:
        """Return the command whose folder the message names first."""
        # The first sentence names the damage; the remedies behind it use the same words.
        text = text.split("error:", 1)[-1].split(". ", 1)[0]
        for word in _PATH.findall(text) + text.split():
            first = Path(word.strip(":'`")).parts[:1]
            for name, command in COMMANDS.items():
                if command.folder == self.command.folder and command.resumes and first == (command.output,):
                    return name
        return self.folder.name if self.command.resumes else None

    def _repeat(self, owner: str, flag: str) -> Remedy:
        def carry_out() -> Answer:
            self.folder.may_move = True
            answer = self.folder.start((*COMMANDS[owner].line(), flag))
            return answer if owner == self.folder.name or answer.status else self.folder.start_again()

        return carry_out

    def _shell(self, line: str) -> None:
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[0] == "mv":
                shutil.move(self.folder.path / words[1], self.folder.path / words[2])
            else:
                answer = self.folder.start(tuple(words[1:]))
                if answer.status:
                    raise RoundError(f"the command of the message ends with {answer.status}: {line}")

    def _restore(self, paths: list[Path]) -> None:
        source = self.folder.reference
        for path in paths:
            with contextlib.suppress(ValueError):
                name = path.relative_to(self.folder.path)
                if path in self.folder.foreign or str(name) == ".":
                    continue
                if (source / name).is_dir():
                    shutil.copytree(source / name, path, dirs_exist_ok=True)
                elif (source / name).is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source / name, path)
        self.folder.check_foreign()

    def _elsewhere(self) -> Answer:
        self.folder.output = f"{self.command.output}-elsewhere"
        return self.folder.start_again()

    def _overwrite(self) -> Answer:
        self.folder.foreign.pop(self.folder.root / self.command.file, None)
        return self.folder.start((*self.command.line(self.folder.output), "--overwrite"))

    def _first_existing(self, paths: list[Path]) -> Path:
        for path in paths:
            if os.path.lexists(path) and not path.is_dir() and path.is_relative_to(self.folder.path):
                return path
        raise RoundError("the message names no file that exists")

    def _move_away(self, paths: list[Path], *, repeats: bool) -> Answer:
        path = self._first_existing([one for one in paths if one in self.folder.foreign] or paths)
        self.folder.foreign.pop(path, None)
        os.replace(path, self.folder.outside / f"moved-{len(self.names)}")
        words = self.command.line(self.folder.output)
        return self.folder.start((*words, "--retry") if repeats else words)

    def _move_aside(self, path: Path) -> None:
        """Move a file or a folder to another name in the folder of the round."""
        if not os.path.lexists(path):
            raise RoundError("the message names nothing that exists")
        self.folder.may_move |= path.is_dir()
        self.folder.foreign.pop(path, None)
        path.rename(self.folder.place / f"moved-{len(self.names)}")

    def _remove(self, paths: list[Path]) -> None:
        path = self._first_existing(paths)
        if path in self.folder.foreign:
            raise RoundError("the message says to remove a file of the user")
        path.unlink()

    def _remove_line(self, paths: list[Path], number: int) -> None:
        path = self._first_existing(paths)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))
