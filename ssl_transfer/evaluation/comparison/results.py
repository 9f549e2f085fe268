"""Hold the results of a comparison: rows, correct test images, curves and description, each read once."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.evaluation.metric_properties import ACCURACY, Metric, metric_named
from ssl_transfer.models.init_names import BASELINES, is_pretrained, is_run

from .curves import Curves
from .estimates import Estimate, estimate, paired_difference
from .tables.table_files import TableFiles
from .variance_components import crossed_estimate

WORTHWHILE = 1.0
"""Default of `--worthwhile`, the least gain that matters, in the unit of the primary metric."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of `results.csv`; the fields are its columns."""

    arm: str
    backbone: str
    labels: str
    seed: int
    phase: str
    split: str
    metric: str
    value: float


Pair = tuple[str, str]
"""(arm, backbone)."""
Cell = tuple[str, str, str, str, str]
"""(arm, backbone, labels, phase, metric)."""
Cells = Mapping[Cell, Mapping[int, float]]
"""Values of one split by cell and seed."""
Hits = Mapping[Cell, Mapping[int, np.ndarray]]
"""Correct test images of the chosen models, by cell (chosen accuracy) and seed: (N,) uint8, 1 for correct, in the order
of the test split. Runs without stored predictions are absent."""


def chosen_accuracy(arm: str, backbone: str, labels: str) -> Cell:
    """Return the cell of the accuracy in the phase that validation chose."""
    return (arm, backbone, labels, "chosen", "accuracy")


class Results:
    """Share the tables of one comparison; a table in the folder is read when first used.

    Args:
        rows: lines of `results.csv`.
        hits: None reads `test_hits.npz`.
        curves: lines of `curves.csv`; None reads it.
        description: content of `comparison.json`; None reads it.
        folder: of the comparison. Without one, tables that are not given are empty.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        hits: Hits | None = None,
        curves: Sequence[Mapping[str, Any]] | None = None,
        description: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.rows = rows
        self._folder = folder
        self._files = None if folder is None else TableFiles(folder)
        self._hits, self._curves, self._description = hits, curves, description
        self._estimates: dict[tuple[Cell, Cell | None], Estimate] = {}
        self._differences: dict[tuple[Cell, Cell], Estimate] = {}

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read the results of a comparison, also one that an older version wrote.

        Raises:
            InputError: `results.csv` is missing or damaged, or differs from its checksum. The other tables are read
                when first used, and refused in the same way.
        """
        files = TableFiles(folder)
        rows = [
            Row(
                arm=arm,
                backbone=backbone,
                labels=labels,
                seed=seed,
                phase=phase,
                split=split,
                metric=metric,
                value=value,
            )
            for arm, backbone, labels, seed, phase, split, metric, value in files.results()
        ]
        found = cls(rows, folder=folder)
        found._files = files
        return found

    @property
    def folder(self) -> Path:
        """Folder of the comparison."""
        if self._folder is None:
            raise ValueError("These results are in memory alone: they have no folder.")
        return self._folder

    @cached_property
    def hits(self) -> Hits:
        """Correct test images; empty where an older version stored none."""
        if self._hits is not None:
            return self._hits
        found: dict[Cell, dict[int, np.ndarray]] = {}
        for (arm, backbone, labels, seed), images in self._files.hits() if self._files is not None else ():
            found.setdefault(chosen_accuracy(arm, backbone, labels), {})[seed] = images
        return found

    @cached_property
    def curve_lines(self) -> Sequence[Mapping[str, Any]]:
        """Lines of `curves.csv`, in the order of the file."""
        if self._curves is not None:
            return self._curves
        return [] if self._files is None else self._files.curves()

    @cached_property
    def curves(self) -> Curves:
        """Learning curves of all runs."""
        return Curves(self.curve_lines)

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """Content of `comparison.json`: data, budgets, seeds, settings, warnings, failures."""
        if self._description is not None:
            return self._description
        return {} if self._files is None else self._files.description

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Content of `environment.json`: command, devices, packages."""
        return {} if self._files is None else self._files.environment

    @property
    def has_checksums(self) -> bool:
        """The tables in the folder have checksums; those of older versions have none."""
        return self._files is not None and self._files.has_checksums

    @cached_property
    def confusions(self) -> Sequence[Mapping[str, str]]:
        """Lines of `confusions.csv`; empty where an older version wrote none."""
        if self._files is None:
            return []
        return self._files.confusions({(row.arm, row.backbone, row.labels) for row in self.rows})

    @cached_property
    def embeddings(self) -> Sequence[Mapping[str, str]]:
        """Lines of `embeddings.csv`; empty where an older version wrote none."""
        return [] if self._files is None else self._files.embeddings()

    @cached_property
    def diagnosis(self) -> Sequence[Mapping[str, str]]:
        """Lines of `diagnosis.csv`; empty where an older version wrote none."""
        return [] if self._files is None else self._files.diagnosis()

    @cached_property
    def _splits(self) -> dict[str, dict[Cell, dict[int, float]]]:
        splits: dict[str, dict[Cell, dict[int, float]]] = {}
        for row in self.rows:
            cell: Cell = (row.arm, row.backbone, row.labels, row.phase, row.metric)
            splits.setdefault(row.split, {}).setdefault(cell, {})[row.seed] = row.value
        return splits

    @property
    def train(self) -> Cells:
        """Costs."""
        return self._splits.get("train", {})

    @property
    def validation(self) -> Cells:
        """Metrics of validation images."""
        return self._splits.get("validation", {})

    @property
    def test(self) -> Cells:
        """Metrics of test images."""
        return self._splits.get("test", {})

    @cached_property
    def pairs(self) -> list[Pair]:
        """Arms with their backbones, in the order of the table."""
        return list(dict.fromkeys((row.arm, row.backbone) for row in self.rows))

    @cached_property
    def budgets(self) -> list[str]:
        """Label budgets, in the order of the table."""
        return list(dict.fromkeys(row.labels for row in self.rows))

    @cached_property
    def seeds(self) -> list[int]:
        """Transfer seeds, in the order of the table."""
        return list(dict.fromkeys(row.seed for row in self.rows))

    @cached_property
    def phases(self) -> list[str]:
        """Phases of the plan, in its order; without `chosen`, which repeats one of them."""
        return list(dict.fromkeys(row.phase for row in self.rows if row.phase != "chosen"))

    @cached_property
    def images_per_class(self) -> dict[str, float]:
        """Training images by budget, mean over classes; empty where the number of classes was not stored."""
        classes = self.description.get("num_classes")
        if not classes:
            return {}
        return {budget: sizes[0] / classes for budget, sizes in self.description["images"].items()}

    @cached_property
    def metric(self) -> Metric:
        """Primary metric: the verdict, the choice of arms and their intervals are about it."""
        return metric_named(self.description.get("primary_metric", ACCURACY.name))

    @cached_property
    def worthwhile(self) -> float:
        """Least gain of the primary metric that matters, above 0, as a difference of two of its values."""
        return float(self.description.get("worthwhile", WORTHWHILE)) * self.metric.per_unit

    @cached_property
    def _pretrainings(self) -> dict[int, int]:
        """Pretraining of each transfer seed; older versions stored only the number of pretrainings."""
        seeds = self.description.get("seeds", [])
        number = self.description.get("pretrain_seeds", 1)
        return dict(zip(seeds, self.description.get("pretrainings", [seed % number for seed in seeds]), strict=True))

    def pretrainings(self, arm: str) -> Mapping[int, int] | None:
        """Return the pretraining of an arm by transfer seed; None where no method pretrained it.

        A run is one pretraining. Results in memory without a description have one pretraining a seed.
        """
        if not is_pretrained(arm):
            return None
        if is_run(arm):
            return dict.fromkeys(self.seeds, 0)
        return {seed: self._pretrainings.get(seed, seed) for seed in self.seeds}

    def pretrainings_of(self, seeds: Sequence[int], *cells: Cell) -> list[int] | None:
        """Return the pretraining of each seed that the cells depend on; of two arms, those of the more pretrainings."""
        known = [by_seed for cell in cells if (by_seed := self.pretrainings(cell[0])) is not None]
        groups = [[by_seed[seed] for seed in seeds] for by_seed in known]
        return max(groups, key=lambda group: len(set(group)), default=None)

    def estimate(self, cell: Cell, beside: Cell | None = None) -> Estimate:
        """Estimate the mean of a test cell, over the seeds that the cell `beside` has too."""
        if (cell, beside) not in self._estimates:
            shared = self.test[cell if beside is None else beside]
            values = {seed: value for seed, value in self.test[cell].items() if seed in shared}
            stored = self.hits.get(cell, {})
            images = next((stored[seed] for seed in values if seed in stored), None)
            self._estimates[cell, beside] = estimate(
                list(values.values()),
                images,
                within=metric_named(cell[4]).limits,
                pretrainings=self.pretrainings_of(list(values), cell, *([] if beside is None else [beside])),
            )
        return self._estimates[cell, beside]

    def difference(self, ours: Cell, theirs: Cell) -> Estimate:
        """Estimate the difference of two test cells, paired by seed."""
        if (ours, theirs) not in self._differences:
            seeds = sorted(self.test[ours].keys() & self.test[theirs].keys())
            pretrainings = self.pretrainings_of(seeds, ours, theirs)
            self._differences[ours, theirs] = paired_difference(
                self.test[ours],
                self.test[theirs],
                self.hits.get(ours),
                self.hits.get(theirs),
                within=metric_named(ours[4]).limits,
                pretrainings=None if pretrainings is None else dict(zip(seeds, pretrainings, strict=True)),
            )
        return self._differences[ours, theirs]

    def crossed_difference(self, ours: Cell, theirs: Cell) -> Estimate | None:
        """Estimate the difference of two test cells with an interval over runs and test images.

        None with fewer than two units, and where the correct test images of a run were not stored.
        """
        our_hits, their_hits = self.hits.get(ours, {}), self.hits.get(theirs, {})
        seeds = sorted(self.test[ours].keys() & self.test[theirs].keys())
        if not all(seed in our_hits and seed in their_hits for seed in seeds):
            return None
        least, most = metric_named(ours[4]).limits
        return crossed_estimate(
            np.array([our_hits[seed].astype(np.int8) - their_hits[seed].astype(np.int8) for seed in seeds]),
            within=(least - most, most - least),
            pretrainings=self.pretrainings_of(seeds, ours, theirs),
        )

    def share_seed(self, ours: Cell, theirs: Cell) -> bool:
        """Check that both test cells exist and share a seed; failed runs may leave them none."""
        return bool(self.test.get(ours, {}).keys() & self.test.get(theirs, {}).keys())

    def baselines(self, cell: Cell) -> list[tuple[str, Cell]]:
        """List the names and test cells of the baselines of an arm that share a seed with it.

        Baselines are scratch on the same backbone, and imagenet on the same or else on another backbone, which the name
        then states.
        """
        arm, backbone = cell[:2]
        found = []
        for baseline in BASELINES:
            if arm in (baseline, "scratch"):
                continue
            same: Cell = (baseline, backbone, *cell[2:])
            if self.share_seed(cell, same):
                found.append((baseline, same))
            elif baseline == "imagenet":
                # ImageNet weights exist for few small backbones, so another backbone's ImageNet is better than none.
                others = (
                    key
                    for key in self.test
                    if key[0] == baseline and key[2:] == cell[2:] and self.share_seed(cell, key)
                )
                found += [(f"{baseline} ({key[1]})", key) for key in itertools.islice(others, 1)]
        return found
