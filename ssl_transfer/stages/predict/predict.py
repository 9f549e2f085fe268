"""Predict class probabilities of images with the model of a run: `ssl-transfer predict`.

Images are read, cropped and scaled like the run's own in its evaluation, so that predictions on those are the same.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import LEAST_SHARED, MOST_SHARED, overlap, to_unit
from ssl_transfer.data.loaders.user_images import Given, Read, given, read_as
from ssl_transfer.data.loading_config import Range
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.output_file import OutputFile
from ssl_transfer.engine.redaction import redacted
from ssl_transfer.engine.runs.run_folder import command_line
from ssl_transfer.evaluation.comparison.write_tables import defused
from ssl_transfer.evaluation.predictions.metrics import class_logits
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.stages.common.run import Run

from .confidence import describe_calibration, describe_threshold

BATCH_SIZE = 64
_TOLD = 5
"""Number of reasons for missing predictions that are printed; the table has that of each image."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict images with the model of a run: a table with a row for each, in the order of the arguments.

    Columns: path, predicted, confidence, abstained, error, and probability_CLASS for each class. An unreadable image,
    or one of another kind than those of the run, has a row with only the reason as its error.
    """

    path: Annotated[str, *configuration.positional("RUN")] = ""
    """Folder of a run with a model: of transfer, adapt or distill."""
    images: Annotated[tuple[str, ...], *configuration.positional("IMAGES...")] = ()
    """Folders (with all below them), files, tables (.csv, .tsv) with a column of paths, DATA strings (digits,
    npz:FILE)."""
    output: Path = Path("predictions.csv")
    """File of the table; a pipe or a device is written into. NAME.json beside it is its record: only a table that is
    still as it was written is replaced."""
    overwrite: bool = False
    """Replace an output that this program did not write, or that was changed since. Inputs are never replaced."""
    column: str | None = None
    """Column of paths in a table; paths are absolute or relative to the table. None: one called path, file, image or
    the like."""
    abstain_below: float = 0.0
    """Images with less confidence than this have True in the column abstained: leave them to a person. The column is
    empty for images without a prediction."""
    uncalibrated: bool = False
    """Keep the model's own probabilities. Otherwise its scores are divided by the temperature that the run fitted on
    its validation images, where it has one."""
    to_grey: bool = False
    """Convert colour images to grey for a run on grey ones, instead of refusing them."""
    value_range: Range | None = None
    """Stored values that become 0 and 1. None: those of the run."""
    workers: int = 4
    """Threads that decode."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Counts of a prediction."""

    num_images: int
    num_unreadable: int
    num_abstained: int
    """Among readable images."""
    temperature: float
    """1 without calibration."""


def predict(config: PredictConfig) -> Predicted:
    """Predict, write the table and print warnings.

    Raises:
        InputError: no model, no images, values of another depth, or not one image that can be used.
    """
    _check(config)
    output = OutputFile(path=config.output, overwrite=config.overwrite)
    run = Run(Path(config.path))
    size = run.spec.image_size
    images = [given(text, column=config.column, image_size=size, loading=run.loading) for text in config.images]
    inputs = [*(path for one in images for path in one.files()), *_files_of(run, output)]
    output.check(inputs)
    runtime = runtimes.start()
    classifier = run.load_classifier(run.load_backbone()).to(runtime.device)
    for note in (*run.notes, *([run.storage.note] if run.storage.note else [])):
        runtime.say(note)
    temperature = None if config.uncalibrated else run.temperature.value
    if temperature is None:
        why = "--uncalibrated" if config.uncalibrated else "the run has fitted no temperature"
        runtime.say(f"probabilities are not calibrated ({why})")
    else:
        runtime.say(describe_calibration(run, temperature))
        for doubt in run.temperature.doubts:
            runtime.warn(doubt)
    table = _Table(config, run, classifier, images, runtime, temperature)
    description = {
        "command": command_line(),
        "run": redacted(str(run.path)),
        "weights": run.backbone_file.fingerprint,
        "temperature": temperature,
    }
    output.write(table.write, description, inputs)
    _describe(config, run, table, runtime)
    return table.found()


def _files_of(run: Run, output: OutputFile) -> Iterator[Path]:
    """Yield all files below the folders of a run, except the table of an earlier command; follow links."""
    seen: set[str] = set()
    written = output.target if output.is_written else None
    for start in (run.path, run.folder):
        for place, folders, names in os.walk(start, followlinks=True):
            if (real := os.path.realpath(place)) in seen:
                # A link leads back.
                folders.clear()
                continue
            seen.add(real)
            yield from (path for name in names if (path := Path(real, name)) != written)


def _check(config: PredictConfig) -> None:
    if not config.path or not config.images:
        raise InputError("Which run, and which images? As in `ssl-transfer predict runs/NAME photographs/ one.jpg`.")
    if not 0.0 <= config.abstain_below <= 1.0:
        raise InputError(f"--abstain-below {config.abstain_below:g}: a probability, 0 to 1.")
    if config.workers < 1:
        raise InputError(f"--workers {config.workers}: at least 1.")
    if config.value_range is not None and not config.value_range[0] < config.value_range[1]:
        raise InputError(f"--value-range {config.value_range}: two numbers, the smaller first.")


class _Table:
    """Rows of the table, one batch at a time, with counts."""

    def __init__(
        self,
        config: PredictConfig,
        run: Run,
        classifier: Classifier,
        images: Sequence[Given],
        runtime: runtimes.Runtime,
        temperature: float | None,
    ) -> None:
        self._config, self._run, self._classifier, self._runtime = config, run, classifier, runtime
        self.is_calibrated, self._temperature = temperature is not None, temperature or 1.0
        self._images, self.total = images, sum(len(one.names) for one in images)
        self._range = config.value_range or run.storage.value_range
        self._problems: dict[str, list[str]] = {}
        self.num_problems = self.num_abstained = 0
        self.seen: Range | None = None

    def found(self) -> Predicted:
        """Return the counts."""
        return Predicted(
            num_images=self.total,
            num_unreadable=self.num_problems,
            num_abstained=self.num_abstained,
            temperature=self._temperature,
        )

    def write(self, path: Path) -> None:
        """Write the file."""
        # A file's name may be no text in any encoding; the others are still readable then.
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            self._fill(file)
        if self.num_problems == self.total:
            raise InputError(f"Not one of {counted(self.total, 'image')} can be used: {self.told_problems()}.")

    def _fill(self, file: TextIO) -> None:
        classes = self._run.classes
        lines = csv.writer(file)
        columns = ("path", "predicted", "confidence", "abstained", "error")
        lines.writerow([*columns, *(f"probability_{name}" for name in classes)])
        done = 0
        batches = read_as(
            self._images,
            self._run.storage.layout,
            # What the run itself did to its images needs no leave.
            to_grey=self._config.to_grey or self._run.loading.channels == "grey",
            batch_size=BATCH_SIZE,
            workers=self._config.workers,
        )
        with bar("predicting", self.total, active=self._runtime.is_main) as progress, closing(batches):
            for batch in batches:
                lines.writerows(self._rows(batch))
                done += len(batch)
                progress.update(done, "")

    def _rows(self, batch: list[Read]) -> Iterator[list[str]]:
        pixels = [one.pixels for one in batch if one.pixels is not None]
        rows = iter(self._probabilities(np.stack(pixels)).tolist() if pixels else ())
        for one in batch:
            if one.pixels is None:
                self.num_problems += 1
                self._problems.setdefault(one.problem, []).append(one.name)
                yield [one.name, "", "", "", defused(one.problem), *[""] * len(self._run.classes)]
                continue
            row = next(rows)
            confidence = max(row)
            abstained = confidence < self._config.abstain_below
            self.num_abstained += abstained
            name = self._run.classes[row.index(confidence)]
            yield [one.name, name, f"{confidence:.6f}", str(abstained), "", *(f"{value:.6f}" for value in row)]

    @torch.inference_mode()
    def _probabilities(self, pixels: np.ndarray) -> Tensor:
        """Predict stored pixels: (B, C, H, W) -> (B, K) float64."""
        self._look_at_range(pixels)
        classifier = self._classifier
        spec = classifier.backbone.spec
        images = to_unit(torch.from_numpy(pixels).to(self._runtime.device), self._range)
        view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
        scores = class_logits(classifier.scores(classifier.features(view)))
        return torch.softmax(scores / self._temperature, dim=1)

    def _look_at_range(self, pixels: np.ndarray) -> None:
        """Refuse values of another depth than the run's in the first batch, before the rest is computed."""
        if pixels.dtype == np.uint8 or self._config.value_range is not None:
            return
        first = self.seen is None
        low, high = (float(value) for value in np.quantile(pixels.astype(np.float32), (0.001, 0.999)))
        low, high = min(low, self.seen[0] if self.seen else low), max(high, self.seen[1] if self.seen else high)
        self.seen = (low, high)
        if first and overlap(self.seen, self._range) < LEAST_SHARED:
            raise InputError(f"{self.told_range()}: they are of another depth. {_REMEDY}")

    def told_problems(self) -> str:
        """Describe the most frequent reasons for missing predictions, each with a count and an example."""
        kinds = sorted(self._problems.items(), key=lambda kind: -len(kind[1]))
        told = [
            f"{names[0]}: {why}" if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more: {why}"
            for why, names in kinds[:_TOLD]
        ]
        return "; ".join(told) + "; and other reasons" * (len(kinds) > _TOLD)

    def told_range(self) -> str:
        """Describe the observed values and the run's."""
        (low, high), (least, most) = self.seen or self._range, self._range
        return f"The values of these images are {low:g} to {high:g}, and the run was trained on {least:g} to {most:g}"

    def is_doubtful(self) -> bool:
        """Test if the values are worth a warning."""
        return self.seen is not None and overlap(self.seen, self._range) < MOST_SHARED


_REMEDY = "--value-range LOW HIGH says which values here are what 0 and 1 are to the model."


def _describe(config: PredictConfig, run: Run, table: _Table, runtime: runtimes.Runtime) -> None:
    if table.is_doubtful():
        runtime.warn(f"warning: {table.told_range()}. {_REMEDY}")
    read = table.total - table.num_problems
    if config.abstain_below:
        reached = describe_threshold(run, config.abstain_below, calibrated=table.is_calibrated)
        runtime.say(
            f"abstained on {table.num_abstained:,} of {counted(read, 'image')} (confidence below "
            f"{config.abstain_below:g}). {reached}"
        )
    if table.num_problems:
        runtime.warn(
            f"warning: {counted(table.num_problems, 'image')} without a prediction: {table.told_problems()}. "
            "The column `error` has the reason of each."
        )
    runtime.say(f"written: {config.output} ({counted(table.total, 'row')})")


def main(arguments: Sequence[str], program: str = "ssl-transfer predict") -> None:
    """Run `predict RUN IMAGES... [flags]`."""
    settings, rest = configuration.take_config(arguments)
    predict(configuration.parse(PredictConfig, settings, rest, program=program, default=PredictConfig()))
