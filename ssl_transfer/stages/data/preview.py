"""Draw a sheet of each method's views of pool images: `ssl-transfer data preview`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
from torch import Tensor

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.transforms.augment import AugmentConfig, augment, evaluation_view, ignored
from ssl_transfer.data.transforms.presets import preset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import write_atomically
from ssl_transfer.engine.io.output_file import OutputFile
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.redaction import redacted
from ssl_transfer.engine.runs.run_folder import check_free
from ssl_transfer.engine.terminal import say
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.methods import METHODS
from ssl_transfer.methods.base import Reconstruction, View
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.reports.image_grid import CPU, sheet
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.command_line import AUGMENTATION, take_images
from ssl_transfer.stages.common.initialization import Initial, initial_backbone
from ssl_transfer.stages.common.run_config import check_positive
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

TRANSFER = "transfer"
NAMES = (*METHODS, TRANSFER)
M = TypeVar("M")
MOST_CELLS = 200
"""Largest number of images, or of epochs, in a sheet."""
Column = tuple[str, Tensor]
"""A title, and (B, C, H, W) images in 0..1."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Generic[M]):
    """Settings of a method that determine its views."""

    method: M
    """The method's own settings."""
    backbone: BackboneConfig
    """Backbone; for a vision transformer it sets the patch size."""


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """Settings of the transfer stage that determine its views."""

    augment: AugmentConfig = TransferRecipe().augment
    """Augmentation of training images."""


def _field(name: str) -> tuple[str, Any, Any]:
    """Define a method's own settings as a field of `Settings`."""
    if name == TRANSFER:
        return name, TransferSettings, field(default=TransferSettings())
    entry = METHODS[name]
    value = MethodSettings(method=entry.config(), backbone=entry.backbone)
    return name, MethodSettings[entry.config], field(default=value)  # type: ignore[name-defined]


Settings: Any = dataclasses.make_dataclass(
    "Settings",
    # As flags: --simclr.method.augment.flip, --mae.method.mask-ratio, --transfer.augment.rotation, ...
    [_field(name) for name in NAMES],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Draw some images of the pool as each method's views: a sheet a method.

    --config also takes the config.yaml of a run, and shows that run's views.
    """

    data: str = "digits"
    """The images: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:REPO, medmnist:NAME, or made of others:
    blended-digits, blend:DATA,PHOTOFOLDER, union:DATA,DATA (docs/howto/data.md)."""
    method: tuple[str, ...] = NAMES
    """Methods whose views are drawn: any of the methods, and transfer."""
    image_size: int = 64
    """Pixels a side of the model's input."""
    images: int = 8
    """Rows: images, evenly spaced over the classes."""
    epochs: int = 3
    """Number of epochs whose views are drawn."""
    seed: int = 0
    """Seed of the views, as in training."""
    output: Path | None = None
    """Folder for the sheets, or one file if it ends in .png. Default: runs/preview- and the name of the images."""
    loading: sources.LoadingConfig = sources.LoadingConfig()
    """Settings for reading and splitting images."""
    settings: Annotated[Settings, configuration.INLINE] = field(default_factory=Settings)
    """Each method's settings, as in compare."""


def default_config(kind: str) -> PreviewConfig:
    """Return every method's own settings for a kind of images (`data.transforms.presets.KINDS`)."""
    config = augmentations.adapted(PreviewConfig(), kind)
    supervised = TransferSettings(augment=preset("supervised", kind, TransferRecipe().augment))
    return replace(config, settings=replace(config.settings, transfer=supervised))


def preview(config: PreviewConfig) -> list[Path]:
    """Draw the sheets and return their files."""
    check_positive(images=config.images, epochs=config.epochs)
    if max(config.images, config.epochs) > MOST_CELLS:
        raise InputError(f"--images {config.images}, --epochs {config.epochs}: a sheet shows at most {MOST_CELLS}.")
    for name in config.method:
        if name not in NAMES:
            raise InputError(f"--method {name}: there are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
    places = _places(config)
    dataset = sources.load(config.data, image_size=config.image_size, config=config.loading)
    if not len(dataset.pool):
        raise InputError(f"--data {config.data}: has no unlabelled or training images, which methods see.")
    indices = _spread(dataset, config.images)
    images = next(dataset.batches([indices], CPU))
    for name, place in places.items():
        settings = getattr(config.settings, name)
        used = (View(settings.augment),) if name == TRANSFER else METHODS[name].views(settings.method)
        columns = [("stored", images), ("evaluation", evaluation_view(images, size=config.image_size))]
        columns += _views(name, used, dataset, indices, images, config)
        labels = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels[indices].tolist()]
        title = f"{name} on {config.data}, {config.image_size} px"
        drawn = sheet(title, labels, columns, side=max(96, config.image_size))
        write = functools.partial(drawn.save, format="png")
        if isinstance(place, OutputFile):
            place.write(write, {"data": redacted(config.data), "method": name})
        else:
            write_atomically(place, write)
        say(f"{name}: {_path(place)}")
        without = dict.fromkeys(lost for view in used for lost in ignored(view.augment, dataset.num_channels))
        if without:
            say(f"  {', '.join(without)} need three channels, and do nothing to these images")
    return [_path(place) for place in places.values()]


def _spread(dataset: Dataset, count: int) -> Tensor:
    """Pick images of the pool, evenly spaced when it is sorted by class."""
    order = dataset.pool[dataset.labels[dataset.pool].argsort(stable=True)]
    # The middle of each of as many stretches.
    places = (torch.arange(min(count, len(order))) + 0.5) * (len(order) / min(count, len(order)))
    return order[places.long()]


def _views(
    name: str, used: tuple[View, ...], dataset: Dataset, indices: Tensor, images: Tensor, config: PreviewConfig
) -> list[Column]:
    """Build the columns beside the images themselves: the method's views, epoch by epoch."""
    size = config.image_size
    keys = {epoch: sample_keys(config.seed, epoch, indices) for epoch in range(config.epochs)}
    paint = None if name == TRANSFER else METHODS[name].reconstruct
    if paint is not None:
        recipe = replace(pretraining.default_recipe(name), **configuration.shallow(getattr(config.settings, name)))
        start = Initial(backbone=recipe.backbone, image_size=size, seed=config.seed)
        module = pretraining.prepare(recipe, initial_backbone(start, dataset, None)[0])
        return _painted(functools.partial(paint, module.eval()), images, keys)
    columns: list[Column] = []
    for epoch, own in keys.items():
        for number, view in enumerate(used):
            side = max(1, round(size * view.side))
            title = "" if len(used) == 1 else f", view {number + 1}"
            made = augment(images, own, view=number, size=side, config=view.augment)
            columns.append((f"epoch {epoch + 1}{title}" + (f", {side} px" if side != size else ""), made))
    return columns


def _painted(paint: Callable[[Batch], Reconstruction], images: Tensor, keys: dict[int, Tensor]) -> list[Column]:
    """Build the columns of a method that reconstructs: each epoch's view, and its visible part where masked."""
    columns: list[Column] = []
    for epoch, own in keys.items():
        found = paint(Batch(images=images, labels=torch.full_like(own, -1), keys=own))
        columns.append((f"epoch {epoch + 1}", found.target))
        if not torch.equal(found.seen, found.target):
            columns.append(("what it sees", found.seen))
    return columns


def _places(config: PreviewConfig) -> dict[str, Path | OutputFile]:
    """Return the file of each method's sheet: in a folder of ours, or named by the user.

    Raises:
        InputError: a file or the folder is of another program.
    """
    names = tuple(dict.fromkeys(config.method))
    place = config.output or Path(f"runs/preview-{data_label(config.data)}")
    if place.suffix != ".png":
        check_free(place)
        ownership.own_folder(place)
        return {name: place / f"{name}.png" for name in names}
    paths = {name: place if len(names) == 1 else place.with_stem(f"{place.stem}-{name}") for name in names}
    files = {name: OutputFile(path=path) for name, path in paths.items()}
    for file in files.values():
        file.check()
    return dict(files)


def _path(place: Path | OutputFile) -> Path:
    return place.path if isinstance(place, OutputFile) else place


def settings_of_run(settings: dict[str, Any]) -> dict[str, Any]:
    """Select a preview's settings from those of a pretraining, a transfer or a comparison."""
    kept: dict[str, Any] = {name: settings[name] for name in ("data", "image_size", "loading") if name in settings}
    shared = {TRANSFER: {"augment": settings.get("augment", settings.get(TRANSFER, {}).get("augment", {}))}}
    method = settings.get("method")
    if isinstance(method, dict):
        name = method.get("name", "")
        own = {key: value for key, value in method.items() if key != "name"}
        return {**kept, "method": [name], name: {"method": own, "backbone": settings.get("backbone", {})}}
    if "arms" in settings:
        # Of imagenet+simclr simclr.
        arms = [name.rpartition("+")[2] for name in settings["arms"]]
        names = [name for name in dict.fromkeys(arms) if name in METHODS]
        own = {name: {"method": settings.get(name, {}).get("method", {})} for name in names}
        return {**kept, "method": [*names, TRANSFER], **own, **shared}
    return {**kept, "method": [TRANSFER], **shared} if "init" in settings else settings


def main(arguments: Sequence[str], program: str = "ssl-transfer data preview") -> None:
    """Run `data preview --data DATA [flags]`."""
    images, settings, rest = take_images(arguments)
    default, settings = default_config(images), settings_of_run(settings)
    preview(configuration.parse(PreviewConfig, settings, rest, program=program, default=default, extra=[AUGMENTATION]))
