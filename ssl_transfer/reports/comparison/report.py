"""The report of a comparison: report.md for a pull request, report.html in one file for everybody."""

import base64
import math
import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from rich.text import Text

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.evaluation.comparison import result_tables
from ssl_transfer.evaluation.comparison.curves import BENEFIT_COLUMNS, transfer_benefits
from ssl_transfer.evaluation.comparison.estimates import (
    IMAGES,
    SEEDS,
    Cell,
    Cells,
    Estimate,
    Hits,
    Row,
    budget_title,
    by_cell,
    difference_of,
    estimate_of,
    percent_of,
)
from ssl_transfer.evaluation.comparison.label_efficiency import (
    LABEL_VALUE_COLUMNS,
    LabelValue,
    label_values,
    table_rows,
)
from ssl_transfer.evaluation.comparison.verdict import verdict
from ssl_transfer.models.init_names import CONTINUED
from ssl_transfer.reports import figures
from ssl_transfer.reports.evaluation import write_picture
from ssl_transfer.reports.rendering import TEMPLATES

from . import break_even, caveats, costs, diagnostics
from .benefits import benefit_lines

_DENSITY = 1.5
"""Pixels of a figure for each of the page: figures have 144 an inch, pages 96."""


def draw(folder: Path, *, threshold: float | None = None) -> None:
    """Write the report, its pictures and the tables that follow from a comparison's results.

    Args:
        folder: the comparison's.
        threshold: see `curves.transfer_benefits`.
    """
    rows = result_tables.read_results(folder)
    result_tables.write_summary(folder, rows, result_tables.read_hits(folder))
    lines = result_tables.read_curves(folder)
    benefits = transfer_benefits(lines, threshold=threshold)
    result_tables.write_lines(
        folder / "transfer_benefits.csv", BENEFIT_COLUMNS, (list(row.values()) for row in benefits)
    )
    content = _content(folder, rows)
    comparison = content["comparison"]
    pictures = {
        "label_efficiency": figures.label_efficiency(rows),
        "learning_curves": figures.learning_curves(lines, rows),
        "cost": figures.cost(rows),
    }
    confusions = diagnostics.confusions(folder, rows, comparison)
    embeddings = diagnostics.embedding_map(folder, rows)
    drawn = [*confusions, *([embeddings] if embeddings else [])]
    for name, picture in {**pictures, **{one.name: one.content for one in drawn}}.items():
        write_picture(folder / f"{name}.png", picture)
    result_tables.write_lines(folder / "label_value.csv", LABEL_VALUE_COLUMNS, table_rows(content["label_values"]))
    returns = break_even.returns(rows, lines)
    content |= {
        "benefits": benefit_lines(benefits),
        "pictures": {name: _for_page(picture, _DENSITY) for name, picture in pictures.items()},
        "confusions": [_shown(one, _DENSITY) for one in confusions],
        "embeddings": _shown(embeddings, _DENSITY) if embeddings else None,
        "reconstructions": [_shown(one, 1.0) for one in diagnostics.reconstructions(folder, comparison)],
        "returns": break_even.lines_of(returns),
        "return_sentences": break_even.sentences_of(returns),
        "trust": caveats.section(rows, comparison, result_tables.read_optional(folder / "diagnosis.csv")),
        "settings": diagnostics.setting_lines(comparison),
    }
    for name in ("report.md", "report.html"):
        write_text(folder / name, TEMPLATES.get_template(f"{name}.jinja").render(content))


def _shown(one: diagnostics.Shown, density: float) -> dict[str, Any]:
    return {"name": one.name, "caption": one.caption, **_for_page(one.content, density)}


def _for_page(picture: bytes, density: float) -> dict[str, Any]:
    """A PNG inside a page: its bytes in base64, and its width in the page's pixels, `density` of its own each."""
    # The header's first chunk begins with the width.
    (width,) = struct.unpack(">I", picture[16:20])
    return {"bytes": base64.b64encode(picture).decode(), "width": round(width / density)}


def show(folder: Path) -> None:
    """Print the table of test accuracies, the answer and where the report lies."""
    rows = result_tables.read_results(folder)
    content = _content(folder, rows)
    screen = console()
    table = Table(title="Test accuracy [95 % interval]; in round brackets the difference to scratch")
    for column in ("arm", "backbone", *content["budgets"]):
        table.add_column(column)
    for line in content["lines"]:
        cells = [
            "\n".join([cell["text"], *(f"({difference['text']})" for difference in cell["differences"])])
            for cell in line["cells"]
        ]
        # As text: rich would take what stands in square brackets for markup.
        table.add_row(*(Text(cell) for cell in (line["arm"], line["backbone"], *cells)))
    screen.print(table)
    screen.print(content["verdict"], markup=False)
    failures = content["comparison"].get("failures", [])
    missing = [f"{counted(len(failures), 'run')} failed, which the report names."] if failures else []
    for warning in [*content["comparison"].get("warnings", []), *missing]:
        screen.print(f"Warning: {warning}", style="bold", markup=False)
    print(f"report: {folder / 'report.html'}")


def _content(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """What the templates show."""
    cells, hits = by_cell(rows, split="test"), result_tables.read_hits(folder)
    pairs, phases = figures.pairs_of(rows), figures.phases_of(rows)
    labels = list(dict.fromkeys(row.labels for row in rows))
    comparison = read_json(folder / "comparison.json", remedy="Call `compare` again with the same settings.")
    # Comparisons of older versions do not say their number of classes: they have no label values.
    classes = comparison.get("num_classes")
    per_class = {budget: sizes[0] / classes for budget, sizes in comparison["images"].items()} if classes else {}
    values = label_values(rows, hits, per_class)
    return {
        "config": shlex.quote(str(folder / "config.yaml")),
        "verdict": verdict(rows, hits, per_class),
        "label_values": values,
        "label_value_lines": [_value_line(*item) for item in values],
        "budgets": [budget_title(budget) for budget in labels],
        "lines": [
            {
                "arm": arm,
                "backbone": backbone,
                "cells": [_cell(cells, hits, (arm, backbone, budget), len(comparison["seeds"])) for budget in labels],
            }
            for arm, backbone in pairs
        ],
        "continued": any(arm.startswith(CONTINUED) for arm, _ in pairs),
        "phases": [
            {
                "arm": arm,
                "backbone": backbone,
                "phase": phase,
                "cells": [_phase_cell(cells, (arm, backbone, budget, phase, "accuracy")) for budget in labels],
            }
            for arm, backbone in pairs
            for phase in phases
        ],
        "phase_names": phases,
        "costs": costs.table_of(rows, pairs, phases),
        "comparison": comparison,
        "images": {percent_of(labels) or labels: sizes for labels, sizes in comparison["images"].items()},
        "turns": len(comparison["seeds"]) > comparison["pretrain_seeds"],
        "environment": read_json(folder / "environment.json", remedy="Call `compare` again with the same settings."),
    }


def _cell(cells: Cells, hits: Hits, place: tuple[str, str, str], num_seeds: int) -> dict[str, Any]:
    """One number of the main table (arm, backbone, labels), and its differences to the baselines on its backbone.

    Where runs failed there are fewer than `num_seeds`, and their count stands there, or a dash.
    """
    arm, backbone, labels = place
    ours: Cell = (arm, backbone, labels, "chosen", "accuracy")
    if ours not in cells:
        return {"text": "-", "differences": []}
    baselines = {"scratch": "", "imagenet": " to imagenet"} if arm.startswith(CONTINUED) else {"scratch": ""}
    differences = []
    for baseline, note in baselines.items():
        theirs: Cell = (baseline, backbone, labels, "chosen", "accuracy")
        if arm == baseline or not cells[ours].keys() & cells.get(theirs, {}).keys():
            continue
        difference = difference_of(ours, theirs, cells, hits)
        outcome = "better" if difference.low > 0 else "worse" if difference.high < 0 else "open"
        # An interval over test images says nothing of another draw of labels: no colour.
        outcome = outcome if difference.over == SEEDS else "open"
        pairs = f" ({difference.count} pairs)" if difference.count < len(cells[ours]) else ""
        differences.append({"text": f"{_interval(difference, sign='+')}{note}{pairs}", "outcome": outcome})
    count = f" ({len(cells[ours])} of {num_seeds} seeds)" if len(cells[ours]) < num_seeds else ""
    return {"text": f"{_interval(estimate_of(ours, cells, hits))}{count}", "differences": differences}


def _phase_cell(cells: Cells, cell: Cell) -> str:
    """One number of the table of phases; a dash where this arm's plan has no such phase."""
    return _interval(estimate_of(cell, cells, {})) if cell in cells else "-"


def _value_line(cell: Cell, baseline: str, value: LabelValue) -> dict[str, str]:
    """One line of the table of label values."""
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
    """A share as percent with its interval, or without one where there was one seed."""
    if not found.over:
        return f"{found.percent(sign)} [{'one seed' if found.count < 2 else 'all seeds agree'}]"
    return f"{found.percent(sign)}{' over images' if found.over == IMAGES else ''}"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Draw a comparison's report again from its results."""

    path: Annotated[str, *configuration.positional("COMPARISON")] = ""
    """The comparison's folder."""
    threshold: float | None = None
    """The validation accuracy, 0 to 1, to which steps are counted. None: 90 % of scratch's final one."""


def main(arguments: Sequence[str], program: str = "ssl-transfer report") -> None:
    """`report COMPARISON`."""
    settings, rest = configuration.take_config(arguments)
    config = configuration.parse(ReportConfig, settings, rest, program=program, default=ReportConfig())
    if not config.path:
        raise InputError("Which comparison? Give its folder, as in `ssl-transfer report runs/demo`.")
    folder = Path(config.path)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the --output of `compare`.")
    if not (folder / "comparison.json").is_file():
        raise InputError(
            f"{folder}: holds no finished comparison (no comparison.json). Give the --output of `compare`."
        )
    if config.threshold is not None and not 0.0 < config.threshold <= 1.0:
        raise InputError(f"--threshold {config.threshold}: an accuracy, above 0 and at most 1.")
    draw(folder, threshold=config.threshold)
    show(folder)
