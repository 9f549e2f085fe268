"""Numbers that are none: damaged tables and impossible results end with status 2, and every printed remedy works."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_transfer.engine.io.json_files import line_of, read_lines
from ssl_transfer.evaluation.comparison.tables.table_files import TABLES

PAGES = ("report.md", "report.html", "summary.csv")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> tuple[Path, tuple[object, ...]]:
    """A comparison of SimCLR with scratch, and its flags. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("comparison") / "run"
    flags = ("compare", "--arms", "simclr", "--labels", "1", "--seeds", "0", "1", "--pretrain-seeds", "1")
    flags += (*tiny["compare"], *tiny["convolutional"])
    # Stored in config.yaml, though a repetition with it would begin anew.
    main([*flags, "--fresh", "--output", str(folder)])
    return folder, flags


@pytest.fixture
def copied(comparison: tuple, tmp_path: Path) -> Path:
    return shutil.copytree(comparison[0], tmp_path / "a copy")


def finished(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def remedy_in(text: str) -> list[str]:
    """The words of the command that a message prints."""
    (command,) = re.findall(r"`([^`]*)`", text)
    return shlex.split(command)


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut in a line": ("results.csv", lambda held: held[:-4], "(simclr on resnet10t, labels 1, seed 1"),
    "cut at a line end": ("results.csv", lambda held: b"".join(held.splitlines(True)[:-1]), "cut off"),
    "byte-order mark": (
        "results.csv",
        lambda held: b"\xef\xbb\xbf" + held,
        "line 1: the file begins with a byte-order",
    ),
    "accuracy 97.5": ("results.csv", lambda held: re.sub(rb"accuracy,0\.", b"accuracy,97.", held, count=1), "line 2"),
    "nan": ("results.csv", lambda held: re.sub(rb"accuracy,0\.\d+", b"accuracy,nan", held, count=1), "'nan' must be"),
    "changed digit": ("results.csv", lambda held: re.sub(rb"loss,2", b"loss,3", held, count=1), "its checksum"),
    "duplicate rows": ("results.csv", lambda held: held + held.splitlines(True)[-1], "repeats line"),
    "empty description": ("comparison.json", lambda _: b"{}", "lacks data, which the report needs"),
    "nan in the description": (
        "comparison.json",
        lambda held: held.replace(b'"num_test": 450', b'"num_test": NaN'),
        "num_test is nan",
    ),
    **{
        f"{name} cut": (name, lambda held: held[: 3 * len(held) // 4 - 1].removesuffix(b"\n"), "cut off")
        for name in ("curves.csv", "diagnosis.csv", "confusions.csv", "embeddings.csv")
    },
    "hits cut": ("test_hits.npz", lambda held: held[: len(held) // 2], "not readable"),
    "hits changed": ("test_hits.npz", lambda held: held + b" ", "its checksum"),
    "environment": ("environment.json", lambda _: b"{}", "lacks command"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_refused(copied: Path, run: Callable, damage: str) -> None:
    """Before any page is drawn."""
    name, change, words = DAMAGES[damage]
    before = (copied / name).read_bytes()
    (copied / name).write_bytes(change(before))
    assert (copied / name).read_bytes() != before
    answer = run("report", copied)
    said = " ".join(answer.err.split())
    assert answer.status == 2
    assert "Traceback" not in said
    assert f"{copied / name}" in said
    assert words in said
    assert remedy_in(said)


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_table_is_refused(copied: Path, run: Callable, name: str) -> None:
    (copied / name).unlink()
    answer = run("report", copied)
    assert answer.status == 2
    assert f"{copied / name}: missing, but comparison.json has its checksum" in answer.err


def test_the_remedy_writes_the_tables_again(copied: Path, comparison: tuple, run: Callable) -> None:
    """No finished run is repeated, though the settings hold --fresh."""
    before, tables = finished(copied), {name: (copied / name).read_bytes() for name in TABLES}
    assert len(before) == 1 + 4
    (copied / "results.csv").write_bytes(tables["results.csv"][:-40])
    program, *command = remedy_in(run("report", copied).err)
    assert program == "ssl-transfer"
    answer = run(*command)
    assert answer.status == 0, answer.err
    assert finished(copied) == before
    assert {name: (copied / name).read_bytes() for name in TABLES} == tables
    answer = run("report", copied)
    assert answer.status == 0, answer.err
    assert "no checksums," not in answer.out
    # What a report draws has no checksum, and changes no table.
    assert {name: (copied / name).read_bytes() for name in TABLES} == tables
    assert run("report", copied).status == 0


def test_the_remedy_of_a_damaged_environment_works(copied: Path, run: Callable) -> None:
    before = finished(copied)
    (copied / "environment.json").write_text('{"command": 1}')
    move, rest = (part.strip() for part in shlex.join(remedy_in(run("report", copied).err)).split("'&&'"))
    subprocess.run(shlex.split(move), check=True)
    answer = run(*shlex.split(rest)[1:])
    assert answer.status == 0, answer.err
    assert finished(copied) == before
    assert json.loads((copied / "environment.json").read_text())["identity"]


def test_without_checksums_one_line_says_so(copied: Path, comparison: tuple, run: Callable) -> None:
    """As in a comparison of an older version; the same command adds them."""
    description = json.loads((copied / "comparison.json").read_text())
    del description["checksums"]
    (copied / "comparison.json").write_text(json.dumps(description))
    answer = run("report", copied)
    assert answer.status == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if "no checksums," in line]
    assert str(copied / "comparison.json") in line
    assert "`compare` again adds them" in line
    assert run(*comparison[1], "--output", copied).status == 0
    assert json.loads((copied / "comparison.json").read_text())["checksums"].keys() == {*TABLES, "comparison.json"}


def put(path: Path, place: tuple[str, ...], value: float) -> None:
    content = json.loads(path.read_text())
    holder = content
    for name in place[:-1]:
        holder = holder[content["chosen"] if name == "CHOSEN" else name]
    holder[place[-1]] = value
    path.write_text(json.dumps(content))


ACCURACY = ("phases", "CHOSEN", "test", "accuracy")
IMPOSSIBLE = {
    "nan": ("transfer/simclr-*/labels-1/seed0", ACCURACY, float("nan"), "test.accuracy is nan, but"),
    "inf": ("transfer/simclr-*/labels-1/seed0", ACCURACY, float("inf"), "test.accuracy is inf, but"),
    "97.5": ("transfer/scratch-*/labels-1/seed1", ACCURACY, 97.5, "test.accuracy is 97.5, but must be within 0 and 1"),
    "pretraining": ("pretrain/simclr-*", ("seconds",), float("inf"), "seconds is inf, but"),
    "predictions": ("transfer/simclr-*/labels-1/seed1", (), 0.0, "one whole number for each of 450 test images"),
}


@pytest.mark.parametrize(
    # Each kind of number has a test of its own in tests/unit/evaluation/comparison/tables/test_run_checks.py.
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case in ("inf", "97.5") else []) for case in IMPOSSIBLE],
)
def test_a_run_with_an_impossible_number_is_refused_and_repeated(
    copied: Path, comparison: tuple, run: Callable, seal_again: Callable, case: str
) -> None:
    """The tables stay as they are; after the remedy they are what they were."""
    place, names, value, words = IMPOSSIBLE[case]
    (folder,) = copied.glob(place)
    if names:
        put(folder / "result.json", names, value)
    else:
        np.save(folder / "predicted.npy", np.load(folder / "predicted.npy")[:-1])
    seal_again(folder)
    drawn = {name: (copied / name).read_bytes() for name in (*TABLES, "comparison.json", *PAGES)}
    answer = run(*comparison[1], "--output", copied)
    said = " ".join(answer.err.split())
    assert answer.status == 2
    assert "Traceback" not in said
    assert str(folder) in said
    assert words in said
    assert {name: (copied / name).read_bytes() for name in drawn} == drawn
    assert "The same command with --retry" in said
    answer = run(*comparison[1], "--retry", "--output", copied)
    assert answer.status == 0, answer.err
    assert (copied / "test_hits.npz").read_bytes() == drawn["test_hits.npz"]
    assert run("report", copied).status == 0


def test_a_non_finite_measurement_is_left_out_of_the_curves(
    copied: Path, comparison: tuple, run: Callable, seal_again: Callable
) -> None:
    """The result of the run is finite: it is used, with a warning."""
    (path,) = copied.glob("transfer/simclr-*/labels-1/seed0/metrics.jsonl")
    lines = read_lines(path)
    place = next(place for place, line in enumerate(lines) if (line["split"], line["step"]) == ("validation", 1))
    lines[place]["log_loss"] = float("nan")
    path.write_text("".join(map(line_of, lines)))
    seal_again(path.parent)
    before = (copied / "curves.csv").read_text().splitlines()
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 0, answer.err
    after = (copied / "curves.csv").read_text().splitlines()
    assert len(after) == len(before) - 1
    (warning,) = json.loads((copied / "comparison.json").read_text())["warnings"]
    assert f"{path}: 1 non-finite measurement left out of the learning curves" in warning
    assert "Warning" in (copied / "report.md").read_text()
    assert not re.search(r"\b(nan|inf)\b", (copied / "report.md").read_text())
