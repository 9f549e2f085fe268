"""`benchmark.py train-step`: whole trainings in images a second and peak memory, ours beside two others.

`ours` is `stages.pretrain` as a user runs it. `plain` is the fewest lines of PyTorch that do the same work: the same
model, views in batch, loss and optimiser, with nothing logged, saved or resumable. `lightly` is the training that its
documentation shows: its transform on PIL images, a DataLoader with eight workers, its model parts, plain SGD; `tuned`
is the same with one worker a core. For both the images already lie in memory, the workers live on, which its example
does not ask for, and views are blurred only where ours are.

Every side is a process of its own, on the same cores; they take turns, and each side's best epoch but its first counts.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.engine.io.json_files import read_lines

CORES, TURNS, EPOCHS = 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """Set up the training that all libraries measure."""

    method: str
    backbone: str
    size: int
    """Pixels a side of a view; images are stored at 8/7 of it."""
    images: int
    """An epoch."""
    batch_size: int
    bar: float = 1.0
    """How many times as fast as lightly ours is to be."""


CASES = (
    Case(method="simclr", backbone="resnet18", size=32, images=1024, batch_size=128, bar=1.5),
    Case(method="simclr", backbone="mobilenetv3_small_100", size=64, images=1024, batch_size=128, bar=1.5),
    Case(method="simclr", backbone="resnet18", size=64, images=256, batch_size=64),
    Case(method="mae", backbone="vit_tiny_patch16_224", size=224, images=128, batch_size=64),
)
DOCUMENTED_WORKERS = 8
PLAIN_BAR = 0.97
MASKED_BAR = 2.0
WIDTHS = {"hidden_width": 512, "output_width": 128}
TEMPERATURE = 0.2
"""Our defaults, written down because the other sides need them."""
DECODER = {"decoder_width": 128, "decoder_depth": 2, "decoder_heads": 4}


def figures(device: torch.device) -> Iterator[dict[str, Any]]:
    """Three figures for each case, and what a masked image costs beside a whole one."""
    for case in CASES:
        others = ["plain", "lightly", "tuned"] + (["whole"] if case.method == "mae" else [])
        best = _turns(case, ["ours", *others], device)
        name = f"train-step, {case.method}, {case.backbone} at {case.size} px, batch {case.batch_size}"
        labels = {"plain": "plain PyTorch", "lightly": "lightly as documented", "tuned": "lightly, a worker a core"}
        for side, bar in (("plain", PLAIN_BAR), ("lightly", case.bar), ("tuned", 1.0)):
            yield _figure(f"{name}, against {labels[side]}", best["ours"], best[side], bar, device)
        if "whole" in best:
            label = f"{name}, masked by three quarters against the same ViT in supervised training on all patches"
            yield _figure(label, best["ours"], best["whole"], MASKED_BAR, device)


def costs(device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure the time of an image with each method, beside supervised training of the same backbone and size."""
    from ssl_transfer.methods import METHODS

    for method, entry in METHODS.items():
        backbone, size = ("resnet18", 64) if entry.backbones == "any" else ("vit_tiny_patch16_224", 224)
        case = Case(method=method, backbone=backbone, size=size, images=128, batch_size=64)
        best = _turns(case, ["ours", "whole"], device)
        label = f"methods, {method}, {backbone} at {size} px, batch 64, against supervised training"
        yield _figure(label, best["ours"], best["whole"], None, device)


def _figure(
    name: str, ours: dict[str, float], theirs: dict[str, float], bar: float | None, device: torch.device
) -> dict[str, Any]:
    return {
        "name": name,
        "ratio": round(ours["speed"] / theirs["speed"], 3),
        "bar": bar,
        "ours": round(ours["speed"], 1),
        "theirs": round(theirs["speed"], 1),
        "unit": "images a second",
        "ours_peak_mb": round(ours["peak_mb"]),
        "theirs_peak_mb": round(theirs["peak_mb"]),
        "device": str(device),
    }


def _turns(case: Case, sides: list[str], device: torch.device) -> dict[str, dict[str, float]]:
    """The best speed and the least peak of each side."""
    best: dict[str, dict[str, float]] = {}
    described = json.dumps(asdict(case))
    for _ in range(TURNS):
        for side in sides:
            command = [sys.executable, __file__, described, side, str(device)]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if answer.returncode:
                raise RuntimeError(answer.stderr)
            found = json.loads(answer.stdout.splitlines()[-1])
            known = best.setdefault(side, found)
            best[side] = {
                "speed": max(known["speed"], found["speed"]),
                "peak_mb": min(known["peak_mb"], found["peak_mb"]),
            }
    return best


def _pixels(case: Case) -> torch.Tensor:
    """Crops of scikit-learn's two photographs: (N, 3, H, W) uint8."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    generator, side = np.random.default_rng(0), round(case.size * 8 / 7)
    sources = load_sample_images().images
    crops = []
    for index in range(case.images):
        top, left = (int(generator.integers(0, length - side)) for length in sources[0].shape[:2])
        crops.append(sources[index % 2][top : top + side, left : left + side])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def _ours(case: Case) -> float:
    """The fastest epoch, by the log that a run leaves."""
    from dataclasses import replace

    from ssl_transfer.data.dataset import PARTS, Dataset
    from ssl_transfer.stages.pretrain.config import PretrainConfig, default_recipe
    from ssl_transfer.stages.pretrain.pretrain import pretrain

    nothing = torch.empty(0, dtype=torch.int64)
    splits = dict.fromkeys(PARTS, nothing) | {"unlabeled": torch.arange(case.images)}
    dataset = Dataset(
        source="photographs",
        pixels=_pixels(case),
        labels=torch.full((case.images,), -1),
        names=[str(index) for index in range(case.images)],
        classes=(),
        splits=splits,
        fingerprint="",
    )
    recipe = default_recipe(case.method)
    with tempfile.TemporaryDirectory() as folder:
        config = PretrainConfig[type(recipe.method)](  # type: ignore[misc]
            method=recipe.method,
            backbone=replace(recipe.backbone, name=case.backbone, stem="standard"),
            optimizer=recipe.optimizer,
            epochs=EPOCHS,
            batch_size=case.batch_size,
            evaluate_every=10**6,
            image_size=case.size,
            output=Path(folder) / "run",
        )
        pretrain(config, dataset=dataset, quiet=True)
        lines = read_lines(Path(folder) / "run" / "metrics.jsonl")
    return max(line["images_per_second"] for line in lines[1:] if "images_per_second" in line)


def _fastest(epoch: Callable[[], int], device: torch.device) -> float:
    """Images a second of the best epoch but the first; `epoch` returns its images."""
    speeds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        count = epoch()
        if device.type == "cuda":
            torch.cuda.synchronize()
        speeds.append(count / (time.perf_counter() - started))
    return max(speeds[1:])


def _plain(case: Case, device: torch.device, *, whole: bool = False) -> float:
    """Indices, pixels, views, loss, step; with `whole` a classifier on all patches instead of the method."""
    import timm
    from lightly.loss import NTXentLoss
    from torch import nn

    from ssl_transfer.data.transforms.augment import RECONSTRUCTION_DEFAULT, AugmentConfig, augment

    pixels = _pixels(case).to(device)
    size = {"img_size": case.size} if case.backbone.startswith("vit") else {}
    model = timm.create_model(case.backbone, num_classes=0, **size).to(device, memory_format=torch.channels_last)
    width = model.head_hidden_size
    if whole:
        head: nn.Module = nn.Linear(width, 10).to(device)
    elif case.method == "simclr":
        hidden, out = WIDTHS.values()
        layers = nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
        head, criterion = nn.Sequential(*layers).to(device), NTXentLoss(TEMPERATURE)
    else:
        head = _PlainDecoder(width, 196, 768).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3, fused=True)
    augmentation = AugmentConfig() if case.method == "simclr" else RECONSTRUCTION_DEFAULT

    def views(images: torch.Tensor, count: int) -> torch.Tensor:
        keys = torch.randint(2**62, (len(images),), device=device)
        made = [augment(images, keys, view=view, size=case.size, config=augmentation) for view in range(count)]
        return ((torch.cat(made) - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        if whole:
            labels = torch.zeros(len(images), dtype=torch.int64, device=device)
            return nn.functional.cross_entropy(head(model(views(images, 1))), labels)
        if case.method == "simclr":
            return criterion(*head(model(views(images, 2))).chunk(2))
        return _plain_mae(model, head, views(images, 1))

    def epoch() -> int:
        for rows in torch.randperm(case.images, device=device).split(case.batch_size):
            loss_of(pixels[rows].float() / 255.0).backward()
            optimizer.step()
            optimizer.zero_grad()
        return case.images

    return _fastest(epoch, device)


class _PlainDecoder(torch.nn.Module):
    """MAE's decoder: tokens (B, V, D) and the order of patches (B, L) -> pixels (B, L, P)."""

    def __init__(self, width: int, num_patches: int, num_pixels: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        inner = DECODER["decoder_width"]
        self.embed, self.head = torch.nn.Linear(width, inner), torch.nn.Linear(inner, num_pixels)
        self.mask = torch.nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("position", torch.randn(1, num_patches, inner))
        blocks = [Block(inner, DECODER["decoder_heads"]) for _ in range(DECODER["decoder_depth"])]
        self.blocks = torch.nn.Sequential(*blocks, torch.nn.LayerNorm(inner))

    def forward(self, tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        hidden = self.mask.expand(len(order), order.shape[1] - tokens.shape[1], -1)
        everything, restore = torch.cat([self.embed(tokens), hidden], 1), order.argsort(1)
        return self.head(self.blocks(everything.gather(1, restore[..., None].expand_as(everything)) + self.position))


def _plain_mae(vit: Any, decoder: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    tokens = vit.pos_drop(vit._pos_embed(vit.patch_embed(images)))
    order = torch.rand(len(images), tokens.shape[1] - 1, device=images.device).argsort(1)
    visible = order[:, : order.shape[1] // 4]
    seen = tokens[:, 1:].gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
    encoded = vit.norm(vit.blocks(torch.cat([tokens[:, :1], seen], 1)))[:, 1:]
    patches = torch.nn.functional.unfold(images, 16, stride=16).mT
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 0.01).sqrt()
    errors = (decoder(encoded, order) - target).square().mean(-1)
    return errors.gather(1, order[:, visible.shape[1] :]).mean()


class _InMemory(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """PIL images and lightly's transform."""

    def __init__(self, case: Case, transform: Any) -> None:
        from PIL import Image

        self._images = [Image.fromarray(pixels) for pixels in _pixels(case).permute(0, 2, 3, 1).contiguous().numpy()]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._images[index])


def _lightly(case: Case, device: torch.device, *, workers: int) -> float:
    """As https://docs.lightly.ai/self-supervised-learning/examples shows SimCLR and MAE."""
    import timm
    from lightly.loss import NTXentLoss
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM, SimCLRProjectionHead
    from lightly.transforms import MAETransform, SimCLRTransform
    from torch import nn

    from ssl_transfer.data.transforms.augment import AugmentConfig

    simclr, blur = case.method == "simclr", AugmentConfig().blur_at(case.size)
    transform: Any = MAETransform(input_size=case.size)
    if simclr:
        transform = SimCLRTransform(input_size=case.size, gaussian_blur=blur)
    loader = torch.utils.data.DataLoader(
        _InMemory(case, transform),
        batch_size=case.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )
    model = timm.create_model(case.backbone, num_classes=0, **({} if simclr else {"img_size": case.size})).to(device)
    if simclr:
        head: Any = SimCLRProjectionHead(model.head_hidden_size, *WIDTHS.values()).to(device)
        criterion: nn.Module = NTXentLoss(TEMPERATURE)
        modules = [model, head]
    else:
        encoder = MaskedVisionTransformerTIMM(vit=model).to(device)
        head = MAEDecoderTIMM(
            num_patches=model.patch_embed.num_patches,
            patch_size=16,
            embed_dim=model.embed_dim,
            decoder_embed_dim=DECODER["decoder_width"],
            decoder_depth=DECODER["decoder_depth"],
            decoder_num_heads=DECODER["decoder_heads"],
        ).to(device)
        criterion, modules = nn.MSELoss(), [encoder, head]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.06) if simclr else torch.optim.AdamW(parameters, lr=1.5e-4)

    def loss_of(batch: list[torch.Tensor]) -> torch.Tensor:
        if simclr:
            first, second = (head(model(view.to(device)).flatten(start_dim=1)) for view in batch)
            return criterion(first, second)
        images = batch[0].to(device)
        length = encoder.sequence_length
        keep, mask = utils.random_token_mask(size=(len(images), length), mask_ratio=0.75, device=device)
        tokens = head.embed(encoder.encode(images=images, idx_keep=keep))
        masked = utils.repeat_token(head.mask_token, (len(images), length))
        decoded = head.decode(utils.set_at_index(masked, keep, tokens.type_as(masked)))
        painted = head.predict(utils.get_at_index(decoded, mask))
        return criterion(painted, utils.get_at_index(utils.patchify(images, 16), mask - 1))

    def epoch() -> int:
        count = 0
        for batch in loader:
            loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            count += len(batch[0])
        return count

    return _fastest(epoch, device)


def main() -> None:
    """One side of one case: `benchmark_train_step.py CASE SIDE DEVICE` prints its speed and peak."""
    from ssl_transfer.engine.distributed.device_memory import peak_mb

    described, side, name = sys.argv[1:]
    case, device = Case(**json.loads(described)), torch.device(name)
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    measure: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(case),
        "plain": lambda: _plain(case, device),
        "whole": lambda: _plain(case, device, whole=True),
        "lightly": lambda: _lightly(case, device, workers=DOCUMENTED_WORKERS),
        "tuned": lambda: _lightly(case, device, workers=CORES),
    }
    speed = measure[side]()
    print(json.dumps({"speed": speed, "peak_mb": peak_mb(device)}))


if __name__ == "__main__":
    main()
