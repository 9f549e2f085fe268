"""Export a run's model for use without this project, checked before its files are in place: `ssl-transfer export`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import put_in_place, system_errors
from ssl_transfer.engine.io.unfinished_files import unfinished
from ssl_transfer.engine.runs.run_folder import check_free
from ssl_transfer.engine.terminal import say
from ssl_transfer.reports.evaluation import write_json
from ssl_transfer.stages.common.run import Run

from . import model_card, onnx_graph, timm_torchvision
from .check import Loaded, check_images, largest_difference
from .exported_model import Exported, facts, load_exported

Format = Literal["safetensors", "onnx", "torch-export", "huggingface"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a run's model for other software; of a pretraining run, or of RUN/backbone, its features.

    The exported model is loaded again and compared with the run's own model on real images before its files are in
    place.
    """

    path: Annotated[str, *configuration.positional("RUN")] = ""
    """Folder of a run."""
    format: Format = "safetensors"
    """safetensors: weights under the names of timm or torchvision, with the lines that load them. onnx and
    torch-export: a graph with the normalisation in it, for batches of any size. huggingface: a folder for the hub with
    a model card. `timm.create_model("local-dir:...")` loads it where timm's constructor makes the network. With the
    small stem or a torchvision network it does not; the card then has the lines that load it."""
    output: Path | None = None
    """Folder for the export. None: export/FORMAT in the run's."""
    images: tuple[str, ...] = ()
    """Images of the check, at most 32 of them: folders, files, tables or DATA strings, as `predict` takes them. None:
    handwritten digits, resized to the model's input."""
    tolerance: float = 1e-4
    """Largest difference to the run's own model, as a share of its largest output."""
    licence: str = "unknown"
    """Licence of the weights, for the model card of huggingface: apache-2.0, cc-by-4.0, ..."""


@dataclass(frozen=True)
class _Form:
    write: Callable[[Exported, Path], str]
    """Fills a folder and returns Python code that uses its files."""
    load: Callable[[Exported, Path], Loaded]
    normalised_inside: bool


FORMS: dict[Format, _Form] = {
    "safetensors": _Form(timm_torchvision.write_weights, timm_torchvision.load_weights, False),
    "onnx": _Form(onnx_graph.write_onnx, lambda _, folder: onnx_graph.load_onnx(folder), True),
    "torch-export": _Form(onnx_graph.write_torch_export, lambda _, folder: onnx_graph.load_torch_export(folder), True),
    "huggingface": _Form(timm_torchvision.write_hub_folder, timm_torchvision.load_hub_folder, False),
}


def export(config: ExportConfig) -> Path:
    """Export, check, and put the files in place.

    Returns:
        The folder of the export.

    Raises:
        InputError: no model, one that the format cannot hold, a difference above the tolerance.
    """
    _check(config)
    run = Run(Path(config.path))
    for note in run.notes:
        say(note)
    exported = load_exported(run)
    images = check_images(exported, config.images)
    output = config.output or exported.run.path / "export" / config.format
    with ownership.owned_folder(output):
        difference = _write(config, exported, output, images)
    _describe(exported, output, len(images), difference)
    return output


def _write(config: ExportConfig, exported: Exported, output: Path, images: Tensor) -> float:
    """Write the files aside, check them, and move them to the folder; returns the largest difference."""
    form = FORMS[config.format]
    with unfinished(output / config.format, is_folder=True) as aside:
        with system_errors(aside / "trial"):
            usage = form.write(exported, aside)
        difference = largest_difference(exported, form.load(exported, aside), images, config.tolerance)
        told = facts(exported, normalised_inside=form.normalised_inside, usage=usage, difference=difference)
        write_json(aside / "model.json", told)
        if config.format == "huggingface":
            by_name = timm_torchvision.loads_by_name(aside)
            model_card.write(aside / "README.md", exported, told, licence=config.licence, loads_by_name=by_name)
        # Their description last: where it exists, the others do.
        for file in sorted(aside.iterdir(), key=lambda file: file.suffix == ".json"):
            ownership.claim(output / file.name)
            put_in_place(file, output / file.name)
    return difference


def _check(config: ExportConfig) -> None:
    if not config.path:
        raise InputError("Which run? As in `ssl-transfer export runs/NAME --format onnx`.")
    if not config.tolerance > 0:
        raise InputError(f"--tolerance {config.tolerance:g}: it must be above 0.")
    if config.licence != ExportConfig.licence and config.format != "huggingface":
        raise InputError(f"--licence {config.licence} would be ignored: only --format huggingface has a model card.")
    if config.output is not None:
        check_free(config.output)


def _describe(exported: Exported, output: Path, num_images: int, difference: float) -> None:
    say(f"checked on {num_images} images: the largest difference of the {exported.output} is {difference:.2g}")
    names = sorted(path.name for path in output.iterdir() if path.name != ownership.MARKER)
    say(f"written: {output} ({', '.join(names)})")


def main(arguments: Sequence[str], program: str = "ssl-transfer export") -> None:
    """Run `export RUN --format FORMAT [flags]`."""
    settings, rest = configuration.take_config(arguments)
    export(configuration.parse(ExportConfig, settings, rest, program=program, default=ExportConfig()))
