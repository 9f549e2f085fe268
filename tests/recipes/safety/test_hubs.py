"""A hub that is down or silent when weights or images are asked for by name: one message, soon, and nothing lost."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import medmnist
import pytest
import torchvision

sys.path.insert(0, str(Path(__file__).parents[2] / "invariants"))
from servers import server

from ssl_transfer.engine.io import hub

ASKED = {
    "ImageNet weights": (("--init", "imagenet", "--backbone.name", "resnet10t"), "--imagenet-weights PATH"),
    "weights by name": (("--init", "timm:resnet10t.c3_in1k"), "--imagenet-weights PATH"),
    "torchvision's weights": (
        ("--init", "imagenet", "--backbone.name", "torchvision/mobilenet_v3_small"),
        "--imagenet-weights PATH",
    ),
    "the hub's images": (("--init", "scratch", "--data", "hf:owner/name"), "could not be fetched"),
    "torchvision's images": (("--init", "scratch", "--data", "torchvision:MNIST"), "could not be fetched"),
    "MedMNIST's images": (("--init", "scratch", "--data", "medmnist:pathmnist"), "could not be fetched"),
}


@pytest.mark.parametrize("kind", ["closed", "silent", "broken"])
@pytest.mark.parametrize("asked", ASKED)
def test_a_hub_that_does_not_serve(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, kind: str
) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(hub, "SILENCE_SECONDS", 0.5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    kept = tmp_path / "runs" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("kept")
    flags, message = ASKED[asked]
    started = time.monotonic()
    with server(kind) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{address}/"])
        weights = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
        monkeypatch.setattr(type(weights), "url", f"{address}/weights-00000000.pth", raising=False)
        monkeypatch.setitem(medmnist.INFO["pathmnist"], "url", f"{address}/pathmnist.npz")
        fetching = ("--loading.download", "--loading.downloads", tmp_path / "downloads")
        answer = run("transfer", *flags, *tiny["transfer"], *fetching)
    assert answer.status == 2, answer.out + answer.err
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert kept.read_text() == "kept"
    # None of what was half fetched stays under the name of the whole.
    assert not [path for path in (tmp_path / "downloads").rglob("*.npz") if path.is_file()]
    assert time.monotonic() - started < 20.0


def test_a_mirror_without_a_page_of_its_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("refusing") as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        hub.check_hub()
    with server("broken") as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        with pytest.raises(OSError, match="500"):
            hub.check_hub()
