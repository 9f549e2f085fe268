"""Show a report's sections in a notebook, with tables and figures."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.engine.errors import InputError, did_you_mean

_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+\.png)\)")
_TITLE = re.compile(r"^# .+$", re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """Section of a report: Markdown as text, and rendered in a notebook."""

    text: str
    folder: Path
    """Folder of its figures."""

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        """Return the Markdown with embedded figures, as a notebook may lie anywhere."""
        return _PICTURE.sub(self._inside, self.text)

    def _inside(self, found: re.Match[str]) -> str:
        file = (self.folder / found[2]).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            return found[0]
        return f"![{found[1]}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def report_section(folder: str | Path, title: str = "") -> Section:
    """Return a section of `report.md` in the folder of a comparison or of a demo, without its heading.

    Args:
        folder: the folder that `compare` returned.
        title: its heading; by default the text before the first heading: the answer.

    Raises:
        InputError: no report, or no such section.
    """
    folder = Path(folder)
    if not (folder / "report.md").is_file():
        raise InputError(f"{folder}: holds no report.md. Give the folder of a finished comparison.")
    # The notebook has headings of its own.
    text = _TITLE.sub("", (folder / "report.md").read_text(encoding="utf-8"))
    first, *rest = _HEADING.split(text)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    if not title:
        return Section(first.strip(), folder)
    if title not in sections:
        raise InputError(f"{title!r} is no section; there are {', '.join(sections)}.{did_you_mean(title, sections)}")
    return Section(sections[title].strip(), folder)
