"""Read the tables of a comparison from its folder, each checked against its columns, limits and checksum.

A table that differs from what was written is refused with file, line, run, value, constraint and remedy.
"""

import io
import re
import shlex
import zipfile
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.checksum import content_checksum
from ssl_transfer.evaluation.metric_properties import SHARE, Metric, metric_named

from .csv_table import CsvTable
from .description_file import DESCRIPTION_FILE, read_description, read_environment

RESULT_COLUMNS = ("arm", "backbone", "labels", "seed", "phase", "split", "metric", "value")
CURVE_COLUMNS = ("arm", "backbone", "labels", "seed", "phase", "epoch", "step", "split", "metric", "value")
CONFUSION_COLUMNS = ("arm", "backbone", "labels", "class", "predicted", "num_images")
EMBEDDING_COLUMNS = ("arm", "backbone", "image", "class", "x", "y")
DIAGNOSIS_COLUMNS = ("arm", "backbone", "measure", "reference", "value", "num_images")
RESULTS_FILE, CURVES_FILE, HITS_FILE = "results.csv", "curves.csv", "test_hits.npz"
CONFUSIONS_FILE, EMBEDDINGS_FILE, DIAGNOSIS_FILE = "confusions.csv", "embeddings.csv", "diagnosis.csv"
TABLES = (RESULTS_FILE, CURVES_FILE, HITS_FILE, CONFUSIONS_FILE, EMBEDDINGS_FILE, DIAGNOSIS_FILE)
"""Files with a checksum in `comparison.json`: all that are read again."""
SPLITS = ("train", "validation", "test")
NAMES_OF_SKIPPED = ("skipped", "images")
"""Split and metric of the one text in column `value` of `curves.csv`; older versions wrote it."""
EVERY_RUN = (
    *(("validation", "accuracy"), ("test", "accuracy"), ("train", "transfer_seconds"), ("train", "pretrain_seconds")),
    *(("train", "images_seen"), ("train", "peak_memory_mb"), ("train", "num_parameters")),
)
"""Split and metric of the numbers that every run has in phase `chosen`."""
_SETTINGS, _RENAMED = "config.yaml", "settings.yaml"
_MEASURES = {
    "distance": Metric(name="distance", limits=(0.0, 2.0)),
    "separability": Metric(name="separability", limits=SHARE),
    # An unbiased estimate, which passes 0 and 1 by chance.
    "similarity": Metric(name="similarity"),
}

RunName = tuple[str, str, str, int]
"""(arm, backbone, labels, seed)."""


def checksums_of(folder: Path) -> dict[str, str]:
    """Compute the checksums of the tables in a folder, by file name."""
    return {name: content_checksum((folder / name).read_bytes()) for name in TABLES if (folder / name).is_file()}


def remedy_of(folder: Path) -> str:
    """Return the sentence with the command that writes the tables of this folder again."""
    if not (folder / _SETTINGS).is_file():
        return f"Take another copy of {folder}."
    return f"`{_command(folder, _SETTINGS)}` writes the tables again; finished runs are not repeated."


def _command(folder: Path, settings: str) -> str:
    """Return the command that writes the files of this folder again, with settings in this file there."""
    command = ["ssl-transfer", "compare", "--config", str(folder / settings), "--output", str(folder)]
    held = (folder / _SETTINGS).read_text(encoding="utf-8", errors="replace")
    if re.search(r"^fresh: true$", held, re.MULTILINE):
        # The settings of a start with --fresh would move the finished runs aside.
        command.append("--no-fresh")
    return shlex.join(command)


class TableFiles:
    """Read the tables of one comparison; `comparison.json` is read once, and none is needed.

    Args:
        folder: of the comparison.

    Every method raises InputError for a file that is missing, damaged, or differs from its checksum.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def remedy(self) -> str:
        """Last sentence of every message."""
        return remedy_of(self.folder)

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """Content of `comparison.json`."""
        return read_description(self.folder / DESCRIPTION_FILE, remedy=self.remedy)

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Content of `environment.json`."""
        remedy, config = self.remedy, self.folder / _SETTINGS
        if config.is_file():
            # `compare` refuses a config.yaml beside a damaged environment.json.
            move = shlex.join(["mv", str(config), str(self.folder / _RENAMED)])
            remedy = f"`{move} && {_command(self.folder, _RENAMED)}` writes it again."
        return read_environment(self.folder / "environment.json", remedy=remedy)

    @property
    def has_checksums(self) -> bool:
        """The tables have checksums; those of older versions have none."""
        return self._checksums is not None

    @cached_property
    def _checksums(self) -> Mapping[str, str] | None:
        """Checksums by file name; None where an older version wrote none."""
        if not (self.folder / DESCRIPTION_FILE).is_file():
            return None
        return self.description.get("checksums")

    def results(self) -> list[tuple[str, str, str, int, str, str, str, float]]:
        """Read the lines of `results.csv`, in the order of its columns."""
        table, content = self._table(RESULTS_FILE, RESULT_COLUMNS)
        if table is None:
            raise InputError(
                f"{self.folder / RESULTS_FILE}: there is no such table. Give the folder of a comparison that has "
                "finished."
            )
        table.check_filled("arm", "backbone", "labels", "phase", "metric")
        table.check_known("split", SPLITS, ", ".join(SPLITS))
        table.check_whole("seed")
        columns: dict[str, Sequence[Any]] = {**table.columns, "seed": list(map(int, table.columns["seed"]))}
        columns["value"] = table.numbers("value", table.columns["metric"], metric_named)
        table.check_unique(*RESULT_COLUMNS[:-1])
        if (self.folder / DESCRIPTION_FILE).is_file():
            self._check_runs(table)
        self._verify(RESULTS_FILE, content)
        return list(zip(*(columns[name] for name in RESULT_COLUMNS), strict=True))

    def curves(self) -> list[dict[str, str]]:
        """Read the lines of `curves.csv`."""
        table, content = self._table(CURVES_FILE, CURVE_COLUMNS)
        if table is None:
            raise InputError(f"{self.folder / CURVES_FILE}: there is no such table. {self.remedy}")
        table.check_filled("arm", "backbone", "labels", "phase", "split", "metric")
        for name in ("seed", "epoch", "step"):
            table.check_whole(name)
        splits = table.columns["split"]
        exempt: set[int] = set()
        if NAMES_OF_SKIPPED[0] in splits:
            places = enumerate(zip(splits, table.columns["metric"], strict=True))
            exempt = {place for place, names in places if names == NAMES_OF_SKIPPED}
        table.numbers("value", table.columns["metric"], metric_named, exempt=exempt)
        return self._verified(table, CURVES_FILE, content)

    def confusions(self, runs: Collection[tuple[str, str, str]]) -> list[dict[str, str]]:
        """Read the lines of `confusions.csv`; empty where an older version wrote none.

        Args:
            runs: (arm, backbone, labels) of the lines of `results.csv`.
        """
        table, content = self._table(CONFUSIONS_FILE, CONFUSION_COLUMNS, exact=False)
        if table is None:
            return []
        table.check_filled("arm", "backbone", "labels")
        table.check_whole("num_images")
        table.check_unique(*CONFUSION_COLUMNS[:-1])
        keys = zip(*(table.columns[name] for name in CONFUSION_COLUMNS[:3]), strict=True)
        for place, key in enumerate(keys):
            if key not in runs:
                raise table.refuse(place, f"this run must be in {RESULTS_FILE}")
        if (self.folder / DESCRIPTION_FILE).is_file() and table.num_lines:
            table.check_known("labels", list(self.description["images"]), f"the budgets in {DESCRIPTION_FILE}")
            classes = self.description.get("classes", [])
            for name in ("class", "predicted"):
                table.check_known(name, classes, f"the classes in {DESCRIPTION_FILE}")
        return self._verified(table, CONFUSIONS_FILE, content)

    def embeddings(self) -> list[dict[str, str]]:
        """Read the lines of `embeddings.csv`; empty where an older version wrote none."""
        table, content = self._table(EMBEDDINGS_FILE, EMBEDDING_COLUMNS, exact=False)
        if table is None:
            return []
        table.check_filled("arm", "backbone")
        for name in ("x", "y"):
            table.numbers(name, [name] * table.num_lines, metric_named)
        return self._verified(table, EMBEDDINGS_FILE, content)

    def diagnosis(self) -> list[dict[str, str]]:
        """Read the lines of `diagnosis.csv`; empty where an older version wrote none.

        A value that could not be measured is an empty cell.
        """
        table, content = self._table(DIAGNOSIS_FILE, DIAGNOSIS_COLUMNS, exact=False)
        if table is None:
            return []
        table.check_filled("arm", "backbone")
        table.check_known("measure", list(_MEASURES), ", ".join(_MEASURES))
        exempt = {place for place, cell in enumerate(table.columns["value"]) if not cell}
        table.numbers("value", table.columns["measure"], _MEASURES.__getitem__, exempt=exempt)
        table.check_whole("num_images")
        return self._verified(table, DIAGNOSIS_FILE, content)

    def hits(self) -> list[tuple[RunName, np.ndarray]]:
        """Read the correct test images of each run; empty where an older version stored none.

        Each array is (N,) uint8: 1 for an image that the chosen model classified correctly.
        """
        path, content = self.folder / HITS_FILE, self._content(HITS_FILE)
        if content is None:
            return []
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as opened:
                arrays = dict(opened)
            count, names = int(arrays["num_images"]), arrays["names"].tolist()
            rows = np.unpackbits(arrays["hits"], axis=-1, count=count)
            runs = [(arm, backbone, labels, int(seed)) for arm, backbone, labels, seed in names]
            found = list(zip(runs, rows, strict=True))
        except (ValueError, OSError, EOFError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not readable ({error}). {self.remedy}") from error
        if len(set(runs)) < len(runs):
            raise InputError(f"{path}: a run occurs twice, but each must occur once. {self.remedy}")
        if runs and (self.folder / DESCRIPTION_FILE).is_file() and count != self.description["num_test"]:
            raise InputError(
                f"{path}: {count} test images a run, but {DESCRIPTION_FILE} has {self.description['num_test']}. "
                f"{self.remedy}"
            )
        self._verify(HITS_FILE, content)
        return found

    def _table(self, name: str, columns: Sequence[str], *, exact: bool = True) -> tuple[CsvTable | None, bytes]:
        content = self._content(name)
        if content is None:
            return None, b""
        return CsvTable(self.folder / name, content, columns, exact=exact, remedy=self.remedy), content

    def _content(self, name: str) -> bytes | None:
        """Read a file; None where it is missing and has no checksum."""
        path = self.folder / name
        if path.is_file():
            return path.read_bytes()
        if self._checksums is not None and name in self._checksums:
            raise InputError(f"{path}: missing, but {DESCRIPTION_FILE} has its checksum. {self.remedy}")
        return None

    def _verify(self, name: str, content: bytes) -> None:
        """Compare a file with its checksum; called last, as all other messages name a line."""
        if self._checksums is not None and self._checksums.get(name) != content_checksum(content):
            raise InputError(
                f"{self.folder / name}: its content differs from its checksum in {DESCRIPTION_FILE}: it was changed "
                f"after the comparison had written it. {self.remedy}"
            )

    def _verified(self, table: CsvTable, name: str, content: bytes) -> list[dict[str, str]]:
        self._verify(name, content)
        return table.records()

    def _check_runs(self, table: CsvTable) -> None:
        """Compare the runs of `results.csv` with `comparison.json`, and look for the numbers that every run has."""
        description, columns = self.description, table.columns
        source = f"in {DESCRIPTION_FILE}"
        table.check_known("labels", list(description["images"]), f"the budgets {source}")
        table.check_known("seed", list(map(str, description["seeds"])), f"the seeds {source}")
        runs = dict.fromkeys(zip(*(columns[name] for name in RESULT_COLUMNS[:4]), strict=True))
        places = zip(*(columns[name] for name in RESULT_COLUMNS[:4]), columns["split"], columns["metric"], strict=True)
        held = {place for place, phase in zip(places, columns["phase"], strict=True) if phase == "chosen"}
        for run in runs:
            for split, metric in EVERY_RUN:
                if (*run, split, metric) not in held:
                    raise self._incomplete(run, f"{metric} of phase chosen, split {split}")
        if description.get("failures"):
            return
        for arm, backbone in dict.fromkeys(run[:2] for run in runs):
            for labels in description["labels"]:
                for seed in map(str, description["seeds"]):
                    if (arm, backbone, labels, seed) not in runs:
                        raise self._incomplete((arm, backbone, labels, seed), "this run, which has not failed")
        if not runs:
            raise InputError(f"{self.folder / RESULTS_FILE}: no lines; every finished run has some. {self.remedy}")

    def _incomplete(self, run: Sequence[str], what: str) -> InputError:
        arm, backbone, labels, seed = run
        return InputError(
            f"{self.folder / RESULTS_FILE}: ({arm} on {backbone}, labels {labels}, seed {seed}) no line with {what}: "
            f"the table is cut off. {self.remedy}"
        )
