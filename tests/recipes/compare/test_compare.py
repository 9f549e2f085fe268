"""Compare: the tables and the report, nothing done twice, and the same numbers however many run at a time."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.comparison.tables import table_files

COLUMNS = {
    "results": "arm backbone labels seed phase split metric value",
    "summary": (
        "arm backbone labels phase metric num_seeds mean low high baseline difference difference_low difference_high "
        "p_value p_value_holm effect_size interval_over num_pairs num_pretrainings crossed_low crossed_high"
    ),
    "curves": "arm backbone labels seed phase epoch step split metric value",
}
"""Metrics that are a clock's or the machine's."""


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def results_without_costs(folder: Path) -> list[dict[str, str]]:
    return [line for line in read(folder / "results.csv") if line["metric"] not in write_tables.MEASURED]


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each run below the folder: when its result was written, how many lines its log has."""
    return {
        str(path.parent.relative_to(folder)): (
            path.stat().st_mtime_ns,
            len((path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()),
        )
        for path in sorted(folder.rglob("result.json"))
    }


@pytest.fixture(scope="module")
def comparison(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict, drawing: Callable
) -> tuple[Path, tuple[object, ...]]:
    """A comparison of two methods on two backbones, and its flags. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("comparison") / "run"
    flags = (
        *("compare", "--data", "digits", "--arms", "simclr", "mae", "--labels", "1", "2", "--seeds", "0", "1"),
        *(*tiny["compare"], *tiny["convolutional"], "--output", str(folder), "--pretrain-seeds", "1"),
        *("--mae.backbone.name", "vit_tiny_patch16_224", "--mae.backbone.stem", "small"),
        *("--mae.backbone.arguments", "embed_dim=16", "depth=1", "num_heads=2"),
    )
    with drawing():
        main(flags)
    return folder, flags


def test_leaves_tables_and_report(comparison: tuple) -> None:
    folder, _ = comparison
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "environment.json", "report.md", "report.html", *(f"{name}.csv" for name in COLUMNS)} < names
    for name, columns in COLUMNS.items():
        with open(folder / f"{name}.csv", encoding="utf-8") as file:
            assert file.readline().strip() == columns.replace(" ", ",")


def test_report_is_one_file(comparison: tuple) -> None:
    folder, _ = comparison
    page = (folder / "report.html").read_text(encoding="utf-8")
    # Three of the results, confusions, the map of features, and what MAE painted.
    confusions = len(list(folder.glob("confusion_*.png")))
    assert confusions >= 2
    assert page.count("data:image/png;base64,") == 3 + confusions + 1 + 1
    assert "http" not in page.split("<body")[1].replace("https://", "http://").split("data:image")[0]


def test_scratch_stands_beside_every_backbone(comparison: tuple) -> None:
    folder, _ = comparison
    pairs = {(line["arm"], line["backbone"]) for line in read(folder / "results.csv")}
    assert pairs == {
        *(("scratch", "resnet10t"), ("simclr", "resnet10t")),
        *(("scratch", "vit_tiny_patch16_224"), ("mae", "vit_tiny_patch16_224")),
    }


def test_results_are_complete(comparison: tuple) -> None:
    """Every arm at every budget and seed, in both phases and as chosen, on validation and test, and its costs."""
    lines = read(comparison[0] / "results.csv")
    accuracies = {
        (line["arm"], line["backbone"], line["labels"], line["seed"], line["phase"], line["split"]): line["value"]
        for line in lines
        if line["metric"] == "accuracy"
    }
    assert len(accuracies) == 4 * 2 * 2 * 3 * 2
    assert len(accuracies) == sum(line["metric"] == "accuracy" for line in lines)
    assert all(0.0 <= float(value) <= 1.0 for value in accuracies.values())
    for key, value in accuracies.items():
        if key[4] == "chosen":
            assert value in {accuracies[(*key[:4], phase, key[5])] for phase in ("head", "finetune")}
    seen = {line["arm"]: float(line["value"]) for line in lines if line["metric"] == "images_seen"}
    assert seen == {"scratch": 0.0, "simclr": 1024.0, "mae": 1024.0}


def test_summary_follows_from_the_results(comparison: tuple) -> None:
    results, summary = read(comparison[0] / "results.csv"), read(comparison[0] / "summary.csv")

    def values(arm: str) -> list[float]:
        return [
            float(line["value"])
            for line in results
            if (line["arm"], line["backbone"], line["labels"]) == (arm, "resnet10t", "2")
            and (line["phase"], line["split"], line["metric"]) == ("chosen", "test", "accuracy")
        ]

    ours, theirs = values("simclr"), values("scratch")
    assert len(ours) == len(theirs) == 2
    (line,) = [
        line
        for line in summary
        if (line["arm"], line["labels"], line["phase"], line["metric"]) == ("simclr", "2", "chosen", "accuracy")
    ]
    assert (line["baseline"], line["num_seeds"]) == ("scratch", "2")
    assert float(line["mean"]) == pytest.approx(sum(ours) / 2)
    assert float(line["difference"]) == pytest.approx((sum(ours) - sum(theirs)) / 2)
    assert float(line["difference_low"]) <= float(line["difference"]) <= float(line["difference_high"])


def test_curves_reach_the_validation_result(comparison: tuple) -> None:
    """The last point of a phase's curve is the number in the results."""
    folder, _ = comparison
    curve = [
        line
        for line in read(folder / "curves.csv")
        if (line["arm"], line["labels"], line["seed"], line["phase"]) == ("simclr", "2", "1", "finetune")
        and (line["split"], line["metric"]) == ("validation", "accuracy")
    ]
    (result,) = [
        line
        for line in read(folder / "results.csv")
        if (line["arm"], line["labels"], line["seed"], line["phase"]) == ("simclr", "2", "1", "finetune")
        and (line["split"], line["metric"]) == ("validation", "accuracy")
    ]
    assert curve[-1]["value"] == result["value"]


def test_confusions_are_those_of_the_chosen_models(comparison: tuple) -> None:
    """The mistakes of all seeds, and the accuracy that stands in the results."""
    folder, _ = comparison
    lines, results = read(folder / "confusions.csv"), read(folder / "results.csv")
    cells = {(line["arm"], line["backbone"], line["labels"]) for line in lines}
    assert len(cells) == 4 * 2
    for cell in cells:
        own = [line for line in lines if (line["arm"], line["backbone"], line["labels"]) == cell]
        total = sum(int(line["num_images"]) for line in own)
        right = sum(int(line["num_images"]) for line in own if line["class"] == line["predicted"])
        accuracies = [
            float(line["value"])
            for line in results
            if (line["arm"], line["backbone"], line["labels"]) == cell
            and (line["phase"], line["split"], line["metric"]) == ("chosen", "test", "accuracy")
        ]
        assert total == 2 * 450
        assert right / total == pytest.approx(sum(accuracies) / len(accuracies))


def test_every_arm_has_a_map_of_the_same_images_and_a_diagnosis(comparison: tuple) -> None:
    folder, _ = comparison
    maps: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for line in read(folder / "embeddings.csv"):
        maps.setdefault((line["arm"], line["backbone"]), []).append((line["image"], line["class"]))
    assert len(maps) == 4
    (images,) = {tuple(held) for held in maps.values()}
    assert len(images) == 201
    found = {
        (line["arm"], line["measure"], line["reference"]): float(line["value"])
        for line in read(folder / "diagnosis.csv")
    }
    assert all(0.0 <= found[arm, "separability", ""] <= 1.0 for arm in ("scratch", "simclr", "mae"))
    assert all(0.0 <= found[arm, "distance", ""] <= 2.0 for arm in ("scratch", "simclr", "mae"))
    assert found["simclr", "similarity", "scratch"] < 1.0
    assert ("scratch", "similarity", "scratch") not in found


def test_settings_that_differ_are_listed(comparison: tuple) -> None:
    folder, _ = comparison
    settings = json.loads((folder / "comparison.json").read_text())["settings"]
    arms = {"simclr on resnet10t", "mae on vit_tiny_patch16_224"}
    assert settings["backbone.name"] == {arm: arm.split(" on ")[1] for arm in arms}
    assert "epochs" not in settings
    assert all(held.keys() == arms for held in settings.values())


def test_without_kept_predictions_there_are_no_confusions(
    comparison: tuple, run: Callable, tmp_path: Path, unseal: Callable
) -> None:
    """As in the runs of an older version."""
    folder, flags = comparison
    copied = shutil.copytree(folder, tmp_path / "copy")
    for path in copied.glob("confusion_*.png"):
        path.unlink()
    for path in (copied / "transfer").rglob("predicted.npy"):
        path.unlink()
    for name in ("test_hits.npz", "comparison.json"):
        (copied / name).unlink()
    unseal(copied)
    answer = run(*flags, "--output", copied)
    assert answer.status == 0, answer.err
    assert read(copied / "confusions.csv") == []
    assert not list(copied.glob("confusion_*.png"))
    assert "What is taken for what" not in (copied / "report.html").read_text(encoding="utf-8")


@pytest.mark.figures
def test_second_start_redoes_nothing(comparison: tuple, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Report and terminal table share the results of the runs: what was just written is not read again."""
    folder, flags = comparison
    read: list[str] = []
    content = table_files.TableFiles._content
    monkeypatch.setattr(table_files.TableFiles, "_content", lambda self, name: read.append(name) or content(self, name))
    names = ("results", "confusions", "embeddings", "diagnosis")
    before, tables = state_of(folder), {name: (folder / f"{name}.csv").read_bytes() for name in names}
    assert len(before) == 2 + 4 * 2 * 2
    answer = run(*flags)
    assert answer.status == 0, answer.err
    assert state_of(folder) == before
    assert {name: (folder / f"{name}.csv").read_bytes() for name in names} == tables
    # The earlier tables are read before they are replaced.
    earlier = ["results.csv", "test_hits.npz"]
    assert sorted(read) == ["confusions.csv", "diagnosis.csv", "embeddings.csv", *earlier]


def test_added_seeds_and_budgets_run_alone(run: Callable, tmp_path: Path, tiny: dict) -> None:
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--arms", "scratch")
    assert run(*flags, "--labels", 2, "--seeds", 0).status == 0
    first, values = state_of(folder), results_without_costs(folder)
    assert len(first) == 1
    assert run(*flags, "--labels", 1, 2, "--seeds", 0, 1).status == 0
    second = state_of(folder)
    assert len(second) == 4
    assert first.items() < second.items()
    assert [line for line in results_without_costs(folder) if line in values] == values
    assert len(results_without_costs(folder)) == 4 * len(values)
    # Fewer again: the tables show what was asked for, and nothing is lost.
    assert run(*flags, "--labels", 2, "--seeds", 0).status == 0
    assert results_without_costs(folder) == values
    assert state_of(folder) == second


def test_added_arm_runs_alone(run: Callable, tmp_path: Path, tiny: dict) -> None:
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--labels", 2, "--seeds", 0)
    assert run(*flags, "--arms", "scratch").status == 0
    first = state_of(folder)
    assert run(*flags, "--arms", "scratch", "autoencoder").status == 0
    second = state_of(folder)
    assert first.items() < second.items()
    assert len(second) == 3


def test_pretraining_seeds_take_turns(run: Callable, tmp_path: Path, tiny: dict) -> None:
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--labels", 1)
    answer = run(*flags, "--arms", "simclr", "--seeds", 0, 1, 2, "--pretrain-seeds", 2)
    assert answer.status == 0, answer.err
    backbones = {path.parent.parent.name for path in folder.glob("pretrain/*/backbone/backbone.safetensors")}
    assert sorted(name[-5:] for name in backbones) == ["seed0", "seed1"]
    inits = [
        next(line for line in path.read_text().splitlines() if line.startswith("init:"))[-5:]
        for path in sorted(folder.glob("transfer/simclr-*/labels-1/seed*/config.yaml"))
    ]
    assert inits == ["seed0", "seed1", "seed0"]


def test_more_pretrainings_keep_what_is_there(run: Callable, tmp_path: Path, tiny: dict) -> None:
    """By default each seed has its own; the answer is then about the method."""
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--labels", 1)
    flags += ("--arms", "simclr", "--seeds", 0, 1)
    answer = run(*flags, "--pretrain-seeds", 1)
    assert answer.status == 0, answer.err
    assert "this pretrained network (simclr)" in answer.out
    first, values = state_of(folder), results_without_costs(folder)
    again = run(*flags)
    assert again.status == 0, again.err
    assert "this pretrained network" not in again.out
    second = state_of(folder)
    assert first.items() < second.items()
    # One more pretraining, and the transfer run that starts from it.
    assert len(second) == len(first) + 2
    places = sorted(path.name for path in folder.glob("transfer/simclr-*/labels-1/*"))
    assert places == ["seed0", "seed1", "seed1-pretraining1"]
    assert json.loads((folder / "comparison.json").read_text())["pretrainings"] == [0, 1]
    # And back: nothing is repeated.
    assert run(*flags, "--pretrain-seeds", 1).status == 0
    assert results_without_costs(folder) == values
    assert state_of(folder) == second


@pytest.mark.slow
def test_two_jobs_give_the_numbers_of_one(run: Callable, tmp_path: Path, tiny: dict) -> None:
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--arms", "simclr", "--labels", 1, "--seeds", 0, 1)
    folders = {jobs: tmp_path / f"jobs-{jobs}" for jobs in (1, 2)}
    for jobs, folder in folders.items():
        answer = run(*flags, "--jobs", jobs, "--output", folder)
        assert answer.status == 0, answer.err
    assert len(results_without_costs(folders[1])) > 0
    assert results_without_costs(folders[1]) == results_without_costs(folders[2])


@pytest.mark.figures
def test_report_draws_again(comparison: tuple, run: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(comparison[0], tmp_path / "copy")
    drawn = ("report.md", "report.html", "summary.csv", *(path.name for path in folder.glob("*.png")))
    assert len(drawn) == 3 + 4 + len(list(folder.glob("confusion_*.png")))
    # The page says where its comparison lies.
    moved = (str(comparison[0]).encode(), str(folder).encode())
    before = {name: (folder / name).read_bytes().replace(*moved) for name in drawn}
    for name in drawn:
        (folder / name).unlink()
    answer = run("report", folder)
    assert answer.status == 0, answer.err
    assert "Test accuracy" in answer.out
    assert str(folder / "report.html") in answer.out.replace("\n", "")
    assert {name: (folder / name).read_bytes() for name in drawn} == before


def test_report_follows_the_results(comparison: tuple, run: Callable, tmp_path: Path) -> None:
    """A number changed in results.csv of an older version, without checksums, is another number on the page."""
    folder = shutil.copytree(comparison[0], tmp_path / "copy")
    description = json.loads((folder / "comparison.json").read_text())
    del description["checksums"]
    (folder / "comparison.json").write_text(json.dumps(description))
    before = (folder / "report.md").read_text(encoding="utf-8")
    lines = read(folder / "results.csv")
    for line in lines:
        if (line["arm"], line["metric"], line["split"]) == ("simclr", "accuracy", "test"):
            line["value"] = "0.987"
    with open(folder / "results.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    assert run("report", folder).status == 0
    after = (folder / "report.md").read_text(encoding="utf-8")
    assert "98.7" in after
    assert "98.7" not in before
    assert json.loads((folder / "comparison.json").read_text())["labels"] == ["1", "2"]


def test_own_settings_win_over_common_ones(run: Callable, tmp_path: Path, tiny: dict) -> None:
    """Also where a method's own value is the one that it has by default."""
    from ssl_transfer import default_recipe

    folder = tmp_path / "run"
    own = default_recipe("simclr").batch_size
    answer = run(
        *("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--labels", 1, "--seeds", 0),
        *("--arms", "simclr", "autoencoder", "--batch-size", own // 2, "--simclr.batch-size", own),
    )
    assert answer.status == 0, answer.err
    sizes = {
        path.parent.name.split("-")[0]: next(
            line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("batch_size:")
        )
        for path in folder.glob("pretrain/*/config.yaml")
    }
    assert sizes == {"simclr": f"batch_size: {own}", "autoencoder": f"batch_size: {own // 2}"}


def test_a_collapsed_pretraining_is_named(
    comparison: tuple, run: Callable, tmp_path: Path, seal_again: Callable
) -> None:
    folder, flags = comparison
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert json.loads((folder / "comparison.json").read_text())["warnings"] == []
    (result,) = (path for path in (copied / "pretrain").glob("mae-*/result.json"))
    content = json.loads(result.read_text())
    assert content["collapsed"] == {}
    result.write_text(json.dumps({**content, "collapsed": {"step": 350, "feature_deviation": 0.001}}))
    seal_again(result.parent)
    answer = run(*flags, "--output", copied)
    assert answer.status == 0, answer.err
    (warning,) = json.loads((copied / "comparison.json").read_text())["warnings"]
    assert f"{result.parent.name} collapsed in step 350" in warning
    assert f"**Warning:** {warning}" in (copied / "report.md").read_text()
    assert "collapsed in step 350" in " ".join(answer.out.split())


def test_failed_runs_leave_the_others_alone(
    run: Callable, tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are listed with their last lines, the tables hold what finished, and --retry runs them again."""
    from ssl_transfer.stages.pretrain import pretrain
    from ssl_transfer.stages.transfer import plan_training

    train, run_phase = pretrain.train, plan_training.run_phase

    def failing_train(*arguments, plan, **settings):
        if plan.phase == "autoencoder":
            raise RuntimeError("CUDA out of memory")
        return train(*arguments, plan=plan, **settings)

    def failing_phase(training, *arguments, **settings):
        if (training.recipe.init, training.seed) == ("scratch", 1):
            raise RuntimeError("no space left")
        return run_phase(training, *arguments, **settings)

    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0, 1, "--output", folder)
    flags += ("--arms", "autoencoder", "simclr", "--pretrain-seeds", 1)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "train", failing_train)
        patched.setattr(plan_training, "run_phase", failing_phase)
        answer = run(*flags)
    assert answer.status == 1
    found = json.loads((folder / "comparison.json").read_text())["failures"]
    assert [Path(failure["folder"]).relative_to(folder).parts[0] for failure in found] == ["pretrain", "transfer"]
    assert [failure["lines"][-1] for failure in found] == [
        "RuntimeError: CUDA out of memory",
        "RuntimeError: no space left",
    ]
    assert [failure["held_back"] for failure in found] == [2, 0]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "(1 of 2 seeds)" in text
    for failure in found:
        assert failure["folder"] in answer.err
        assert all(failure["lines"][-1] in place for place in (answer.err, text, (folder / "report.html").read_text()))
    runs = {(line["arm"], line["seed"]) for line in read(folder / "results.csv")}
    assert runs == {("scratch", "0"), ("simclr", "0"), ("simclr", "1")}
    seeds = {line["arm"]: line["num_seeds"] for line in read(folder / "summary.csv")}
    assert seeds == {"scratch": "1", "simclr": "2"}

    before = state_of(folder)
    assert run(*flags).status == 1
    assert state_of(folder) == before
    answer = run(*flags, "--retry")
    assert answer.status == 0, answer.err
    assert before.items() < state_of(folder).items()
    assert len(state_of(folder)) == 2 + 6
    assert json.loads((folder / "comparison.json").read_text())["failures"] == []
    assert "--retry" not in (folder / "report.md").read_text(encoding="utf-8")


def test_what_diverged_is_retried_with_other_settings(run: Callable, tmp_path: Path, tiny: dict) -> None:
    """The same would diverge again. What has finished stays, and what had not is moved aside."""
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0, "--output", folder)
    flags += ("--arms", "scratch", "autoencoder", "simclr")
    answer = run(*flags, "--simclr.optimizer.learning-rate", "1e30")
    assert answer.status == 1
    assert "is not finite" in answer.err
    assert "--METHOD.optimizer.clip-norm 1" in answer.err
    before = state_of(folder)
    changed = run(*flags, "--simclr.optimizer.learning-rate", "0.01")
    assert changed.status == 2
    assert "simclr.optimizer.learning_rate was 1e+30 and is now 0.01" in changed.err
    finished = run(*flags, "--autoencoder.epochs", "1", "--simclr.optimizer.learning-rate", "0.01", "--retry")
    assert finished.status == 2
    assert "autoencoder.epochs" in finished.err
    assert state_of(folder) == before
    answer = run(*flags, "--simclr.optimizer.learning-rate", "0.01", "--retry")
    assert answer.status == 0, answer.err
    assert before.items() < state_of(folder).items()
    assert [path.name[-6:] for path in (folder / "pretrain").glob("simclr*.old-*")] == [".old-1"]


def test_nothing_finished_is_no_comparison(
    run: Callable, tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_transfer.stages.transfer import plan_training

    def failing(*arguments, **settings):
        raise RuntimeError("no space left")

    monkeypatch.setattr(plan_training, "run_phase", failing)
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0, "--arms", "scratch")
    answer = run(*flags, "--output", tmp_path / "run")
    assert answer.status == 1
    assert "No transfer run has finished" in answer.err
    assert "no space left" in answer.err
    assert not (tmp_path / "run" / "results.csv").exists()


def test_what_was_right_is_kept(comparison: tuple) -> None:
    """Of each run the images that its chosen model got right, in its folder and in the comparison's."""
    folder, _ = comparison
    found = Results.read(folder)
    accuracies = {
        (row.arm, row.backbone, row.labels, row.seed): row.value
        for row in found.rows
        if (row.phase, row.split, row.metric) == ("chosen", "test", "accuracy")
    }
    hits = {(*cell[:3], seed): held for cell, runs in found.hits.items() for seed, held in runs.items()}
    assert len(hits) == 4 * 2 * 2
    assert {run: held.mean() for run, held in hits.items()} == pytest.approx(accuracies)
    files = [np.load(path) for path in folder.rglob("predicted.npy")]
    assert {(held.dtype.name, held.shape) for held in files} == {("int32", (450,))}
    assert {held.shape for held in hits.values()} == {(450,)}


def test_one_seed_is_measured_over_images(comparison: tuple, run: Callable, tmp_path: Path, unseal: Callable) -> None:
    """Also in the report drawn again; runs of an older version, which kept no images, have no interval."""
    folder = shutil.copytree(comparison[0], tmp_path / "copy")
    _, flags = comparison
    answer = run(*flags, "--seeds", "0", "--output", folder)
    assert answer.status == 0, answer.err
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "over images" in text
    assert "another draw of labels is not covered" in text
    assert run("report", folder).status == 0
    assert (folder / "report.md").read_text(encoding="utf-8") == text
    for path in folder.rglob("predicted.npy"):
        path.unlink()
    for name in ("test_hits.npz", "comparison.json"):
        (folder / name).unlink()
    unseal(folder)
    assert run(*flags, "--seeds", "0", "--output", folder).status == 0
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "over images" not in text
    assert "points, one seed)" in text


def test_labels_are_worth_something(comparison: tuple) -> None:
    """Both methods, at both budgets, in labels of scratch on the same backbone."""
    lines = read(comparison[0] / "label_value.csv")
    assert [(line["arm"], line["labels"], line["baseline"]) for line in lines] == [
        (arm, labels, "scratch") for arm in ("simclr", "mae") for labels in ("1", "2")
    ]
    assert {(line["images_per_class"], line["least"], line["most"]) for line in lines} == {
        ("1.0", "1.0", "2.0"),
        ("2.0", "1.0", "2.0"),
    }
    assert "What the labels are worth" in (comparison[0] / "report.md").read_text(encoding="utf-8")
