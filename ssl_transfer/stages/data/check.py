"""Report the problems of a data set on the terminal and in one HTML file: `ssl-transfer data check`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from ssl_transfer.data.checks import findings
from ssl_transfer.data.checks.scan import Survey, survey
from ssl_transfer.data.dataset import PARTS
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted, words
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.printable import json_escaped
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.runs.run_folder import check_free
from ssl_transfer.engine.terminal import say
from ssl_transfer.reports.rendering import TEMPLATES

from .check_page import counts_of, page_of, parts_of

COLOURS = {"problem": "bold red", "warning": "yellow", "fine": "green"}
_CLASSES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check images before any training: unreadable files, copies, classes, sizes, colours.

    Writes check.html and findings.json. Exit status 0, or 1 where there are problems, or 2 where the command or the
    source cannot be used.
    """

    source: Annotated[str, *configuration.positional("DATA")] = ""
    """The images: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:REPO, medmnist:NAME, or made of others:
    blended-digits, blend:DATA,PHOTOFOLDER, union:DATA,DATA (docs/howto/data.md)."""
    data: str = ""
    """The same, as a flag."""
    image_size: int = 64
    """Pixels a side of the model's input."""
    output: Path | None = None
    """Folder for the results. Default: runs/check- and the name of the images."""
    loading: LoadingConfig = LoadingConfig()
    """Settings for reading and splitting images."""


def check(config: CheckConfig) -> Survey:
    """Check the data, print the findings and write the report."""
    source = config.source or config.data
    if not source or (config.source and config.data):
        raise InputError("Which images? Give DATA once, as in `ssl-transfer data check folder:PATH`.")
    output = config.output or Path(f"runs/check-{data_label(source)}")
    check_free(output)
    found = survey(source, image_size=config.image_size, config=config.loading)
    ownership.own_folder(output)
    show(found)
    write(found, output, image_size=config.image_size)
    say(f"all of it, with pictures: {output / 'check.html'}")
    return found


def verdict(found: Survey) -> str:
    """Return a verdict in one sentence."""
    tally = {severity: sum(one.severity == severity for one in found.findings) for severity in ("problem", "warning")}
    if not any(tally.values()):
        return "Nothing wrong was found."
    return " and ".join(counted(count, severity) for severity, count in tally.items() if count) + "."


def show(found: Survey) -> None:
    """Print the counts, the findings and the verdict."""
    screen, lines = console(), counts_of(found)
    table = Table(title=words(found.dataset.source), title_justify="left")
    table.add_column("class")
    for name in parts_of(found):
        table.add_column(name + (" (by seed)" if name in found.divided else ""), justify="right")
    shown = lines if len(lines) <= _CLASSES_SHOWN + 1 else [*lines[: _CLASSES_SHOWN - 1], lines[-1]]
    for line in shown:
        if line is lines[-1] and len(shown) < len(lines):
            table.add_row(f"... {len(lines) - len(shown):,} more", *("" for _ in line["counts"]))
        table.add_row(words(line["name"]), *(f"{count:,}" for count in line["counts"]))
    screen.print(table)
    listing = Table.grid(padding=(0, 2))
    listing.add_column(no_wrap=True)
    listing.add_column()
    for one in found.findings:
        text = words(f"{one.topic}: ", style="bold")
        text.append_text(words(one.sentence, style="not bold"))
        if one.remedy and one.severity != "fine":
            text.append_text(words(f" {one.remedy}", style="not bold italic"))
        listing.add_row(words(one.severity, style=COLOURS[one.severity]), text)
    screen.print(listing)
    worst = next((one.severity for one in found.findings), "fine")
    screen.print(words(verdict(found), style=COLOURS[worst]))


def write(found: Survey, output: Path, *, image_size: int) -> None:
    """Write `findings.json` and `check.html`."""
    content = {
        "source": found.dataset.source,
        "image_size": image_size,
        "fingerprint": found.dataset.fingerprint,
        "verdict": verdict(found),
        "counts": {line["name"]: dict(zip(parts_of(found), line["counts"], strict=True)) for line in counts_of(found)},
        "divided": list(found.divided),
        "channels": _channels(found),
        "findings": [
            {
                "topic": one.topic,
                "severity": one.severity,
                "sentence": one.sentence,
                "remedy": one.remedy,
                "images": [[str(found.images.names[index]) for index in group] for group in one.groups],
                "details": list(one.details),
            }
            for one in found.findings
        ],
    }
    text = json.dumps(redacted_all(content), indent=1, ensure_ascii=False)
    write_text(output / "findings.json", json_escaped(text))
    page = TEMPLATES.get_template("data_check.html.jinja").render(**content, **page_of(found, image_size))
    write_text(output / "check.html", page)


def _channels(found: Survey) -> list[dict[str, Any]]:
    """Compute the mean and deviation of each channel, part by part, in 0..1."""
    lines = []
    for name in parts_of(found):
        chosen = found.images.parts == PARTS.index(name)
        mean, deviation = findings.channel_statistics(found.moments, chosen, found.dataset.value_range)
        lines.append({"part": name, "mean": mean.tolist(), "deviation": deviation.tolist()})
    return lines


def main(arguments: Sequence[str], program: str = "ssl-transfer data check") -> None:
    """Run `data check DATA [flags]`; exit status 1 where there are problems."""
    settings, rest = configuration.take_config(arguments)
    found = check(configuration.parse(CheckConfig, settings, rest, program=program, default=CheckConfig()))
    if any(one.severity == "problem" for one in found.findings):
        sys.exit(1)
