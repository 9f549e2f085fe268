"""Compare with several plans: the same in every arm, chosen by validation, shown in the report."""

import csv
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

PLANS = ("fine-tune-frozen", "full-fast")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> tuple[Path, tuple[object, ...]]:
    """A comparison in which two plans compete, and its flags without them. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("plans") / "run"
    flags = (
        *("compare", "--data", "digits", "--arms", "scratch", "simclr", "--labels", "2", "--seeds", "0", "1"),
        *(*tiny["compare"], *tiny["convolutional"], "--output", str(folder), "--pretrain-seeds", "1"),
    )
    main((*flags, "--transfer.plans", *PLANS))
    return folder, flags


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_arm_has_the_same_plans(compared: tuple) -> None:
    folder, _ = compared
    runs = list(folder.rglob("transfer/*/config.yaml")) or [
        path for path in folder.rglob("config.yaml") if "plans" in yaml.safe_load(path.read_text())
    ]
    recipes = [yaml.safe_load(path.read_text()) for path in runs]
    own = {"init", "seed", "output", "backbone"}
    assert len(recipes) == 4
    assert all(recipe["plans"] == list(PLANS) for recipe in recipes)
    assert len({json.dumps({k: v for k, v in recipe.items() if k not in own}) for recipe in recipes}) == 1


def test_each_run_chooses_one_plan(compared: tuple) -> None:
    folder, _ = compared
    shares, curves = defaultdict(dict), defaultdict(set)
    for line in read(folder / "results.csv"):
        if line["metric"] == "chosen_share":
            shares[line["arm"], line["seed"]][line["phase"]] = float(line["value"])
    for line in read(folder / "curves.csv"):
        curves[line["arm"], line["seed"]].add(line["phase"])
    assert len(shares) == 4
    for run, found in shares.items():
        assert found.keys() == {"head", *PLANS}
        (chosen,) = (phase for phase, share in found.items() if share)
        assert curves[run] == ({"head", chosen} if chosen != "full-fast" else {"full-fast"})


def test_the_report_counts_the_choices(compared: tuple) -> None:
    folder, _ = compared
    text = (folder / "report.md").read_text()
    assert "Several plans compete in each run, the same in all arms (fine-tune-frozen, full-fast)." in text
    counts = [int(count) for count in re.findall(r"; chosen in (\d) of 2", text)]
    assert sum(counts) == 4


def test_a_folder_with_other_plans_is_refused_with_its_flags(compared: tuple, run: Callable) -> None:
    _, flags = compared
    answer = run(*flags)
    assert answer.status == 2
    found = re.search(r"To go on with its settings, add (--transfer\.plans .*?)\. Give", answer.err)
    assert found, answer.err
    assert run(*flags, *shlex.split(found[1])).status == 0
