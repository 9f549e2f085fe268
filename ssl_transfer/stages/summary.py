"""List the blocks of a backbone, and the parameters that each phase of a transfer trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.table import Table
from torch import Tensor, nn

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted, words
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.factory import probe
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.models.layers.blocks import Block
from ssl_transfer.models.trainable import select
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.run_config import IMAGE_SIZE
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe
from ssl_transfer.stages.transfer.setup import fitted

LONG_NAME = 28
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Block, or the head."""

    name: str
    shape: tuple[int, ...]
    """Shape of its output for one image."""
    num_parameters: int
    num_statistics: int
    """Number of BatchNorm's running means and variances."""
    num_trained: tuple[int, ...]
    """Number of its trained parameters, in each phase."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Backbone with a head."""

    rows: tuple[Row, ...]
    """Blocks in order of computation, and the head."""
    phases: tuple[str, ...]
    """Names of the phases."""

    @property
    def num_parameters(self) -> int:
        """Count the parameters of backbone and head."""
        return sum(row.num_parameters for row in self.rows)

    @property
    def num_statistics(self) -> int:
        """Count the statistics of backbone and head."""
        return sum(row.num_statistics for row in self.rows)

    @property
    def num_trained(self) -> dict[str, int]:
        """Count the trained parameters of each phase."""
        return {name: sum(row.num_trained[number] for row in self.rows) for number, name in enumerate(self.phases)}


def summarize(backbone: Backbone, head: nn.Module, phases: Sequence[tuple[str, str]]) -> Summary:
    """Count the parameters of each block, and those that each phase trains.

    Args:
        backbone: any.
        head: trained in every phase.
        phases: for each its name and its trained part of the backbone, a word of `models.trainable.select`.

    Raises:
        InputError: such a word does not apply to this backbone.
    """
    selections = [set(select(backbone, trained).parameters) for _, trained in phases]
    parameters = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    buffers = {name: buffer.numel() for name, buffer in backbone.model.named_buffers()}
    blocks = backbone.blocks()
    rows = [
        Row(
            name=block.name,
            shape=shape,
            num_parameters=sum(parameters[name] for name in block.parameters),
            num_statistics=sum(buffers[name] for name in block.buffers if name.endswith(_STATISTICS)),
            num_trained=tuple(
                sum(parameters[name] for name in block.parameters if name in chosen) for chosen in selections
            ),
        )
        for block, shape in zip(blocks, _shapes(backbone, blocks), strict=True)
    ]
    count = sum(parameter.numel() for parameter in head.parameters())
    statistics = sum(buffer.numel() for name, buffer in head.named_buffers() if name.endswith(_STATISTICS))
    rows.append(
        Row(
            name="head",
            shape=(_num_outputs(head),),
            num_parameters=count,
            num_statistics=statistics,
            num_trained=(count,) * len(phases),
        )
    )
    return Summary(rows=tuple(rows), phases=tuple(name for name, _ in phases))


def table_of(summary: Summary) -> Table:
    """Format the summary as a table for the terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_footer=True, header_style="bold")
    totals = summary.num_trained
    table.add_column("block", "total", overflow="fold")
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", f"{summary.num_parameters:,}", justify="right", no_wrap=True)
    table.add_column("statistics", f"{summary.num_statistics:,}", justify="right", no_wrap=True)
    for name in summary.phases:
        table.add_column(name, f"{totals[name]:,}", justify="right", overflow="fold")
    for row in summary.rows:
        table.add_row(
            words(*_short(row.name)),
            " x ".join(map(str, row.shape)),
            f"{row.num_parameters:,}",
            f"{row.num_statistics:,}" if row.num_statistics else "",
            *(_state(trained, row.num_parameters) for trained in row.num_trained),
        )
    return table


def _short(name: str) -> list[str]:
    """Break a long name into two lines, so that the other columns fit into a narrow terminal."""
    holder, _, last = name.rpartition(".")
    return [f"{holder}.", f"  {last}"] if len(name) > LONG_NAME else [name]


def _state(trained: int, total: int) -> str:
    if trained == 0:
        return "frozen" if total else ""
    return "trained" if trained == total else f"{trained:,}"


def _shapes(backbone: Backbone, blocks: Sequence[Block]) -> list[tuple[int, ...]]:
    """Record each block's output shape for one image, before a global pooling at its end."""
    seen: dict[str, tuple[int, ...]] = {}
    names = {name for block in blocks for name in block.modules}

    def note(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not isinstance(module, nn.AdaptiveAvgPool2d):
                seen[name] = tuple(output.shape[1:])

        return hook

    hooks = [backbone.model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(probe(backbone.spec).to(backbone.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    shapes = []
    for block in blocks:
        found = [seen[name] for name in block.modules if name in seen] or [(backbone.num_features,)]
        maps = [shape for shape in found if len(shape) > 1]
        shapes.append((maps or found)[-1])
    return shapes


def _num_outputs(head: nn.Module) -> int:
    return [module.out_features for module in head.modules() if isinstance(module, nn.Linear)][-1]


@dataclass(frozen=True, kw_only=True)
class SummaryConfig:
    """Show the blocks of a backbone, their parameters, and which of them each phase of a transfer trains."""

    path: Annotated[str, *configuration.positional("BACKBONE")] = ""
    """Model of timm, torchvision/NAME, simple_cnn, or the folder of a run that exported a backbone."""
    image_size: int | None = None
    """Pixels a side. Default: 64, or those of the run."""
    in_chans: int | None = None
    """Channels of the images. Default: 3, or those of the run."""
    backbone: BackboneConfig = BackboneConfig(name="")
    """Its stem and arguments; its name is the first argument of this command."""
    plan: tuple[str, ...] = ("fine-tune",)
    """As in `transfer`: a named plan (feature-extraction, fine-tune, partial, gradual, full, low-level, surgical) or
    phases."""
    head: HeadConfig = HeadConfig()
    """Head of the backbone. Default for a run with a head: the run's own."""
    classes: int | None = None
    """Number of classes of the head. Default: 2, or those of the run."""


def summary(config: SummaryConfig) -> Summary:
    """Print the summary and return it."""
    if config.classes is not None and config.classes < 2:
        raise InputError(f"--classes {config.classes}: it must be 2 or more.")
    folder = expanded(Path(config.path), flag="summary")
    run = Run(folder) if config.path and folder.is_dir() else None
    loaded = _backbone(config, run)
    asked, classes = _head(config, run)
    recipe = TransferRecipe(plan=config.plan, head=asked)
    backbone, head = fitted(recipe, loaded, classes)
    phases = [(phase.name, phase.trained) for phase in recipe.phases(steps_per_epoch=1)]
    result = summarize(backbone, head, phases)
    spec, screen = backbone.spec, console()
    screen.print(words(f"{spec.label}, {spec.in_chans} x {spec.image_size} x {spec.image_size}, {spec.stem} stem"))
    screen.print(f"head {asked.kind}, {counted(1 if asked.one_logit else classes, 'score')}\n")
    screen.print(table_of(result))
    with_statistics = f"; {result.num_parameters + result.num_statistics:,} with BatchNorm's statistics"
    screen.print(f"\n{result.num_parameters:,} parameters{with_statistics if result.num_statistics else ''}")
    for name, trained in phases:
        screen.print(f"phase {name} ({trained}): {result.num_trained[name]:,} trained")
    return result


def _backbone(config: SummaryConfig, run: Run | None) -> Backbone:
    if not config.path:
        raise InputError("Which backbone? Give a name, as in `ssl-transfer summary resnet18`, or the folder of a run.")
    if run is not None:
        if config.image_size or config.in_chans or config.backbone != BackboneConfig(name=""):
            raise InputError(f"{config.path} names its own size, channels and backbone. Leave those flags out.")
        return run.load_backbone()
    if config.backbone.name:
        raise InputError(f"--backbone.name {config.backbone.name}: {config.path} names the backbone. Leave it out.")
    in_chans = config.in_chans or 3
    asked = BackboneConfig(name=config.path, stem=config.backbone.stem, arguments=config.backbone.arguments)
    spec = backbones.make_spec(
        asked,
        in_chans=in_chans,
        image_size=config.image_size or IMAGE_SIZE,
        mean=(0.5,) * in_chans,
        std=(0.25,) * in_chans,
    )
    return pretrained.scratch(spec, seed=0)


def _head(config: SummaryConfig, run: Run | None) -> tuple[HeadConfig, int]:
    """Return the head and its number of classes: the requested ones, by default the run's."""
    if run is None or run.head is None:
        return config.head, config.classes or 2
    if config.classes is None and config.head == HeadConfig():
        return run.head, len(run.classes)
    return config.head, config.classes or len(run.classes)


def main(arguments: Sequence[str], program: str = "ssl-transfer summary") -> None:
    """Run `summary BACKBONE [flags]`."""
    settings, rest = configuration.take_config(arguments)
    summary(configuration.parse(SummaryConfig, settings, rest, program=program, default=SummaryConfig()))
