"""Whatever is wrong in a command ends with status 2 and one message: the value, and what to do. Nothing has begun."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssl_transfer.stages.pretrain import pretrain as pretraining
from ssl_transfer.stages.transfer import phases

PRETRAIN = ("pretrain", "simclr", "--image-size", "16", "--output", "run")
TRANSFER = ("transfer", "--image-size", "16", "--output", "run")
COMPARE = ("compare", "--image-size", "16", "--output", "run")
TINY_ARGUMENTS = ("stem_type=", "stem_width=8", "channels=(8,8,16,16)")

CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: the command, and what its message must hold
    "unknown command": (("pretrian",), ("'pretrian' is not a command", "Did you mean pretrain", "usage:")),
    "unknown flag": ((*PRETRAIN, "--epoch", "1"), ("--epoch", "--epochs")),
    "unknown flag of compare": ((*COMPARE, "--label", "1"), ("--label", "--labels")),
    "flag without value": ((*PRETRAIN, "--epochs"), ("--epochs",)),
    "word for a number": ((*PRETRAIN, "--epochs", "many"), ("--epochs", "many")),
    "unknown key in YAML": (("pretrain", "simclr", "--config", "unknown.yaml"), ("--epohcs", "--epochs", "--config")),
    "missing YAML": ((*PRETRAIN, "--config", "absent.yaml"), ("absent.yaml", "no such file", "--config")),
    "broken YAML": ((*PRETRAIN, "--config", "broken.yaml"), ("broken.yaml", "not readable as YAML", "line 2")),
    "list for YAML": ((*PRETRAIN, "--config", "list.yaml"), ("list.yaml", "`name: value`")),
    "YAML of another method": (("pretrain", "simclr", "--config", "moco.yaml"), ("--method.queue-size", "--config")),
    "config without a path": ((*PRETRAIN, "--config"), ("--config needs the path",)),
    "unknown method": (("pretrain", "simcrl"), ("'simcrl' is not a method", "Did you mean simclr")),
    "no method": (("pretrain", "--epochs", "1"), ("which method", "simclr", "autoencoder")),
    "mae on a convolutional network": (
        ("pretrain", "mae", "--backbone.name", "resnet18", "--output", "run"),
        ("--backbone.name resnet18", "vision transformer", "vit_tiny_patch16_224"),
    ),
    "mae.backbone in compare": (
        (*COMPARE, "--arms", "mae", "--mae.backbone.name", "resnet18"),
        ("--backbone.name resnet18", "vision transformer", "vit_tiny_patch16_224"),
    ),
    "unknown backbone": ((*PRETRAIN, "--backbone.name", "resnet19"), ("resnet19", "Did you mean", "resnet18")),
    "unknown backbone in compare": ((*COMPARE, "--backbone.name", "resnet19"), ("resnet19", "resnet18")),
    "unknown backbone argument": (
        (*PRETRAIN, "--backbone.name", "resnet10t", "--backbone.arguments", "no_such=4"),
        ("--backbone.arguments no_such=4", "resnet10t"),
    ),
    # It may be refused, or go to the backbone that auto stands for, which refuses it; it must not be forgotten.
    "backbone argument of a method without a name": (
        (*COMPARE, "--arms", "mae", "--mae.backbone.arguments", "no_such=4"),
        ("arguments", "no_such=4"),
    ),
    "backbone argument of all arms without a name": (
        (*COMPARE, "--backbone.arguments", "no_such=4"),
        ("arguments", "no_such=4"),
    ),
    "backbone argument of imagenet without a name": (
        (
            *COMPARE,
            "--arms",
            "imagenet",
            "--imagenet.arguments",
            "no_such=4",
            "--imagenet-weights",
            "wrong.safetensors",
        ),
        ("arguments", "no_such=4"),
    ),
    "backbone argument without value": (
        (*PRETRAIN, "--backbone.name", "resnet10t", "--backbone.arguments", "depth"),
        ("--backbone.arguments depth", "name=value"),
    ),
    "unknown source": ((*PRETRAIN, "--data", "digit"), ("--data digit", "folder:PATH", "Did you mean digits")),
    "folder without its word": ((*PRETRAIN, "--data", "images"), ("--data images", "Write folder:images")),
    "folder without a path": ((*PRETRAIN, "--data", "folder:"), ("--data folder:", "needs more, as in folder:PATH")),
    "name that no disk takes": ((*PRETRAIN, "--data", "long" * 1000), ("longlong", "too long", "Give a shorter one")),
    "output that no disk takes": ((*PRETRAIN, "--output", "long" * 1000), ("longlong", "Give a shorter one")),
    "missing folder": ((*PRETRAIN, "--data", "folder:absent"), ("folder:absent", "no such folder")),
    "empty folder": ((*PRETRAIN, "--data", "folder:empty"), ("folder:empty", "no images", "PATH/<class>/*")),
    "one class": ((*COMPARE, "--data", "folder:single"), ("folder:single", "only one class, 'disc'", "unlabeled/")),
    "image outside a class": (
        (*COMPARE, "--data", "folder:loose"),
        ("loose/stray.png", "outside a class folder", "<class>/"),
    ),
    "class with one image": (
        (*COMPARE, "--data", "folder:lonely"),
        ("Class 'square' has 1 image", "Add images"),
    ),
    "fewer images than a batch": (
        (*PRETRAIN, "--data", "folder:images", "--loading.cache", "cache", "--batch-size", "64"),
        ("--batch-size 64", "only 26 images", "Give at most 26"),
    ),
    "fewer images than a batch in compare": (
        (*COMPARE, "--data", "folder:images", "--loading.cache", "cache", "--labels", "2", "--batch-size", "64"),
        ("batch-size 64", "only 26 images", "--batch-size 26"),
    ),
    "batch size 0": ((*PRETRAIN, "--batch-size", "0"), ("--batch-size 0",)),
    "batch size 0 in compare": ((*COMPARE, "--batch-size", "0"), ("batch-size 0",)),
    "batch size 0 in transfer": ((*TRANSFER, "--batch-size", "0"), ("--batch-size 0",)),
    "negative batch size": ((*PRETRAIN, "--batch-size", "-8"), ("--batch-size -8",)),
    "epochs 0": ((*PRETRAIN, "--epochs", "0"), ("--epochs 0", "1 or more")),
    "epochs 0 in compare": ((*COMPARE, "--epochs", "0"), ("--epochs 0", "1 or more")),
    "epochs 0 in transfer": ((*TRANSFER, "--epochs", "0"), ("--epochs 0", "1 or more")),
    "epochs 0 of the plan in compare": ((*COMPARE, "--transfer.epochs", "0"), ("epochs 0", "1 or more")),
    "batch size 0 of the plan in compare": ((*COMPARE, "--transfer.batch-size", "0"), ("batch-size 0",)),
    "image size 0": ((*PRETRAIN, "--image-size", "0"), ("--image-size 0", "at least 8")),
    "image size 0 in transfer": (
        ("transfer", "--image-size", "0", "--output", "run"),
        ("--image-size 0", "at least 8"),
    ),
    "budget above the class": ((*TRANSFER, "--labels", "5000"), ("--labels 5000", "training images", "`all`")),
    "budget above the class in compare": ((*COMPARE, "--labels", "2", "5000"), ("--labels 5000", "`all`")),
    "budget 0": ((*TRANSFER, "--labels", "0"), ("--labels 0", "`all`")),
    "budget 0 in compare": ((*COMPARE, "--labels", "0"), ("--labels 0", "`all`")),
    "budget abc": ((*TRANSFER, "--labels", "abc"), ("--labels abc", "`all`")),
    "budget abc in compare": ((*COMPARE, "--labels", "abc"), ("--labels abc", "`all`")),
    "jobs on a cluster": ((*COMPARE, "--launcher", "slurm", "--jobs", "2"), ("--jobs", "--slurm.at-a-time")),
    "cluster without its launcher": ((*COMPARE, "--slurm.cpus", "2"), ("would be ignored", "--launcher slurm")),
    "budget twice": ((*COMPARE, "--labels", "2", "2"), ("--labels", "only once")),
    "seed twice": ((*COMPARE, "--seeds", "0", "0"), ("--seeds", "only once")),
    "arm twice": ((*COMPARE, "--arms", "simclr", "simclr"), ("--arms simclr simclr", "only once")),
    "unknown arm": ((*COMPARE, "--arms", "simcrl"), ("--arms simcrl", "Did you mean simclr")),
    "unknown method behind imagenet": (
        (*COMPARE, "--arms", "imagenet+simclrr"),
        ("--arms imagenet+simclrr", "Did you mean imagenet+simclr"),
    ),
    "method behind scratch": (
        (*COMPARE, "--arms", "scratch+simclr"),
        ("--arms scratch+simclr", "begins from scratch unless told otherwise", "Write simclr"),
    ),
    "folder that is written like a method": ((*COMPARE, "--arms", "pretrained"), ("--arms pretrained", "./pretrained")),
    "arm that is no run": ((*COMPARE, "--arms", "./empty"), ("empty", "no backbone.json", "finished run")),
    "run of another size": (
        ("compare", "--image-size", "24", "--output", "run", "--arms", "./pretrained"),
        ("--arms ./pretrained", "images of 16 px", "Give --image-size 16"),
    ),
    "run twice": (
        (*COMPARE, "--arms", "./pretrained", "./pretrained/backbone"),
        ("./pretrained/backbone", "the same weights"),
    ),
    "run of other channels": (
        (*COMPARE, "--arms", "./pretrained", "--labels", "2", "--data", "folder:images", "--loading.cache", "cache"),
        ("1 channel;", "has 3", "--loading.channels"),
    ),
    "run that was trained on what would test it": (
        (*COMPARE, "--arms", "./pretrained", "--loading.split-seed", "7"),
        ("pretrained was trained on", "images for test", "Divide as that run did"),
    ),
    "run that would be tested on fewer images": (
        (*COMPARE, "--arms", "./pretrained", "--loading.split-seed", "7", "--loading.leakage", "drop"),
        ("pretrained was trained on", "on fewer images than the others", "leave the arm out"),
    ),
    "unknown weights of timm": (
        (*COMPARE, "--arms", "timm:resnet18.a9_in1k"),
        ("timm:resnet18.a9_in1k", "no pretrained weights of this name", "Did you mean", "resnet18.a1_in1k"),
    ),
    "weights of timm that do not fit": (
        (*COMPARE, "--arms", "timm:resnet18.a1_in1k", "--imagenet-weights", "wrong.safetensors"),
        ("wrong.safetensors", "do not fit resnet18", "is missing"),
    ),
    "weights of timm on another backbone": (
        (*TRANSFER, "--init", "timm:resnet18.a1_in1k", "--backbone.name", "resnet34"),
        ("--backbone.name resnet34", "timm:resnet18.a1_in1k is resnet18", "Leave --backbone.name out"),
    ),
    "one file for weights of two": (
        (*COMPARE, "--arms", "timm:resnet18", "timm:resnet34", "--imagenet-weights", "wrong.safetensors"),
        ("wrong.safetensors: one file, and timm:resnet18, timm:resnet34",),
    ),
    "backbone twice": ((*COMPARE, "--backbones", "resnet18", "resnet18"), ("--backbones resnet18", "only once")),
    "unknown backbone among several": ((*COMPARE, "--backbones", "resnet18", "resnet19"), ("resnet19", "Did you mean")),
    "backbones beside a backbone": (
        (*COMPARE, "--backbones", "resnet18", "--backbone.name", "resnet34"),
        ("--backbone.name resnet34 and --backbones resnet18", "give one"),
    ),
    "backbones beside that of imagenet": (
        (*COMPARE, "--arms", "imagenet", "--backbones", "resnet18", "--imagenet.name", "resnet34"),
        ("--imagenet.* would be ignored", "Leave it out"),
    ),
    "backbones that no arm can use": (
        (*COMPARE, "--arms", "mae", "--backbones", "vit_tiny_patch16_224", "resnet18"),
        ("--backbones resnet18 would be ignored", "Leave it out"),
    ),
    "no trials": ((*COMPARE, "--tune", "0"), ("--tune 0", "1 or more")),
    "trials of a search that trains nothing": (
        (*TRANSFER, "--tune", "2", "--find-rate"),
        ("--tune 2 would be ignored", "--find-rate"),
    ),
    "missing ImageNet weights behind a method": (
        (*COMPARE, "--arms", "imagenet+simclr", "--imagenet-weights", "absent.safetensors"),
        ("absent.safetensors", "no such file"),
    ),
    "more pretraining seeds than seeds": (
        (*COMPARE, "--seeds", "0", "1", "--pretrain-seeds", "3"),
        ("--pretrain-seeds 3", "2 --seeds"),
    ),
    "pretraining seeds that no seed uses": (
        (*COMPARE, "--seeds", "0", "2", "--pretrain-seeds", "2"),
        ("--pretrain-seeds 2", "reach only 1", "--seeds 0 1"),
    ),
    "a seed below 0": ((*COMPARE, "--seeds", "-1"), ("--seeds -1", "0 or more")),
    "a seed twice": ((*COMPARE, "--seeds", "3", "3"), ("--seeds 3 3", "only once")),
    "an arm as tables call it": ((*COMPARE, "--arms", "run:mine"), ("--arms run:mine", "runs/NAME")),
    "pretraining seeds 0": ((*COMPARE, "--pretrain-seeds", "0"), ("--pretrain-seeds 0", "1 or more")),
    "jobs 0": ((*COMPARE, "--jobs", "0"), ("--jobs 0", "1 or more")),
    "missing ImageNet weights": (
        (*COMPARE, "--arms", "imagenet", "--imagenet-weights", "absent.safetensors"),
        ("absent.safetensors", "no such file"),
    ),
    "wrong ImageNet weights": (
        (*TRANSFER, "--init", "imagenet", "--imagenet-weights", "wrong.safetensors"),
        ("wrong.safetensors", "do not fit resnet18", "is missing"),
    ),
    "ImageNet weights that are no weights": (
        (*TRANSFER, "--init", "imagenet", "--imagenet-weights", "broken.yaml"),
        ("broken.yaml", "--imagenet-weights PATH"),
    ),
    "ImageNet weights without the arm": (
        (*COMPARE, "--imagenet-weights", "wrong.safetensors"),
        ("--imagenet-weights", "ignored", "add imagenet to --arms"),
    ),
    "ImageNet weights from scratch": (
        (*TRANSFER, "--imagenet-weights", "wrong.safetensors"),
        ("--imagenet-weights", "ignored", "--init scratch"),
    ),
    "ImageNet weights for a run": (
        (*TRANSFER, "--init", "pretrained", "--imagenet-weights", "wrong.safetensors"),
        ("--imagenet-weights", "ignored", "--init pretrained"),
    ),
    "ImageNet weights in pretraining from scratch": (
        (*PRETRAIN, "--imagenet-weights", "wrong.safetensors"),
        ("--imagenet-weights", "ignored", "--init scratch"),
    ),
    "wrong ImageNet weights in pretraining": (
        (*PRETRAIN, "--init", "imagenet", "--imagenet-weights", "wrong.safetensors", "--backbone.stem", "standard"),
        ("wrong.safetensors", "do not fit resnet18", "is missing"),
    ),
    "pretraining from what is not there": (
        (*PRETRAIN, "--init", "absent"),
        ("--init absent: there is no such folder", "Or give scratch, imagenet or timm:NAME"),
    ),
    "pretraining from a run with another backbone": (
        # Also where it is the one that the method suggests.
        (*PRETRAIN, "--init", "pretrained", "--backbone.name", "resnet18"),
        ("--backbone.name resnet18", "--init pretrained holds resnet10t", "Leave --backbone out"),
    ),
    "mae from a convolutional run": (
        ("pretrain", "mae", "--init", "pretrained", "--output", "run"),
        ("resnet10t", "vision transformer"),
    ),
    "pretraining from a run of other channels": (
        (*PRETRAIN, "--init", "pretrained", "--data", "folder:images", "--loading.cache", "cache"),
        ("1 channel;", "has 3", "--loading.channels"),
    ),
    "init without a backbone": ((*TRANSFER, "--init", "empty"), ("empty", "no backbone.json", "scratch, imagenet")),
    "init that is not there": ((*TRANSFER, "--init", "absent"), ("--init absent: there is no such folder",)),
    "init with a backbone of one's own": (
        (*TRANSFER, "--init", "pretrained", "--backbone.name", "resnet34"),
        ("--backbone would be ignored", "--init pretrained"),
    ),
    "init of another size": (
        ("transfer", "--init", "pretrained", "--image-size", "24", "--output", "run"),
        ("--init pretrained", "16 pixels", "--image-size 24", "Leave it out"),
    ),
    "init of other channels": (
        (*TRANSFER, "--init", "pretrained", "--data", "folder:images", "--loading.cache", "cache"),
        ("1 channel;", "has 3", "--loading.channels"),
    ),
    "evaluate nothing": (("evaluate",), ("Which backbone", "ssl-transfer evaluate runs/NAME")),
    "evaluate another folder": (("evaluate", "empty"), ("empty", "no backbone.json")),
    "evaluate an unknown split": (("evaluate", "pretrained", "--split", "valid"), ("--split valid", "validation")),
    "evaluate no neighbours": (("evaluate", "pretrained", "--neighbours", "0"), ("--neighbours 0", "at least 1")),
    "evaluate other channels": (
        ("evaluate", "pretrained", "--data", "folder:images", "--loading.cache", "cache"),
        ("1 channel;", "has 3"),
    ),
    "report on nothing": (("report",), ("Which comparison", "ssl-transfer report runs/demo")),
    "report on another folder": (("report", "pretrained"), ("pretrained", "no finished comparison", "compare")),
    "negative learning rate": (
        (*PRETRAIN, "--optimizer.learning-rate", "-1e-3"),
        ("learning_rate -0.001", "above 0"),
    ),
    "negative learning rate in compare": (
        (*COMPARE, "--simclr.optimizer.learning-rate", "-1"),
        ("learning_rate -1", "above 0"),
    ),
    "finetune rate above 1": ((*TRANSFER, "--finetune-rate", "2"), ("finetune_rate 2", "at most 1")),
    "mask ratio 1": (
        ("pretrain", "mae", "--method.mask-ratio", "1", "--image-size", "16", "--output", "run"),
        ("mask_ratio 1", "some must be hidden and some seen"),
    ),
    "temperature 0": ((*PRETRAIN, "--method.temperature", "0"), ("temperature 0", "above 0")),
    "crop scale upside down": (
        (*PRETRAIN, "--method.augment.crop-scale", "1", "0.5"),
        ("crop_scale 1.0 0.5", "the smaller first"),
    ),
    "probability above 1": ((*PRETRAIN, "--method.augment.flip", "2"), ("flip 2", "0 to 1")),
    "test fraction 1": ((*PRETRAIN, "--loading.test-fraction", "1"), ("test_fraction 1", "below 1")),
    "unknown precision": ((*PRETRAIN, "--mixed-precision", "bf61"), ("--mixed-precision", "bf61", "bf16")),
    "output is a file": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "list.yaml"),
        ("--output list.yaml",),
    ),
    "output is a file, afresh": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "list.yaml", "--fresh"),
        ("--output list.yaml: is not a folder", "Give a new or an empty folder"),
    ),
    "afresh in a folder of something else": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "loose", "--fresh"),
        ("--output loose: holds files without a record", "Give a new or an empty folder"),
    ),
    "output is another program's folder": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "foreign"),
        ("--output foreign: holds files without a record", "Give a new or an empty folder"),
    ),
    "output is another program's folder, unreadable": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "broken"),
        ("--output broken: holds files without a record", "Give a new or an empty folder"),
    ),
    "output below a file": (
        ("pretrain", "simclr", "--image-size", "16", "--output", "list.yaml/run"),
        ("--output list.yaml/run", "Give another folder"),
    ),
    "output of a comparison is a file": (
        ("compare", "--image-size", "16", "--output", "list.yaml"),
        ("--output list.yaml",),
    ),
    "changed setting": (
        (
            *("pretrain", "simclr", "--image-size", "16", "--epochs", "3", "--output", "pretrained"),
            *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
            *("--backbone.arguments", *TINY_ARGUMENTS, "zero_init_last=False"),
        ),
        ("pretrained holds a run with other settings", "epochs was 2 and is now 3", "--fresh"),
    ),
    "another method in the output": (
        (
            *("pretrain", "moco", "--image-size", "16", "--epochs", "2", "--output", "pretrained"),
            *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
            *("--backbone.arguments", *TINY_ARGUMENTS, "zero_init_last=False"),
        ),
        ("pretrained holds a run with other settings", "method.name was 'simclr' and is now 'moco'", "--fresh"),
    ),
    "another command in the output": (
        ("transfer", "--image-size", "16", "--labels", "2", "--output", "pretrained"),
        ("pretrained holds a run of another command", "pretrain", "Give another --output, or --fresh"),
    ),
}


@pytest.fixture
def surroundings(tmp_path: Path, pretrained: Path, draw_images: Callable) -> Path:
    """The folder that the commands run in, with everything that they name."""
    shutil.copytree(pretrained, tmp_path / "pretrained")
    shutil.rmtree(tmp_path / "pretrained" / "checkpoints")
    (tmp_path / "empty").mkdir()
    draw_images(tmp_path / "images", disc=20, square=20)
    draw_images(tmp_path / "single", disc=4)
    draw_images(tmp_path / "lonely", disc=4, square=1)
    loose = draw_images(tmp_path / "loose", disc=4, square=4)
    shutil.copy(loose / "disc" / "001.png", loose / "stray.png")
    (tmp_path / "unknown.yaml").write_text("epohcs: 3\n")
    (tmp_path / "broken.yaml").write_text("epochs: 3\nbackbone: [unclosed\n")
    (tmp_path / "list.yaml").write_text("- epochs\n")
    (tmp_path / "moco.yaml").write_text("method: {queue_size: 16}\n")
    for name, content in (("foreign", "lr: 1\n"), ("broken", "a: [unclosed\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(content)
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "wrong.safetensors")
    return tmp_path


def words(text: str) -> str:
    """A message without tyro's frame, in one line."""
    return re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", text))


@pytest.mark.parametrize("name", CASES)
def test_ends_with_one_message(name: str, run: Callable, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def began(*arguments: object, **settings: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(pretraining, "train", began)
    monkeypatch.setattr(phases, "train", began)
    command, expected = CASES[name]
    answer = run(*command)
    message = words(answer.err)
    assert answer.status == 2, message
    assert [part for part in expected if part not in message] == [], message
    # Ours, or tyro's, which ends with this pointer.
    assert message.startswith("error: ") + message.count("For full helptext") == 1
    assert "Traceback" not in message
    assert not (surroundings / "run").exists()
    assert list(surroundings.rglob("checkpoints")) == []
    assert (surroundings / "list.yaml").read_text() == "- epochs\n"


def test_changed_comparison_names_the_field(run: Callable, tmp_path: Path, tiny: dict) -> None:
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--output", tmp_path / "run", "--arms", "scratch")
    assert run(*flags, "--labels", 1, "--seeds", 0).status == 0
    before = (tmp_path / "run" / "results.csv").read_bytes()
    answer = run(*flags, "--labels", 1, "--seeds", 0, "--transfer.layer-decay", 0.5)
    assert answer.status == 2
    assert "transfer.layer_decay was 0.75 and is now 0.5" in answer.err
    assert (tmp_path / "run" / "results.csv").read_bytes() == before


@pytest.mark.parametrize("content", [None, b"not a checkpoint"], ids=["cut", "other"])
def test_broken_checkpoint(content: bytes | None, run: Callable, tmp_path: Path, pretrained: Path, tiny: dict) -> None:
    folder = shutil.copytree(pretrained, tmp_path / "run")
    (folder / "result.json").unlink()
    state = folder / "checkpoints" / "last.pt"
    state.write_bytes(state.read_bytes()[:-1000] if content is None else content)
    answer = run("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", folder)
    assert answer.status == 2
    assert "last.pt: not a readable checkpoint" in answer.err
    assert "--fresh" in answer.err
    assert not (folder / "result.json").exists()


def test_cut_export_is_no_backbone(run: Callable, tmp_path: Path, pretrained: Path) -> None:
    folder = shutil.copytree(pretrained, tmp_path / "copy")
    weights = folder / "backbone" / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    answer = run(*TRANSFER, "--init", folder)
    assert answer.status == 2
    assert "not a readable exported backbone" in answer.err


def test_export_with_other_weights_is_refused(
    run: Callable, tmp_path: Path, pretrained: Path, unseal: Callable
) -> None:
    folder = shutil.copytree(pretrained, tmp_path / "copy")
    described = json.loads((folder / "backbone" / "backbone.json").read_text())
    described["backbone"]["arguments"] = ["stem_type=", "stem_width=8", "channels=(8,8,16,32)"]
    # As of a version that wrote no checksums: those of today would tell already that it was changed.
    del described["checksum"]
    (folder / "backbone" / "backbone.json").write_text(json.dumps(described))
    unseal(folder)
    answer = run(*TRANSFER, "--init", folder)
    assert answer.status == 2
    assert "do not fit" in answer.err
