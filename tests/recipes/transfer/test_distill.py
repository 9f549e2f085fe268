"""`ssl-transfer distill`: the run that it leaves, what takes it further, and what it refuses."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from ssl_transfer import load_backbone
from ssl_transfer.cli.main import main
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.runs.seal import held_result
from ssl_transfer.stages.distill import distill as stage
from ssl_transfer.stages.distill.config import DistillConfig

NAMED = ("--teacher", "TEACHER", "--student", "resnet10t")
SHORT = ("--labels", 2, "--epochs", 1, "--finetune-steps", 4)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, tiny: dict) -> Path:
    """A finished transfer run. Read only."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    main(["transfer", "--init", str(pretrained), *tiny["transfer"], "--output", str(folder)])
    return folder


@pytest.fixture
def student(teacher: Path, tiny: dict) -> tuple:
    """The command for a tiny student."""
    network = ("--student", *tiny["convolutional"][1:])
    return ("distill", "--teacher", teacher, *network, *SHORT)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, teacher: Path, tiny: dict) -> tuple[Path, str]:
    """A finished run of `student`, which is read only, and what its command printed."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    command = ("distill", "--teacher", teacher, "--student", *tiny["convolutional"][1:], *SHORT, "--output", folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([str(word) for word in command])
    return folder, printed.getvalue()


def test_it_leaves_what_a_transfer_leaves(run: Callable, student: tuple, teacher: Path, distilled: tuple) -> None:
    folder, printed = distilled
    assert "teaches resnet10t" in printed
    assert {path.name for path in folder.iterdir()} == {path.name for path in teacher.iterdir()}
    result = json.loads((folder / "result.json").read_text())
    assert result["chosen"] == "finetune"
    assert (result["num_train"], result["num_validation"], result["num_pool"]) == (20, 20, 0)
    taught = json.loads((teacher / "result.json").read_text())
    # The teacher has the numbers that its own run has.
    for split in ("validation", "test"):
        theirs = taught["phases"][taught["chosen"]][split]
        assert result["teacher"][split]["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-9)
    assert result["teacher"]["num_parameters"] == taught["num_parameters"]
    logged = read_lines(folder / "metrics.jsonl")
    trained = [line for line in logged if line["split"] == "train"]
    assert {"soft_loss", "hard_loss", "agreement", "accuracy"} <= trained[0].keys()
    provenance = json.loads((folder / "backbone" / "backbone.json").read_text())["provenance"]
    assert provenance["teacher"]["init"]["method"] == "simclr"
    # No weight of the teacher, and no projector, is exported.
    assert (
        load_file(folder / "head" / "head.safetensors").keys()
        == load_file(teacher / "head" / "head.safetensors").keys()
    )
    assert not load_backbone(str(folder)).training
    assert run(*student, "--output", folder).out.count("nothing to do") == 1


def test_other_stages_take_it(run: Callable, student: tuple, teacher: Path, tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*student, "--pool", "--distillation.hint", 1, "--output", folder).status == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["num_pool"] == 1146
    answer = run("evaluate", folder)
    assert answer.status == 0, answer.err
    assert "│ head " in answer.out
    assert run("transfer", "--init", folder, *tiny["transfer"], "--output", tmp_path / "onward").status == 0
    answer = run("distill", "--teacher", folder, *student[3:], "--output", tmp_path / "further")
    assert answer.status == 0, answer.err
    answer = run(
        *("compare", "--arms", "scratch", folder, "--labels", 2, "--seeds", 0, "--jobs", 1, "--output", "compared"),
        *("--image-size", 16, "--transfer.epochs", 1, "--transfer.head-steps", 4, "--transfer.finetune-steps", 4),
    )
    assert answer.status == 0, answer.err
    assert "run:run" in answer.out


def test_a_student_starts_where_it_is_told(run: Callable, teacher: Path, pretrained: Path, tmp_path: Path) -> None:
    """From a run, which names the network, and after a plan with a frozen phase."""
    plan = ("--plan", "fine-tune", "--head-steps", 4)
    answer = run("distill", "--teacher", teacher, "--init", pretrained, *SHORT, *plan, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert list(json.loads((tmp_path / "run" / "result.json").read_text())["phases"]) == ["head", "finetune"]
    answer = run("distill", "--teacher", teacher, "--init", pretrained, "--student", "resnet18", *SHORT)
    assert answer.status == 2
    assert "holds resnet10t" in answer.err


def test_the_sizes_of_images_may_differ(run: Callable, student: tuple, tmp_path: Path) -> None:
    for size, folder in ((24, "larger"), (None, "the teacher's")):
        flags = () if size is None else ("--image-size", size)
        answer = run(*student, *flags, "--pool", "--output", tmp_path / folder)
        assert answer.status == 0, answer.err
        held = json.loads((tmp_path / folder / "backbone" / "backbone.json").read_text())
        assert held["backbone"]["image_size"] == (size or 16)


def test_the_written_configuration_runs_again(run: Callable, student: tuple, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ("--pool", "--pool-share", 0.9, "--fixed-views", 1, "--distillation.temperature", 2)
    assert run(*student, *flags, "--output", first).status == 0
    answer = run("distill", "--config", first / "config.yaml", "--output", second)
    assert answer.status == 0, answer.err
    settings = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, second)]
    assert settings[0].pop("output") != settings[1].pop("output")
    assert settings[0] == settings[1]
    weights = [(folder / "backbone" / "backbone.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]


def test_another_teacher_is_another_run(
    run: Callable, student: tuple, pretrained: Path, tiny: dict, distilled: tuple, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert run("transfer", "--init", pretrained, *tiny["transfer"], "--seed", 1, "--output", other).status == 0
    answer = run("distill", "--teacher", other, *student[3:], "--output", distilled[0])
    assert answer.status == 2
    assert "another teacher" in answer.err


def test_default_output_names_what_it_is(run: Callable, student: tuple, tmp_path: Path) -> None:
    for flags, name in (((), ""), (("--pool",), "-pool")):
        assert run(*student, *flags).status == 0
        assert (tmp_path / "runs" / f"distill-run-resnet10t-digits-2{name}-seed0" / "result.json").is_file()


def test_a_teacher_of_other_classes_is_refused_with_the_names(
    run: Callable, student: tuple, draw_images: Callable, tmp_path: Path
) -> None:
    draw_images(tmp_path / "images", disc=20, square=20)
    grey = ("--loading.channels", "grey")
    answer = run(*student, "--data", f"folder:{tmp_path / 'images'}", *grey, "--output", tmp_path / "run")
    assert answer.status == 2
    assert "only the head knows 0, 1, 2, 3, 4 and 5 more" in answer.err
    assert "only the data has disc, square" in answer.err
    assert "Give a teacher of the classes" in answer.err
    assert not (tmp_path / "run").exists()


def test_what_was_tested_on_is_not_taught(run: Callable, student: tuple) -> None:
    """The teacher has seen what another division tests."""
    answer = run(*student, "--loading.split-seed", 7)
    assert answer.status == 2
    assert "was trained on" in answer.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--student", "resnet10t"), "--teacher: which run"),
        (("--teacher", "TEACHER"), "--student: which network"),
        (("--teacher", "PRETRAINED", "--student", "resnet10t"), "without a trained head"),
        (("--teacher", "nowhere", "--student", "resnet10t"), "nowhere: there is no such folder"),
        (("--teacher", "TEACHER", "--student", "resnet1"), "no such model"),
        ((*NAMED, "--backbone.name", "resnet26"), "give one of them"),
        ((*NAMED, "--pool-share", 0.5), "ignored without --pool"),
        ((*NAMED, "--pool", "--pool-share", 1.0), "below 1"),
        ((*NAMED, "--plan", "head", "--frozen-views", 1), "--fixed-views 1"),
        ((*NAMED, "--fixed-views", -1), "fixed_views -1"),
        ((*NAMED, "--pool", "--mixup", 0.2), "mixup make new images"),
        ((*NAMED, "--mixup", 0.2, "--image-size", 24), "at one size"),
        ((*NAMED, "--distillation.alpha", 0), "nothing is learnt"),
        ((*NAMED, "--find-rate", "--tune", 2), "--tune 2 would be ignored"),
        ((*NAMED, "--pool", "--batch-size", 1), "comes to"),
        ((*NAMED, "--optimizer.accumulate", 2, "--distillation.similarity", 1), "compares the images of a batch"),
    ],
)
def test_mistakes_are_named(
    flags: tuple, message: str, run: Callable, teacher: Path, pretrained: Path, tmp_path: Path
) -> None:
    places = {"TEACHER": teacher, "PRETRAINED": pretrained}
    answer = run("distill", *(places.get(str(flag), flag) for flag in flags), *SHORT, "--output", tmp_path / "run")
    assert answer.status == 2, answer.out
    assert message in answer.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_mixed_images_are_mixed_for_both(run: Callable, student: tuple, tmp_path: Path) -> None:
    answer = run(*student, "--mixup", 0.2, "--cutmix", 1.0, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err


def test_trials_and_the_search_for_a_rate_work(run: Callable, student: tuple, tmp_path: Path) -> None:
    answer = run(*student, "--tune", 2, "--distillation.hint", 1, "--output", tmp_path / "tuned")
    assert answer.status == 0, answer.err
    assert "validation chose trial" in answer.out
    answer = run(*student, "--find-rate", "--output", tmp_path / "found")
    assert answer.status == 0, answer.err
    assert (tmp_path / "found-rates" / "learning_rates.png").is_file()


def test_one_of_many_that_has_finished_builds_nothing(
    student: tuple, distilled: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [str(word) for word in (*student[1:], "--output", distilled[0])]
    default = DistillConfig()
    config = configuration.parse(DistillConfig, {}, flags, program="distill", default=default)
    monkeypatch.setattr(stage, "initial_backbone", None)
    assert stage.distill(config, quiet=True) == held_result(distilled[0])
    with pytest.raises(InputError, match="seed"):
        stage.distill(dataclasses.replace(config, seed=1), quiet=True)
    with pytest.raises(TypeError):
        stage.distill(dataclasses.replace(config, fresh=True), quiet=True)


def test_statistics_are_those_of_the_batch_with_the_pool(run: Callable, student: tuple, tmp_path: Path) -> None:
    """Ten labelled images are few; with thirty of the pool beside them they are enough."""
    answer = run(*student, "--batch-size", 40, "--pool", "--output", tmp_path / "pool")
    assert (answer.status, "take their statistics" in answer.out) == (0, False)
    answer = run(*student, "--batch-size", 10, "--output", tmp_path / "labels")
    assert "take their statistics from batches of 10 images" in answer.out
