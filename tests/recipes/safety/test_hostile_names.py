"""Names of classes, files, arms and DATA that would be markup: each page shows them as text, each table stays whole."""

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_transfer.evaluation.comparison.adaptation_table import AdaptedRun, Point
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.reports import adaptation, distillation

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
PIPES = "a | b `c` $\\x$ {{ 7 * 7 }} [x](javascript:alert(1))"
NAMES = (SCRIPT, IMAGE, PIPES)
FILE_NAME = '"><img src=x onerror=alert(1)>'
"""A file's name has no slash."""


class Markup(html.parser.HTMLParser):
    """Collect the elements of a page, as a browser parses them."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        links = [value or "" for name, value in attrs if name in ("src", "href")]
        wrong = tag in ("script", "iframe", "object", "a", "base", "form") or any(
            name.startswith("on") for name in values
        )
        if wrong or any(not link.startswith("data:image/") for link in links):
            self.bad.append(str(self.get_starttag_text())[:200])
        self.text += [value or "" for name, value in attrs if name in ("alt", "title")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def markup(page: str) -> Markup:
    found = Markup()
    found.feed(page)
    return found


def check_page(page: Path, *names: str) -> None:
    found = markup(page.read_text(encoding="utf-8"))
    assert found.bad == []
    for name in names:
        assert name in "\n".join(found.text), name


def check_markdown(page: Path) -> None:
    """No tag, and in each table as many cells a line as in its head."""
    # What is indented is code.
    text = re.sub(r"^    .*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    without_code = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"<(?!br>)[a-z/]", without_code)
    assert not re.search(r"(?<!\\)\]\(javascript", without_code)
    tables = 0
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block
        tables += 1
    assert tables >= 1


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Classes with such names, in a folder with one too: its DATA string."""
    folder = tmp_path / FILE_NAME
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (72, 16, 16), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.repeat(NAMES, 24))
    return f"npz:{folder / 'images.npz'}"


def test_a_comparison(run: Callable, tiny: dict, tmp_path: Path, images: str) -> None:
    folder = tmp_path / "compared"
    flags = ("--data", images, "--labels", 2, "--seeds", 0, "--batch-size", 32, "--loading.cache", tmp_path / "cache")
    answer = run(
        *("compare", *tiny["compare"], *tiny["convolutional"], *flags, "--output", folder),
        *("--arms", "simclr", "autoencoder", "--loading.near-duplicates", "free"),
    )
    assert answer.status == 0, answer.err
    # A run that failed with such a message, and an arm of such a name.
    held = json.loads((folder / "comparison.json").read_text())
    held["failures"] = [{"folder": f"runs/{IMAGE}", "lines": [SCRIPT, IMAGE], "held_back": 0}]
    # The tables are changed below, as an older version might have left them.
    del held["checksums"]
    (folder / "comparison.json").write_text(json.dumps({**held, "warnings": list(NAMES)}))
    for table in folder.glob("*.csv"):
        quoted = IMAGE.replace('"', '""')
        table.write_text(table.read_text().replace("\nsimclr,", f'\n"{quoted}",'))
    answer = run("report", folder)
    assert answer.status == 0, answer.err
    check_page(folder / "report.html", *NAMES, f"Does pretraining help? {images}")
    check_markdown(folder / "report.md")


def test_a_data_check(run: Callable, tmp_path: Path, images: str, draw_images: Callable) -> None:
    run("data", "check", images, "--output", tmp_path / "check")
    check_page(tmp_path / "check" / "check.html", *NAMES, images)
    folder = draw_images(tmp_path / "folder", disc=4, **{FILE_NAME: 4})
    (folder / "disc" / f"{FILE_NAME}.png").write_bytes(b"no image")
    run("data", "check", f"folder:{folder}", "--output", tmp_path / "again")
    check_page(tmp_path / "again" / "check.html", FILE_NAME, f"disc/{FILE_NAME}.png")


def adapted(method: str, accuracy: float) -> AdaptedRun:
    told = {"information": 1.5, "density": 3.0, "importance": 0.5, "a_distance": 1.2}
    result: dict[str, Any] = {
        "uses_target_labels": False,
        "target_test": {"accuracy": accuracy},
        "source_validation": {"accuracy": 0.9},
        "after": told,
        "training": {},
        "criteria": {"source": {"target_accuracy": 0.2, "value": 1.0}},
        "seconds": 1.0,
        "images_seen": 5,
        "num_parameters": 7,
        "peak_memory_mb": 1.0,
    }
    return AdaptedRun(method=method, seed=0, result=result)


def test_an_adaptation(tmp_path: Path) -> None:
    runs = [adapted("source-only", 0.5), *(adapted(name, 0.6) for name in NAMES[:2])]
    points = [Point(x=0.0, y=0.1 * number, domain="source", label=name) for number, name in enumerate(NAMES)]
    adaptation.write(
        *(tmp_path, runs, {"source-only": points}),
        title=f"{SCRIPT} to {PIPES}",
        backbone=IMAGE,
        labels="5",
        choose="source",
        failures=[{"folder": IMAGE, "lines": [SCRIPT], "held_back": 0}],
    )
    check_page(tmp_path / "report.html", SCRIPT, IMAGE, PIPES)
    check_markdown(tmp_path / "report.md")


def test_a_distillation(tmp_path: Path) -> None:
    arms, rows = ("alone", SCRIPT, PIPES, "teacher"), []
    for number, arm in enumerate(arms):
        key = {"arm": arm, "backbone": IMAGE, "labels": "5", "phase": "chosen", "seed": 0}
        rows.append(Row(**key, split="test", metric="accuracy", value=0.5 + 0.1 * number))
        rows.append(Row(**key, split="train", metric="num_parameters", value=400.0))
    facts = {
        "num_seeds": 1,
        "labels": "5",
        "num_train": 5,
        "num_validation": 5,
        "num_pool": 5,
        "num_test": 5,
        "pretrain_seeds": 1,
        "data": f"images of {SCRIPT}\n{IMAGE}",
        "model": f"runs/{IMAGE} `x`",
    }
    lines = distillation.lines_of(Results(rows), {"student": 300.0, "teacher": 100.0}, arms)
    page = tmp_path / "report.md"
    text = distillation._page(lines, facts)
    page.write_text(text)
    assert f"    images of {SCRIPT}\n    {IMAGE}" in text
    check_markdown(page)
