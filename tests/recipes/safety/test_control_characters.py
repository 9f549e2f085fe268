"""Control characters in names of files, classes and flags: each command shows them as text and keeps the raw names."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.cli.main import main

CLIPBOARD, CLEAR, BREAK, C1, REVERSED = "\x1b]52;c;aGk=\x07", "\x1b[2J", "a\nb\rc", "\x9b2J", "\u202egnp.exe"
SURROGATE = "\udcff"
"""A byte of a file's name that is no UTF-8."""
CLASSES = (f"=1+1{CLIPBOARD}{C1}", f"-class {CLEAR}{BREAK}{REVERSED}")
PLACE = f"place {CLEAR}{BREAK}"
"""Folder of the images and of the runs."""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PAGES = ("*.html", "*.md", "*.json", "*.jsonl")


def answer(*arguments: object) -> tuple[int, str]:
    """Run a command here: its exit status and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            return int(stop.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def check(text: str) -> None:
    """Assert that a text holds no control character, nor a line that begins inside a name."""
    assert not RAW.findall(text), re.findall(f".*{RAW.pattern}.*", text)[:5]
    assert not re.findall(r"^b(?:\\r|\r)c.*", text, flags=re.MULTILINE)


def pages(folder: Path) -> Iterator[Path]:
    """Yield the pages of a folder, each checked."""
    for pattern in PAGES:
        for page in folder.rglob(pattern):
            check(page.read_text(encoding="utf-8"))
            yield page


def names_of(folder: Path) -> list[str]:
    """Return the paths of the images below a folder."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]


@dataclass(frozen=True)
class Place:
    """A folder of images of hostile names, and a run that was trained on them."""

    images: Path
    run: Path
    flags: tuple[object, ...]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, tuple[str, ...]]) -> Place:
    folder = tmp_path_factory.mktemp("names") / PLACE
    images, generator = folder / "images", np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (images / name).mkdir(parents=True)
        for image in range(12):
            pixels = generator.integers(100 * number, 100 * number + 100, (16, 16, 3), dtype=np.uint8)
            hostile = (CLIPBOARD, CLEAR, BREAK, C1, REVERSED)[image % 5]
            Image.fromarray(pixels).save(images / name / f"{image:02}{hostile}.png")
    flags = ("--data", f"folder:{images}", "--loading.cache", folder / "cache")
    run = folder / f"run {CLEAR}{BREAK}"
    status, printed = answer(
        *("transfer", "--init", "scratch", *tiny["transfer"], *tiny["convolutional"], *flags, "--output", run)
    )
    assert status == 0, printed
    check(printed)
    return Place(images=images, run=run, flags=flags)


def test_a_data_check(place: Place, tmp_path: Path) -> None:
    broken, generator = tmp_path / PLACE, np.random.default_rng(0)
    for name in ("x", "y"):
        (broken / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(broken / name / f"{number}.png")
    (broken / "x" / f"{CLIPBOARD}{BREAK}.png").write_bytes(b"no image")
    for source in (place.images, broken):
        output = tmp_path / f"checked {source.name}"
        _, printed = answer("data", "check", f"folder:{source}", "--image-size", 16, "--output", output)
        assert r"\x1b[2J" in printed
        check(printed)
        assert len(list(pages(output))) == 2
    counts = json.loads((tmp_path / "checked images" / "findings.json").read_text(encoding="utf-8"))["counts"]
    assert counts.keys() == {*CLASSES, "all"}
    _, printed = answer("data", "cache", "--loading.cache", place.run.parent / "cache")
    assert r"\x1b" in printed
    check(printed)
    _, printed = answer("data", "preview", *place.flags, "--image-size", 16, "--output", tmp_path / "preview")
    check(printed)


def test_a_run(place: Place) -> None:
    assert len(list(pages(place.run))) >= 4
    held = json.loads((place.run / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert set(held["classes"]) == set(CLASSES)


def test_a_dry_run(place: Place, tiny: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    output = tmp_path / f"{CLEAR}{BREAK}"
    status, printed = answer(
        *("transfer", "--init", place.run, *tiny["transfer"], *place.flags, "--output", output, "--dry-run")
    )
    assert status == 0, printed
    assert r"\x1b[2J" in printed
    check(printed)


def test_an_evaluation(place: Place, tmp_path: Path) -> None:
    status, printed = answer("evaluate", place.run, "--output", tmp_path / CLEAR)
    assert status == 0, printed
    check(printed)
    assert list(pages(tmp_path / CLEAR))


def test_predictions_keep_the_names(place: Place, tmp_path: Path) -> None:
    output = tmp_path / f"{CLEAR}.csv"
    (broken := tmp_path / f"{CLIPBOARD}{BREAK}.png").write_bytes(b"no image")
    status, printed = answer("predict", place.run, place.images, broken, "--output", output)
    assert status == 0, printed
    assert r"\x1b]52" in printed
    check(printed)
    with open(output, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["path"] for line in lines} == {str(broken), *(str(path) for path in place.images.rglob("*.png"))}
    assert {line["predicted"] for line in lines} <= {*CLASSES, ""}
    for line in lines:
        check(line["error"])


def test_an_export(place: Place, tmp_path: Path) -> None:
    status, printed = answer("export", place.run, "--format", "huggingface", "--output", tmp_path / CLEAR)
    assert status == 0, printed
    check(printed)
    card = tmp_path / CLEAR / "README.md"
    assert card in list(pages(tmp_path / CLEAR))
    assert r"\x1b]52" in card.read_text(encoding="utf-8")
    assert set(json.loads((card.parent / "model.json").read_text(encoding="utf-8"))["classes"]) == set(CLASSES)


def test_an_explanation(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    status, printed = answer(
        *("explain", place.run, "--what", "maps", "grad-cam", "neighbours", "attacks", "--output", tmp_path / CLEAR),
        *("--pgd-steps", 1, "--num-images", 2, "--epsilons", "8/255", "--channels", 1, "--neighbours", 1),
    )
    assert status == 0, printed
    check(printed)
    assert list(pages(tmp_path / CLEAR))
    tables = list((tmp_path / CLEAR).glob("*.csv"))
    assert len(tables) >= 4
    for table in tables:
        check(table.read_text(encoding="utf-8"))
        with open(table, encoding="utf-8", newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "-class"))]


def test_a_comparison(place: Place, tiny: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    folder = tmp_path / f"{CLEAR}{BREAK}"
    status, printed = answer(
        *("compare", *tiny["compare"], *tiny["convolutional"], *place.flags, "--labels", 2, "--seeds", 0),
        *("--batch-size", 32, "--arms", "scratch", place.run, "--output", folder),
    )
    assert status == 0, printed
    check(printed)
    status, printed = answer("report", folder)
    assert status == 0, printed
    check(printed)
    assert {folder / "report.html", folder / "report.md"} <= set(pages(folder))
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        assert [line for line in csv.DictReader(file) if CLEAR in line["arm"]]


@pytest.mark.parametrize(
    "words",
    [
        (f"fold{CLEAR}",),
        ("data", f"che{CLEAR}{BREAK}"),
        ("data", "check", f"folder:/none/{CLEAR}{BREAK}"),
        ("data", "check", f"{CLEAR}{BREAK}"),
        ("evaluate", f"/none/{CLEAR}{BREAK}{SURROGATE}"),
        ("predict", f"/none/{CLEAR}{BREAK}", "x"),
        ("summary", f"{CLEAR}{BREAK}"),
        ("pretrain", f"{CLEAR}{BREAK}"),
        ("pretrain", "simclr", "--data", f"npz:/none/{CLEAR}{BREAK}"),
        ("transfer", f"--typo{CLEAR}{BREAK}", "1"),
        ("transfer", "--epochs", f"3{CLEAR}{BREAK}"),
        ("compare", "--data", "digits", "--arms", "scratch", f"simcl{CLEAR}{BREAK}"),
        ("compare", "--data", "digits", "--arms", "scratch", f"timm:{CLEAR}{BREAK}"),
        ("report", f"/none/{CLEAR}{BREAK}"),
        ("transfer", "--config", f"/none/{CLEAR}{BREAK}"),
        ("--print-completion", f"ba{CLEAR}{BREAK}"),
    ],
    ids=ascii,
)
def test_errors(words: tuple[str, ...]) -> None:
    status, printed = answer(*words)
    assert status == 2
    assert r"\x1b[2J" in printed
    check(printed)


@pytest.mark.parametrize(
    "content",
    ['"epo\\e[2Jchs": 3\n', 'epochs: "\\e[2J\\x9B"\n', "epochs: \x1b[2J\n", "\x1b[2J", 'data: "npz:/\\e[2J"\n'],
)
def test_a_file_of_settings(tmp_path: Path, content: str) -> None:
    (file := tmp_path / f"{C1}.yaml").write_text(content, encoding="utf-8")
    status, printed = answer("transfer", "--config", file, "--init", "scratch")
    assert status == 2
    check(printed)


def test_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("ssl_transfer.cli.main.usage", lambda: {}[CLEAR])
    with pytest.raises(KeyError) as caught:
        main(["--help"])
    caught.value.add_note(CLEAR)
    sys.excepthook(caught.type, caught.value, caught.tb)
    printed = capsys.readouterr().err
    assert r"\x1b[2J" in printed
    check(printed)
