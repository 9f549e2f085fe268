"""`--dry-run`: the plan with its counts, and everything left as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_pretraining_is_told(run: Callable, tiny: dict, tmp_path: Path) -> None:
    answer = run("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--epochs", 50, "--dry-run")
    assert answer.status == 0, answer.err
    said = words(answer.out)
    assert "dry run" in said
    assert "1146 images, 50 epochs, 200 steps of 256 images" in said
    assert "runs/pretrain-simclr-resnet10t-digits-seed0: would be made" in said
    assert "method.temperature 0.2" in said
    assert "estimates" in said
    (row,) = (line for line in answer.out.splitlines() if "│ simclr" in line or "| simclr" in line)
    assert {"50", "200", "256"} <= set(row.replace("│", " ").replace("|", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_phases_of_a_transfer_are_told(run: Callable, tiny: dict, pretrained: Path, tmp_path: Path) -> None:
    flags = (*tiny["transfer"][2:], "--init", pretrained, "--plan", "partial", "--head-steps", 40)
    before = below(pretrained)
    answer = run("transfer", *flags, "--dry-run")
    assert answer.status == 0, answer.err
    rows = [line.replace("│", " ").split() for line in answer.out.splitlines() if "│" in line]
    counts = {row[0]: (row[2], int(row[5].replace(",", ""))) for row in rows}
    assert counts.keys() == {"head", "finetune"}
    assert counts["head"] == ("40", 170)
    assert counts["finetune"][0] == "4"
    assert 170 < counts["finetune"][1] < 19_082
    assert list(tmp_path.iterdir()) == []
    assert below(pretrained) == before


def test_a_comparison_counts_its_runs_and_what_is_done(run: Callable, tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--arms", "simclr", "--labels", 1, "--output", folder)
    flags += ("--pretrain-seeds", 1)
    assert run(*flags, "--seeds", 0).status == 0
    before = below(folder)
    answer = run(*flags, "--seeds", 0, 1, "--dry-run")
    assert answer.status == 0, answer.err
    said = words(answer.out)
    assert "1 pretraining and 4 transfer runs" in said
    assert "was begun before" in said or "has finished before" in said
    # Of the five the second seed's two transfers are left.
    assert "2 runs to go" in said
    answer = run(*flags, "--seeds", 0, 1, "--dry-run", "--fresh")
    assert "5 runs to go" in words(answer.out)
    assert "what is there would be moved aside" in words(answer.out)
    answer = run(*flags, "--seeds", 0, 1, "--dry-run", "--transfer.head-steps", 7)
    assert answer.status == 2
    assert "is now 7" in answer.err
    assert below(folder) == before


def test_a_wrong_plan_is_found(run: Callable, tiny: dict, pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    before = below(folder)
    flags = (*tiny["pretrain"], *tiny["convolutional"], "--output", folder, "--dry-run")
    answer = run("pretrain", "simclr", *flags, "--epochs", 9)
    assert answer.status == 2
    assert "epochs was 2 and is now 9" in answer.err
    answer = run("pretrain", "simclr", *flags)
    assert (answer.status, "has finished before" in words(answer.out)) == (0, True), answer.err
    answer = run("pretrain", "simclr", *flags, "--epochs", 9, "--fresh")
    assert (answer.status, "what is there would be moved aside" in words(answer.out)) == (0, True), answer.err
    assert below(folder) == before


def test_no_tracker_hears_of_it(run: Callable, tiny: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("wandb was told"))
    answer = run("transfer", *tiny["transfer"], *tiny["convolutional"], "--dry-run", "--tracking.wandb", "offline")
    assert answer.status == 0, answer.err


def test_a_search_for_a_rate_has_no_plan(run: Callable) -> None:
    answer = run("transfer", "--find-rate", "--dry-run")
    assert answer.status == 2
    assert "--dry-run would be ignored" in answer.err


def test_demos_are_told(run: Callable, tmp_path: Path) -> None:
    answer = run("demo", "adapt", "--methods", "dann", "--seeds", 0, "--image-size", 16, "--dry-run")
    assert answer.status == 0, answer.err
    assert "2 runs to go" in words(answer.out)
    assert list(tmp_path.iterdir()) == []


def test_an_older_run_does_not_mind(
    run: Callable, tiny: dict, pretrained: Path, tmp_path: Path, unseal: Callable
) -> None:
    """Its settings do not know of dry runs."""
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    unseal(folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("dry_run: false\n", ""))
    answer = run("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", folder)
    assert answer.status == 0, answer.err
    assert "finished before" in answer.out
    assert json.loads((folder / "result.json").read_text())["steps"] == 8
