"""Damaged runs of a comparison are refused before any run, and `--retry` repeats them to the same numbers."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.engine.io.ownership import MARKER
from ssl_transfer.evaluation.comparison.tables.table_files import TABLES
from ssl_transfer.evaluation.comparison.write_tables import MEASURED

FLAGS = ("compare", "--arms", "simclr", "--labels", "1", "--seeds", "0", "1", "--pretrain-seeds", "1")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> tuple[Path, tuple[object, ...]]:
    """Run a comparison of SimCLR with scratch; return its folder, which is read only, and its flags."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("comparison") / "run"
    flags = (*FLAGS, *tiny["compare"], *tiny["convolutional"])
    main([*map(str, flags), "--output", str(folder)])
    return folder, flags


@pytest.fixture
def copied(comparison: tuple, tmp_path: Path) -> Path:
    return shutil.copytree(comparison[0], tmp_path / "a copy")


def flip(path: Path, place: float = 0.5) -> None:
    held = bytearray(path.read_bytes())
    held[int(place * len(held))] ^= 0b100
    path.write_bytes(held)


def change_digit(path: Path) -> None:
    held = path.read_text()
    at = held.index('"accuracy": 0.') + len('"accuracy": 0.')
    path.write_text(f"{held[:at]}{(int(held[at]) + 5) % 10}{held[at + 1 :]}")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    path.unlink()


PRETRAINING, FIRST, SECOND = (
    "pretrain/simclr-*",
    "transfer/scratch-*/labels-1/seed0",
    "transfer/simclr-*/labels-1/seed1",
)
DAMAGES: dict[str, dict[str, Callable[[Path], None]]] = {
    "results": {
        f"{PRETRAINING}/result.json": cut,
        f"{FIRST}/result.json": change_digit,
        f"{SECOND}/result.json": blank,
    },
    "weights and predictions": {
        f"{PRETRAINING}/backbone/backbone.safetensors": flip,
        f"{FIRST}/predicted.npy": remove,
        f"{SECOND}/predicted.npy": flip,
    },
    "seals": {
        f"{PRETRAINING}/seal.json": remove,
        f"{FIRST}/seal.json": flip,
        f"{SECOND}/seal.json": remove,
    },
    "records": {
        f"{PRETRAINING}/backbone/backbone.json": flip,
        f"{FIRST}/environment.json": cut,
        f"{SECOND}/config.yaml": flip,
    },
    "seen images": {
        f"{PRETRAINING}/backbone/seen.npy": blank,
        f"{FIRST}/result.json": blank,
        f"{SECOND}/result.json": cut,
    },
    "logs": {
        f"{PRETRAINING}/metrics.jsonl": cut,
        f"{FIRST}/metrics.jsonl": flip,
        f"{SECOND}/config.yaml": blank,
    },
}


def numbers(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] not in MEASURED]


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_runs_are_refused_and_repeated(copied: Path, comparison: tuple, run: Callable, case: str) -> None:
    names = []
    for pattern, damage in DAMAGES[case].items():
        (path,) = copied.glob(pattern)
        damage(path)
        names.append(path)
    assert len(names) == 3
    held = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    before = numbers(copied)
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 2
    assert "3 of 5 runs are damaged" in answer.err
    assert all(str(path.parent).removesuffix("/backbone") in answer.err for path in names)
    assert "another init" not in answer.err
    assert "The same command with --retry" in answer.err
    changed = {path for path, content in held.items() if path.read_bytes() != content}
    # The settings of the comparison are written at each start.
    assert {path.name for path in changed if MARKER not in path.parts} <= {"config.yaml", "environment.json"}
    answer = run(*comparison[1], "--retry", "--output", copied)
    assert answer.status == 0, answer.err
    assert numbers(copied) == before
    # The damaged files are kept under another name.
    kept = {path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert all(held[path] in kept for path in names if path in held)


def test_a_damaged_record_of_an_unfinished_run(copied: Path, comparison: tuple, run: Callable) -> None:
    (result,) = copied.glob(f"{FIRST}/result.json")
    result.unlink()
    (record := result.parent / MARKER / "written").write_text("{")
    before = numbers(copied)
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 2
    assert f"{record}, is damaged" in answer.err
    assert run(*comparison[1], "--retry", "--output", copied).status == 0
    assert numbers(copied) == before
    assert (result.parents[1] / "seed0.old-1").is_dir()


def test_another_pretraining_after_the_mending_repeats_its_transfers(
    copied: Path, comparison: tuple, run: Callable
) -> None:
    """A pretraining that is repeated on another machine has other weights."""
    (transfer,) = copied.glob("transfer/simclr-*/labels-1/seed0")
    held = json.loads((transfer / "environment.json").read_text())
    held["identity"]["init"] = "0" * 16
    (transfer / "environment.json").write_text(json.dumps(held))
    seal = json.loads((transfer / "seal.json").read_text())
    assert "environment.json" in seal["files"]
    shutil.rmtree(transfer / MARKER)
    (transfer / "seal.json").unlink()
    result = json.loads((transfer / "result.json").read_text())
    del result["seal"]
    (transfer / "result.json").write_text(json.dumps(result))
    before = numbers(copied)
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 1
    assert "another init" in answer.err
    assert "the tables stay as they are" in answer.err
    assert numbers(copied) == before
    answer = run(*comparison[1], "--retry", "--output", copied)
    assert answer.status == 0, answer.err
    assert "older version without checksums" in " ".join(answer.out.split())
    assert numbers(copied) == before


def test_a_comparison_without_its_record_goes_on(copied: Path, comparison: tuple, run: Callable) -> None:
    """A copy without hidden files, or of version 0.1: names of outputs count."""
    shutil.rmtree(copied / MARKER)
    before = numbers(copied)
    assert run("report", copied).status == 0
    shutil.rmtree(copied / MARKER)
    assert run(*comparison[1], "--output", copied).status == 0
    assert numbers(copied) == before


def test_a_failed_pretraining_with_damaged_settings(run: Callable, tiny: dict) -> None:
    """Each damage is refused with --retry as remedy, and that works."""
    shared = (*tiny["compare"], *tiny["convolutional"], "--output", "failed")
    flags = ("compare", "--arms", "simclr", "--labels", "1", "--seeds", "0", "--pretrain-seeds", "1", *shared)
    answer = run(*flags, "--simclr.optimizer.learning-rate", "1e30", "--simclr.optimizer.skip-limit", "0")
    assert answer.status == 1
    for damage in (b"a: [1", b"\xff", b"[" * 20000):
        (config,) = Path("failed").glob("pretrain/simclr-*seed0/config.yaml")
        config.write_bytes(damage)
        answer = run(
            *flags, "--simclr.optimizer.learning-rate", "1e30", "--simclr.optimizer.skip-limit", "0", "--retry"
        )
        assert answer.status == 1
        assert "Traceback" not in answer.err
    assert run(*flags, "--retry").status == 0


def test_tables_never_become_smaller(
    copied: Path, comparison: tuple, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose files were deleted, and which fails now, leaves the tables as they were."""
    (folder,) = copied.glob(FIRST)
    shutil.rmtree(folder)
    drawn = {name: (copied / name).read_bytes() for name in (*TABLES, "comparison.json", "report.md")}
    folder.write_text("in the way")
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 1
    assert "the tables stay as they are: 1 run in them failed at this start" in answer.err
    assert {name: (copied / name).read_bytes() for name in drawn} == drawn
    # Damaged tables may hold the run.
    (copied / "results.csv").write_bytes(changed := drawn["results.csv"].replace(b"0.", b"1.", 1))
    answer = run(*comparison[1], "--output", copied)
    assert "the tables stay as they are" in answer.err
    assert (copied / "results.csv").read_bytes() == changed
    folder.unlink()
    answer = run(*comparison[1], "--retry", "--output", copied)
    assert answer.status == 0, answer.err
    assert (copied / "test_hits.npz").read_bytes() == drawn["test_hits.npz"]


def test_fewer_seeds_are_said(copied: Path, comparison: tuple, run: Callable) -> None:
    answer = run(*comparison[1], "--seeds", "0", "--output", copied)
    assert answer.status == 0, answer.err
    assert "2 runs of the earlier tables have an arm, a budget or a seed that this command does not name" in answer.err
    answer = run(*comparison[1], "--output", copied)
    assert "earlier tables" not in answer.err


def test_predictions_of_an_unsealed_run_that_are_gone(
    copied: Path, comparison: tuple, run: Callable, unseal: Callable
) -> None:
    """The tables of the earlier start show that the run had some."""
    unseal(copied)
    (path,) = copied.glob(f"{SECOND}/predicted.npy")
    path.unlink()
    held = {name: (copied / name).read_bytes() for name in TABLES}
    answer = run(*comparison[1], "--output", copied)
    assert answer.status == 2
    assert f"{path}: missing" in answer.err
    assert {name: (copied / name).read_bytes() for name in TABLES} == held
    assert run(*comparison[1], "--retry", "--output", copied).status == 0
    assert path.is_file()
    assert (copied / "test_hits.npz").read_bytes() == held["test_hits.npz"]
