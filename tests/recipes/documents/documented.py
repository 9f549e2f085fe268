"""Commands as documents have them: found in fences, in indented code and in backticks."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")))
WORDS = ("ssl-transfer", "python", "accelerate", "make", "pytest")
_BEFORE = re.compile(r"^(?:[A-Z_]+=\S+|taskset -c [\d,]+) ")
"""What may stand before a command: variables of the environment, the cores."""


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    page: str
    text: str
    inline: bool
    """Whether it stands in a sentence, where it may be no more than a name."""

    @property
    def words(self) -> list[str]:
        """Without what stands before it, a comment behind it, and dots that leave something out."""
        text = self.text
        while found := _BEFORE.match(text):
            text = text[found.end() :]
        words = shlex.split(text, comments=True)
        if words[-1] == "...":
            words = words[: -2 if words[-2].startswith("--") else -1]
        return words


def _code(text: str) -> Iterator[list[str]]:
    """The lines of each fence that is no Python, and of each indented block."""
    block: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = line.strip()
        if mark.startswith("```"):
            if fence:
                yield block
            fence, block = ("" if fence else mark), []
        elif fence:
            if not fence.startswith("```python"):
                block.append(line)
        elif line.startswith("    "):
            block.append(line)
        elif block:
            yield block
            block = []


def _is_command(line: str) -> bool:
    while found := _BEFORE.match(line):
        line = line[found.end() :]
    return line.split(" ")[0] in WORDS and " " in line


def commands() -> list[Command]:
    """Every command of every page, each once a page."""
    found: dict[Command, None] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in _code(text):
            width, held = 0, ""
            for line in [*block, ""]:
                own = len(line) - len(line.lstrip())
                if held and line.strip() and own > width:
                    held = f"{held.removesuffix(chr(92))} {line.strip()}"
                    continue
                if held:
                    found[Command(page, held, False)] = None
                held, width = (line.strip(), own) if _is_command(line.strip()) else ("", 0)
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`([^`]+)`", prose):
            if _is_command(one := " ".join(span.split())):
                found[Command(page, one, True)] = None
    return list(found)
