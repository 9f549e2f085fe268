"""Draw the report of a comparison: `report.md`, and `report.html` in one file."""

import base64
import math
import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted, words
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.runs.run_folder import own_run_folder
from ssl_transfer.engine.terminal import say
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.estimates import IMAGES, Estimate
from ssl_transfer.evaluation.comparison.label_budgets import budget_title, percent_of
from ssl_transfer.evaluation.comparison.label_efficiency import (
    LABEL_VALUE_COLUMNS,
    LabelValue,
    label_values,
    table_rows,
)
from ssl_transfer.evaluation.comparison.results import Cell, Results, chosen_accuracy
from ssl_transfer.evaluation.comparison.tables.description_file import DESCRIPTION_FILE
from ssl_transfer.evaluation.comparison.tables.table_files import RESULTS_FILE, remedy_of
from ssl_transfer.evaluation.comparison.transfer_benefits import BENEFIT_COLUMNS, transfer_benefits
from ssl_transfer.evaluation.comparison.verdict import sentences
from ssl_transfer.models.init_names import is_continued, starts_of
from ssl_transfer.reports import figures
from ssl_transfer.reports.evaluation import write_picture
from ssl_transfer.reports.rendering import TEMPLATES

from . import break_even, caveats, costs, diagnostics
from .benefits import benefit_lines

_DENSITY = 1.5
"""Pixels of a figure for each of the page: figures have 144 an inch, pages 96."""


def draw(results: Results, *, threshold: float | None = None) -> None:
    """Write the report, its pictures and the tables that follow from the results, to the folder of the comparison.

    The threshold is that of `transfer_benefits`.
    """
    folder = results.folder
    write_tables.write_summary(folder, results)
    benefits = transfer_benefits(results, threshold=threshold)
    write_tables.write_lines(
        folder / "transfer_benefits.csv", BENEFIT_COLUMNS, (list(row.values()) for row in benefits)
    )
    values = label_values(results)
    write_tables.write_lines(folder / "label_value.csv", LABEL_VALUE_COLUMNS, table_rows(values))
    pictures = {
        "label_efficiency": figures.label_efficiency(results),
        "learning_curves": figures.learning_curves(results),
        "cost": figures.cost(results),
    }
    confusions, embeddings = diagnostics.confusions(results), diagnostics.embedding_map(results)
    drawn = [*confusions, *([embeddings] if embeddings else [])]
    for name, picture in {**pictures, **{one.name: one.content for one in drawn}}.items():
        write_picture(folder / f"{name}.png", picture)
    returns = break_even.returns(results)
    content = _summary(results) | {
        "config": shlex.quote(str(folder / "config.yaml")),
        "label_values": values,
        "label_value_lines": [_value_line(*item) for item in values],
        "continued": any(is_continued(arm) for arm, _ in results.pairs),
        "phases": _phase_lines(results),
        "phase_names": results.phases,
        "costs": costs.table_of(results),
        "images": {percent_of(labels) or labels: sizes for labels, sizes in results.description["images"].items()},
        "environment": results.environment,
        "benefits": benefit_lines(benefits),
        "pictures": {name: _for_page(picture, _DENSITY) for name, picture in pictures.items()},
        "confusions": [_shown(one, _DENSITY) for one in confusions],
        "embeddings": _shown(embeddings, _DENSITY) if embeddings else None,
        "reconstructions": [_shown(one, 1.0) for one in diagnostics.reconstructions(results)],
        "returns": break_even.lines_of(returns),
        "return_sentences": break_even.sentences_of(returns),
        "trust": caveats.collect(results),
        "settings": diagnostics.setting_lines(results),
    }
    for name in ("report.md", "report.html"):
        write_text(folder / name, TEMPLATES.get_template(f"{name}.jinja").render(content))


def _shown(one: diagnostics.Shown, density: float) -> dict[str, Any]:
    return {"name": one.name, "caption": one.caption, **_for_page(one.content, density)}


def _for_page(picture: bytes, density: float) -> dict[str, Any]:
    """Encode a PNG for a page: its bytes in base64, and its width in the page's pixels, `density` of its own each."""
    # The header's first chunk begins with the width.
    (width,) = struct.unpack(">I", picture[16:20])
    return {"bytes": base64.b64encode(picture).decode(), "width": round(width / density)}


def show(results: Results) -> None:
    """Print the table of test accuracies, the verdict and the path of the report."""
    content = _summary(results)
    screen = console()
    table = Table(title="Test accuracy [95 % interval]; in round brackets the difference to scratch")
    for column in ("arm", "backbone", *content["budgets"]):
        table.add_column(column)
    for line in content["lines"]:
        cells = [
            words(cell["text"], *(f"({difference['text']})" for difference in cell["differences"]))
            for cell in line["cells"]
        ]
        table.add_row(words(line["arm"]), words(line["backbone"]), *cells)
    screen.print(table)
    answer, *reasons = content["verdict"]
    screen.print(words(answer, style="bold"))
    for sentence in reasons:
        screen.print(words(f"- {sentence}"))
    failures = results.description.get("failures", [])
    missing = [f"{counted(len(failures), 'run')} failed, which the report names."] if failures else []
    for warning in [*results.description.get("warnings", []), *missing]:
        screen.print(words(f"Warning: {warning}", style="bold"))
    say(f"report: {results.folder / 'report.html'}")


def _summary(results: Results) -> dict[str, Any]:
    """Return the content that page and terminal share: verdict and main table."""
    return {
        "verdict": sentences(results),
        "budgets": [budget_title(budget) for budget in results.budgets],
        "lines": [
            {
                "arm": arm,
                "backbone": backbone,
                "cells": [_cell(results, chosen_accuracy(arm, backbone, budget)) for budget in results.budgets],
            }
            for arm, backbone in results.pairs
        ],
        "comparison": results.description,
    }


def _cell(results: Results, ours: Cell) -> dict[str, Any]:
    """Format a cell of the main table, and its differences to the baselines on its backbone.

    Where runs failed, the count of finished seeds follows; a dash where none has finished.
    """
    arm, backbone, labels = ours[:3]
    if ours not in results.test:
        return {"text": "-", "differences": []}
    count, num_seeds = len(results.test[ours]), len(results.description["seeds"])
    differences = []
    for baseline in starts_of(arm):
        theirs = chosen_accuracy(baseline, backbone, labels)
        if arm == baseline or not results.share_seed(ours, theirs):
            continue
        difference = results.difference(ours, theirs)
        outcome = "better" if difference.low > 0 else "worse" if difference.high < 0 else "open"
        # An interval over test images does not cover another draw of labels: no colour.
        outcome = outcome if difference.over_runs else "open"
        note = "" if baseline == "scratch" else f" to {baseline}"
        pairs = f" ({difference.count} pairs)" if difference.count < count else ""
        differences.append({"text": f"{_interval(difference, sign='+')}{note}{pairs}", "outcome": outcome})
    finished = f" ({count} of {num_seeds} seeds)" if count < num_seeds else ""
    return {"text": f"{_interval(results.estimate(ours))}{finished}", "differences": differences}


def _phase_lines(results: Results) -> list[dict[str, Any]]:
    """Format the table of phases, with the number of runs that chose each; a dash where an arm's plan has none."""
    shares: dict[Cell, list[float]] = {}
    for row in results.rows:
        if row.metric == "chosen_share":
            shares.setdefault((row.arm, row.backbone, row.labels, row.phase, "accuracy"), []).append(row.value)

    def text(cell: Cell) -> str:
        chosen = shares.get(cell, [])
        count = f"; chosen in {sum(chosen):.0f} of {len(chosen)}" if sum(chosen) else ""
        return f"{_interval(results.estimate(cell))}{count}"

    return [
        {
            "arm": arm,
            "backbone": backbone,
            "phase": phase,
            "cells": [
                text(cell) if cell in results.test else "-"
                for cell in ((arm, backbone, budget, phase, "accuracy") for budget in results.budgets)
            ],
        }
        for arm, backbone in results.pairs
        for phase in results.phases
    ]


def _value_line(cell: Cell, baseline: str, value: LabelValue) -> dict[str, str]:
    """Format a line of the table of label values."""
    utility = value.equals / value.own - 1.0
    return {
        "arm": cell[0],
        "backbone": cell[1],
        "budget": budget_title(cell[2]),
        "baseline": baseline,
        "equals": value.text,
        "utility": "-" if math.isinf(utility) else f"{utility:+.1f}",
    }


def _interval(found: Estimate, sign: str = "") -> str:
    """Format a share as percent with its interval, or with the reason why there is none."""
    if not found.over:
        return f"{found.percent(sign)} [{'one seed' if found.count < 2 else 'all runs agree'}]"
    return f"{found.percent(sign)}{' over images' if found.over == IMAGES else ''}"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Draw a comparison's report again from its results."""

    path: Annotated[str, *configuration.positional("COMPARISON")] = ""
    """The comparison's folder."""
    threshold: float | None = None
    """The validation accuracy, 0 to 1, to which steps are counted. None: 90 % of scratch's final one."""


def main(arguments: Sequence[str], program: str = "ssl-transfer report") -> None:
    """Run `report COMPARISON`."""
    settings, rest = configuration.take_config(arguments)
    config = configuration.parse(ReportConfig, settings, rest, program=program, default=ReportConfig())
    if not config.path:
        raise InputError("Which comparison? Give its folder, as in `ssl-transfer report runs/demo`.")
    folder = Path(config.path)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the --output of `compare`.")
    if not (folder / "comparison.json").is_file():
        remedy = remedy_of(folder) if (folder / RESULTS_FILE).is_file() else "Give the --output of `compare`."
        raise InputError(f"{folder}: holds no finished comparison (no comparison.json). {remedy}")
    if config.threshold is not None and not 0.0 < config.threshold <= 1.0:
        raise InputError(f"--threshold {config.threshold}: an accuracy, above 0 and at most 1.")
    results = Results.read(folder)
    own_run_folder(folder)
    if not results.has_checksums:
        say(
            f"{folder / DESCRIPTION_FILE}: no checksums, as an older version wrote it. A changed number in a table is "
            "not detected. The same `compare` again adds them."
        )
    draw(results, threshold=config.threshold)
    show(results)
