"""What many tests build on: one thread, a runtime, tiny backbones and images made on the spot."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine import runtime as runtimes
from ssl_transfer.engine.contract import Batch
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.models import backbones, initialize
from ssl_transfer.models.backbones import Backbone, BackboneConfig

IMAGE_SIZE = 16
CONVOLUTIONAL = BackboneConfig(
    name="resnet10t",
    stem="standard",
    # The last norm of a block starts at one, so that a fresh block passes gradients on.
    arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
TRANSFORMER = BackboneConfig(
    name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=2", "num_heads=2")
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on many threads, and sums come out the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def runtime() -> runtimes.Runtime:
    return runtimes.start()


@pytest.fixture(scope="session")
def convolutional() -> BackboneConfig:
    return CONVOLUTIONAL


@pytest.fixture(scope="session")
def transformer() -> BackboneConfig:
    return TRANSFORMER


@pytest.fixture
def make_backbone() -> Callable[..., Backbone]:
    """A tiny backbone for images of 16 px: `make_backbone("convolutional" or "transformer")`."""

    def make(kind: str = "convolutional", *, channels: int = 3, seed: int = 0, size: int = IMAGE_SIZE) -> Backbone:
        config = {"convolutional": CONVOLUTIONAL, "transformer": TRANSFORMER}[kind]
        spec = backbones.make_spec(
            config, in_chans=channels, image_size=size, mean=(0.5,) * channels, std=(0.25,) * channels
        )
        return initialize.scratch(spec, seed=seed)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of random pixels: `make_batch(8)`. Every label is -1 unless given."""

    def make(
        count: int = 8, *, channels: int = 3, size: int = IMAGE_SIZE, labels: Tensor | None = None, seed: int = 0
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        # Blocks of 4 px, not single pixels: interpolation would average those away.
        coarse = torch.randint(0, 256, (count, channels, size // 4, size // 4), generator=generator)
        images = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).to(torch.float32) / 255.0
        keys = sample_keys(seed, 0, torch.arange(count))
        return Batch(images=images, labels=torch.full((count,), -1) if labels is None else labels, keys=keys)

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Random pixels in 3 classes, of each 8 training, 4 validation and 4 test images, and 12 unlabelled ones."""

    def make(*, channels: int = 3, size: int = IMAGE_SIZE, num_classes: int = 3, seed: int = 0) -> Dataset:
        counts = {"unlabeled": 12, "train": 8 * num_classes, "validation": 4 * num_classes, "test": 4 * num_classes}
        total = sum(counts.values())
        starts = dict(zip(counts, torch.tensor([0, *counts.values()]).cumsum(0).tolist(), strict=False))
        labels = torch.arange(total) % num_classes
        labels[: counts["unlabeled"]] = -1
        generator = torch.Generator().manual_seed(seed)
        return Dataset(
            source="random",
            pixels=torch.randint(0, 256, (total, channels, size, size), generator=generator).to(torch.uint8),
            labels=labels,
            names=tuple(f"random[{index}]" for index in range(total)),
            classes=tuple("abcdefghij"[:num_classes]),
            splits={name: torch.arange(starts[name], starts[name] + count) for name, count in counts.items()},
            fingerprint=f"random-{channels}-{size}-{num_classes}-{seed}",
        )

    return make
