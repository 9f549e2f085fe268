"""`export`: each format, read as its users read it, gives what the run's own model gives."""

import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ssl_transfer.cli.main import main
from ssl_transfer.engine.errors import InputError
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.export import timm_torchvision
from ssl_transfer.stages.export.check import check_images, largest_difference
from ssl_transfer.stages.export.exported_model import load_exported

FORMATS = ("safetensors", "onnx", "torch-export", "huggingface")


def train(folder: Path, tiny: dict, *flags: object, backbone: str = "convolutional") -> Path:
    settings = map(str, ("--init", "scratch", *tiny["transfer"], *tiny[backbone], *flags))
    main(["transfer", *settings, "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """A run on the digits. Read only."""
    folder = tmp_path_factory.mktemp("transferred") / "run"
    return train(folder, tiny, "--labels", 20, "--optimizer.learning-rate", 0.03, "--finetune-steps", 30)


@pytest.fixture(scope="module")
def small_stem(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """The same with torchvision's names and a stem that its constructor does not build. Read only."""
    folder = tmp_path_factory.mktemp("small") / "run"
    flags = ("--backbone.name", "torchvision/mobilenet_v2", "--backbone.arguments", "width_mult=0.25")
    main(["transfer", "--init", "scratch", *tiny["transfer"], *flags, "--output", str(folder)])
    return folder


def used(usage: str, folder: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The `outputs` of the Python that stands beside an export, run in its folder."""
    script = folder / "use.py"
    script.write_text(usage)
    given = images.numpy() if "onnxruntime" in usage else images
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        return torch.as_tensor(runpy.run_path("use.py", {"images": given})["outputs"]).detach()


def assert_same(run_folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the files beside an export with the run, on one image and on many."""
    exported = load_exported(Run(run_folder))
    images = check_images(exported, ())
    told = json.loads((output / "model.json").read_text())
    with torch.no_grad():
        expected = exported.module(images)
    for count in (1, 7, len(images)):
        outputs = used(told["usage"], output, images[:count], monkeypatch)
        torch.testing.assert_close(outputs, expected[:count], rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float(expected.std()) > 1e-3
    assert told["classes"] == list(exported.run.classes)
    assert told["largest_difference"] <= 1e-4 * max(1.0, float(expected.abs().max()))


def umask() -> int:
    os.umask(held := os.umask(0o022))
    return held


@pytest.mark.parametrize("form", FORMATS)
def test_a_classifier(run: Callable, transferred: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("export", transferred, "--format", form, "--output", "out")
    assert answer.status == 0, answer.err
    assert re.search(r"checked on 32 images: the largest difference of the scores is \d", answer.out)
    assert_same(transferred, Path("out"), monkeypatch)
    assert not list(Path().rglob(".export*"))
    assert {path.stat().st_mode & 0o777 for path in Path("out").iterdir() if path.is_file()} == {0o666 & ~umask()}


@pytest.mark.parametrize("form", FORMATS)
def test_an_encoder(run: Callable, pretrained: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("export", pretrained, "--format", form, "--output", "out")
    assert answer.status == 0, answer.err
    assert "the largest difference of the features" in answer.out
    assert_same(pretrained, Path("out"), monkeypatch)


@pytest.mark.parametrize("form", ["safetensors", "huggingface"])
def test_a_stem_of_our_own(run: Callable, small_stem: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("export", small_stem, "--format", form, "--output", "out")
    assert answer.status == 0, answer.err
    assert_same(small_stem, Path("out"), monkeypatch)
    assert "model.set_submodule('features.0.0'" in json.loads(Path("out/model.json").read_text())["usage"]
    if form == "huggingface":
        config = json.loads(Path("out/config.json").read_text())
        assert config["library"] == "torchvision"
        assert "model.set_submodule('features.0.0'" in "\n".join(config["build"])


def test_a_transformer_on_the_hub(run: Callable, tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(Path("run"), tiny, backbone="transformer")
    assert run("export", folder, "--format", "huggingface").status == 0
    assert_same(folder, folder / "export" / "huggingface", monkeypatch)
    assert run("export", folder, "--format", "onnx").status == 0
    assert_same(folder, folder / "export" / "onnx", monkeypatch)


def test_timm_reads_it_in_each_of_its_ways(run: Callable, transferred: Path) -> None:
    assert run("export", transferred, "--output", "weights").status == 0
    assert run("export", transferred, "--format", "huggingface", "--output", "folder").status == 0
    exported = load_exported(Run(transferred))
    images = check_images(exported, ())
    arguments = {"stem_type": "", "stem_width": 8, "channels": (8, 8, 16, 16), "in_chans": 1, "num_classes": 10}
    by_path = timm.create_model("resnet10t", checkpoint_path="weights/model.safetensors", **arguments)
    by_state = timm.create_model("resnet10t", **arguments)
    by_state.load_state_dict(load_file("weights/model.safetensors"), strict=True)
    by_folder = timm.create_model("local-dir:folder", pretrained=True)
    with torch.no_grad():
        expected = exported.module(images)
        for model in (by_path, by_state, by_folder):
            outputs = model.eval()(exported.backbone.normalize(images))
            torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    config = timm.data.resolve_model_data_config(by_folder)
    assert config["input_size"] == (1, 16, 16)
    assert tuple(config["mean"]) == exported.backbone.spec.mean
    assert json.loads(Path("folder/config.json").read_text())["label_names"] == [str(digit) for digit in range(10)]


def processed(picture: Image.Image, facts: dict[str, Any]) -> torch.Tensor:
    """(1, C, S, S): what a processor of the hub makes of a square picture by `preprocessor_config.json`."""
    small = picture.resize((facts["size"]["shortest_edge"],) * 2, Image.Resampling(facts["resample"]))
    side = facts["crop_size"]["width"]
    edge = (small.width - side) // 2
    cut = np.array(small.crop((edge, edge, edge + side, edge + side)))
    pixels = torch.from_numpy(cut).float().reshape(side, side, -1).permute(2, 0, 1)
    mean, std = (torch.tensor(facts[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
    return ((pixels * facts["rescale_factor"] - mean) / std)[None]


@pytest.mark.parametrize("stored", [(), ("--loading.stored-size", 40)])
def test_the_hubs_own_processing_shows_the_model_what_the_run_shows_it(
    stored: tuple, run: Callable, tiny: dict, draw_images: Callable
) -> None:
    draw_images(Path("images"), disc=20, square=20)
    flags = ("--data", "folder:images", "--loading.cache", "cache", "--loading.leakage", "allow", *stored)
    folder = train(Path("run"), tiny, *flags)
    assert run("export", folder, "--format", "huggingface", "--output", "out").status == 0
    facts = json.loads(Path("out/preprocessor_config.json").read_text())
    exported, (file, *_) = load_exported(Run(folder)), sorted(Path("images").rglob("*.png"))
    Image.open(file).convert("RGB").resize((80, 80)).save("one.png")
    picture = Image.open("one.png")
    expected = exported.backbone.normalize(check_images(exported, ("one.png",)))
    apart = (processed(picture, facts) - expected).abs()
    assert float(apart.mean()) < 0.1
    away = {**facts, "size": {"shortest_edge": 2 * facts["size"]["shortest_edge"]}}
    assert float((processed(picture, away) - expected).abs().mean()) > 0.2


def test_offsets_are_part_of_the_hubs_mean(transferred: Path) -> None:
    """Stored values of 100 to 300 for 0 to 1."""
    exported = load_exported(Run(transferred))
    exported.run.storage = replace(exported.run.storage, value_range=(100.0, 300.0))
    facts = timm_torchvision._preprocessor(exported)
    mean, std = exported.backbone.spec.mean[0], exported.backbone.spec.std[0]
    value = (180.0 * facts["rescale_factor"] - facts["image_mean"][0]) / facts["image_std"][0]
    assert value == pytest.approx((0.4 - mean) / std)


def test_onnx_takes_batches_of_any_size_and_pixels_in_0_to_1(run: Callable, transferred: Path) -> None:
    assert run("export", transferred, "--format", "onnx", "--images", "digits", "--output", "out").status == 0
    onnx.checker.check_model("out/model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("out/model.onnx")
    (images,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (images.name, scores.name) == ("images", "scores")
    assert isinstance(images.shape[0], str)
    assert images.shape[1:] == [1, 16, 16]
    assert sorted(path.name for path in Path("out").iterdir() if path.is_file()) == ["model.json", "model.onnx"]


def test_one_logit(run: Callable, tiny: dict, draw_images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_images(Path("images"), disc=20, square=20)
    folder = train(Path("run"), tiny, "--data", "folder:images", "--loading.cache", "cache", "--head.one-logit")
    for form in FORMATS:
        assert run("export", folder, "--format", form, "--images", "images", "--output", form).status == 0
        assert_same(folder, Path(form), monkeypatch)
        assert json.loads(Path(form, "model.json").read_text())["classes"] == ["disc", "square"]


def test_a_head_that_only_a_graph_can_hold(run: Callable, tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(Path("run"), tiny, "--head.kind", "flatten-256")
    for form in ("safetensors", "huggingface"):
        answer = run("export", folder, "--format", form)
        assert answer.status == 2
        assert "which no model of timm or torchvision has. --format onnx and --format torch-export" in answer.err
        assert not (folder / "export").exists()
        assert run("export", folder / "backbone", "--format", form, "--output", form).status == 0
    for form in ("onnx", "torch-export"):
        assert run("export", folder, "--format", form).status == 0
        assert_same(folder, folder / "export" / form, monkeypatch)


def test_only_what_timm_loads_by_name_says_so(run: Callable, small_stem: Path) -> None:
    """The hub shows how to load a folder by the library that its card names."""
    assert run("export", small_stem, "--format", "huggingface", "--output", "out").status == 0
    header = Path("out/README.md").read_text().split("---\n", 2)[1]
    assert "library_name" not in yaml.safe_load(header)
    assert yaml.safe_load(header)["tags"] == ["ssl_transfer", "torchvision"]


def test_a_scale_of_its_own_is_no_excuse(transferred: Path) -> None:
    """Outputs that are all small are held against themselves."""
    exported = load_exported(Run(transferred))
    assert exported.classifier is not None
    module = exported.module
    for parameter in exported.classifier.head.parameters():
        parameter.data *= 1e-6
    images = check_images(exported, ())
    assert largest_difference(exported, module, images, 1e-4) < 1e-9
    with pytest.raises(InputError, match="differs from the run's"):
        largest_difference(exported, lambda given: 0.0 * module(given), images, 1e-4)


def test_the_model_card(run: Callable, transferred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--format", "huggingface", "--licence", "cc-by-4.0", "--output", "out")
    assert run("export", transferred, *flags).status == 0
    card = Path("out/README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["ssl_transfer", "timm"],
    }
    environment = json.loads((transferred / "environment.json").read_text())
    metrics = json.loads((transferred / "evaluation" / "metrics.json").read_text())["metrics"]
    accuracy = 100 * metrics["test"]["accuracy"]
    assert f"digits (fingerprint {environment['identity']['data']})" in body
    assert re.search(rf"\| test \| 450 \| {accuracy:.1f} \[\d+\.\d, \d+\.\d\] \|", body)
    assert f"temperature {metrics['validation']['temperature']:.4g}" in body
    assert "200 labelled images trained it, 200 others chose" in body
    assert "## Limits" in body
    assert "cc-by-4.0" in body
    usage = re.search(r"```python\n(.*?)```", body, re.DOTALL)
    assert usage is not None
    exported = load_exported(Run(transferred))
    images = check_images(exported, ())
    with torch.no_grad():
        expected = exported.module(images)
    torch.testing.assert_close(used(usage[1], Path("out"), images, monkeypatch), expected, rtol=1e-4, atol=1e-4)
    assert run("export", transferred, "--format", "huggingface", "--output", "plain").status == 0
    assert "The terms of use of these weights are unknown." in Path("plain/README.md").read_text()


def test_names_from_outside_stay_text_in_the_card(run: Callable, transferred: Path, unseal: Callable) -> None:
    folder = shutil.copytree(transferred, Path("hostile"))
    description = json.loads((folder / "head" / "head.json").read_text())
    description["classes"][0] = "a`<script>`\n# b"
    del description["checksum"]
    (folder / "head" / "head.json").write_text(json.dumps(description))
    unseal(folder)
    flags = ("--format", "huggingface", "--licence", "x\ntags: [evil]", "--output", "out")
    assert run("export", folder, *flags).status == 0
    card = Path("out/README.md").read_text()
    assert "\n# b" not in card
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == "x\ntags: [evil]"


def test_what_differs_is_not_written(run: Callable, transferred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export", transferred, "--output", "out").status == 0
    before = Path("out/model.safetensors").read_bytes()
    save = timm_torchvision.save_tensors
    monkeypatch.setattr(
        timm_torchvision, "save_tensors", lambda file, tensors: save(file, {k: v + 0.01 for k, v in tensors.items()})
    )
    answer = run("export", transferred, "--output", "out")
    assert answer.status == 2
    assert "The exported model differs from the run's by" in answer.err
    assert Path("out/model.safetensors").read_bytes() == before
    assert sorted(path.name for path in Path("out").iterdir() if path.is_file()) == ["model.json", "model.safetensors"]
    assert run("export", transferred, "--output", "out", "--tolerance", "10").status == 0


def test_without_onnx(run: Callable, transferred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    answer = run("export", transferred, "--format", "onnx", "--output", "deep/out")
    assert not list(Path().iterdir())
    assert answer.status == 2
    assert 'needs onnxscript. Install it with: pip install "ssl_transfer[export]"' in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Which run?"),
        (("nowhere",), "nowhere: there is no such folder"),
        (("RUN", "--tolerance", "0"), "it must be above 0"),
        (("RUN", "--licence", "mit"), "--licence mit would be ignored"),
        (("RUN", "--output", "RUN"), "holds a run, whose own files stay"),
        (("RUN", "--output", "file"), "--output file: is not a folder"),
        (("RUN", "--images", "file"), "not one of them can be used (file: not an image"),
        (("RUN", "--format", "keras"), "keras"),
    ],
)
def test_mistakes(run: Callable, transferred: Path, arguments: tuple, message: str) -> None:
    Path("file").write_text("")
    answer = run("export", *(argument.replace("RUN", str(transferred)) for argument in arguments))
    assert answer.status == 2
    assert message in answer.err
