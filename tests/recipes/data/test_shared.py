"""On real images and weights, where they lie beside the project."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig

SHARED = Path(__file__).parents[4] / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}"),
]


def test_surface_defects(run: Callable, tmp_path: Path, tiny: dict) -> None:
    data = ("--data", f"folder:{SHARED}/data/neu_surface_defects", "--loading.cache", tmp_path / "cache")
    pretraining = (*tiny["pretrain"], *tiny["convolutional"], "--image-size", 32, "--epochs", 1)
    answer = run("pretrain", "simclr", *data, *pretraining, "--output", tmp_path / "pretrain")
    assert answer.status == 0, answer.err
    assert "6 classes; 1 x 37 x 37 pixels stored" in answer.out
    transfer = (*tiny["transfer"], "--image-size", 32, "--init", tmp_path / "pretrain")
    answer = run("transfer", *data, *transfer, "--output", tmp_path / "transfer")
    assert answer.status == 0, answer.err
    result = json.loads((tmp_path / "transfer" / "result.json").read_text())
    assert (result["num_train"], result["num_validation"]) == (12, 12)


@pytest.mark.slow
def test_imagenet_weights_on_flowers(run: Callable, tmp_path: Path, tiny: dict) -> None:
    """A few steps from ImageNet are far above chance (one in five), and above what scratch makes of them."""
    answer = run(
        *("compare", "--data", f"folder:{SHARED}/data/flowers5", "--loading.cache", tmp_path / "cache"),
        *("--arms", "imagenet", "--imagenet-weights", SHARED / "weights" / "mobilenetv2_100_same.safetensors"),
        *("--backbone.name", "mobilenetv2_100", "--backbone.stem", "small", "--backbone.arguments", "pad_type=same"),
        *(*tiny["compare"], "--image-size", 32, "--labels", 10, "--seeds", 0),
        *("--transfer.head-steps", 40, "--transfer.finetune-steps", 1, "--output", tmp_path / "run"),
    )
    assert answer.status == 0, answer.err
    heads = {
        path.parts[-4].split("-")[0]: json.loads(path.read_text())["phases"]["head"]["test"]["accuracy"]
        for path in (tmp_path / "run" / "transfer").rglob("result.json")
    }
    assert set(heads) == {"scratch", "imagenet"}
    assert heads["imagenet"] > 0.3
    assert heads["imagenet"] > heads["scratch"]


def test_goes_on_from_imagenet_weights(run: Callable, tmp_path: Path, draw_images: Callable) -> None:
    """After two small steps of SimCLR on grey images the weights are still nearly ImageNet's."""
    draw_images(tmp_path / "images", disc=40, square=40)
    answer = run(
        *("pretrain", "simclr", "--init", "imagenet", "--output", tmp_path / "run", "--image-size", 16),
        *("--imagenet-weights", SHARED / "weights" / "mobilenetv2_100_same.safetensors", "--backbone.stem", "small"),
        *("--backbone.name", "mobilenetv2_100", "--backbone.arguments", "pad_type=same"),
        *("--data", "folder:images", "--loading.channels", "grey", "--loading.cache", tmp_path / "cache"),
        *("--epochs", 1, "--batch-size", 24, "--optimizer.learning-rate", "1e-4"),
    )
    assert answer.status == 0, answer.err
    assert "2 steps" in answer.out
    start = load_file(SHARED / "weights" / "mobilenetv2_100_same.safetensors")
    found = load_file(tmp_path / "run" / "backbone" / "backbone.safetensors")
    # The file has float16.
    grey = start["conv_stem.weight"].float().sum(dim=1, keepdim=True)
    assert torch.allclose(found["conv_stem.weight"], grey, atol=1e-2)
    name = "blocks.3.0.conv_pw.weight"
    assert torch.allclose(found[name], start[name].float(), atol=1e-3)
    assert not torch.equal(found[name], start[name].float())


@pytest.mark.slow
def test_mnist_to_usps(run: Callable, tmp_path: Path, tiny: dict) -> None:
    """Images of unlike size, 28 and 16 px, of one task: a few steps are far above chance (one in ten) on USPS."""
    pair = ("--source", f"npz:{SHARED}/data/mnist.npz", "--target", f"npz:{SHARED}/data/usps.npz")
    answer = run(
        *("adapt", "coral", *pair, "--loading.cache", tmp_path / "cache", "--image-size", 28, "--labels", 50),
        *("--loading.near-duplicates", "free", "--loading.workers", 1),
        *("--backbone.name", "digit_cnn", "--head.kind", "hidden-100-100", "--plan", "all rate=2e-3 decay=1"),
        *("--epochs", 1, "--finetune-steps", 40, "--augment.flip", 0, "--output", tmp_path / "run"),
    )
    assert answer.status == 0, answer.err
    assert "1 x 16 x 16 pixels stored" in answer.out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["num_target"] > 6000
    assert result["target_test"]["accuracy"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "weights"),
    [
        ("mobilenetv2_100", ("pad_type=same",), "mobilenetv2_100_same"),
        ("torchvision/mobilenet_v2", (), "mobilenet_v2_torchvision"),
    ],
)
def test_exported_imagenet_weights_on_photographs(
    run: Callable, name: str, arguments: tuple[str, ...], weights: str
) -> None:
    """Each format is checked on photographs against the backbone itself; what is not like it is an error."""
    config = BackboneConfig(name=name, arguments=arguments)
    spec = backbones.make_spec(config, in_chans=3, image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = pretrained.imagenet(spec, weights=SHARED / "weights" / f"{weights}.safetensors")
    pretrained.export(backbone, Path("run/backbone"), {"init": "imagenet"})
    for form in ("safetensors", "onnx", "torch-export", "huggingface"):
        answer = run("export", "run", "--format", form, "--images", SHARED / "data" / "flowers5" / "test")
        assert answer.status == 0, answer.err
        assert "checked on 32 images: the largest difference of the features is" in answer.out
        assert json.loads(Path(f"run/export/{form}/model.json").read_text())["largest_difference"] < 1e-3
