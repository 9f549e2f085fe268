"""Open a run: its settings, backbone, head, classes, storage of images, training images and temperature.

Every command that takes a run's folder opens it here: `--init`, `--teacher`, `--arms`, evaluate, predict, export,
explain, summary. Each file is parsed once, when it is first needed, and shared by all that ask for it.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_transfer.data.dataset import EIGHT_BITS
from ssl_transfer.data.loading_config import LoadingConfig, Range
from ssl_transfer.data.store.decode import Layout
from ssl_transfer.data.store.storage_layout import CROP_MARGIN, as_stored
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.runs.saved_run import SavedRun
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import Backbone, BackboneSpec
from ssl_transfer.models.classifier import Classifier, load_classifier
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.reports import evaluation


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Storage of a run's images: layout and range of values."""

    layout: Layout
    value_range: Range
    """Stored values that became 0 and 1."""
    note: str = ""
    """Warning about a run of an earlier version, which kept no record."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Temperature fitted on the validation images of a run."""

    value: float | None
    """None where the run fitted none."""
    doubts: tuple[str, ...] = ()
    """Findings of the run's evaluation against this temperature."""


class Run(SavedRun):
    """A run's folder with the model in it.

    Args:
        path: the run's folder, or its `backbone/`, which stands for the backbone without the head.
    """

    @functools.cached_property
    def spec(self) -> BackboneSpec:
        """Spec of the exported backbone.

        Raises:
            InputError: nothing is exported there.
        """
        return pretrained.spec_of(self.backbone_file)

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the backbone: initialisation, settings, fingerprints."""
        return dict(self.backbone_file.description["provenance"])

    @property
    def has_head(self) -> bool:
        """Check for a trained head."""
        return self.head_file is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the head in the order of its scores; empty without a head."""
        return () if self.head_file is None else tuple(self.head_file.description["classes"])

    @property
    def head(self) -> HeadConfig | None:
        """Settings of the head; None without one."""
        return None if self.head_file is None else HeadConfig(**self.head_file.description["head"])

    @property
    def is_adapted(self) -> bool:
        """Check for a model of another domain than its validation images."""
        return "target_fingerprint" in self.provenance

    @functools.cached_property
    def seen(self) -> np.ndarray | None:
        """Contents (N,) uint64 of the images that trained the backbone; None where no record was kept."""
        return pretrained.seen_images(self.backbone_file)

    @functools.cached_property
    def loading(self) -> LoadingConfig:
        """Settings with which the run read its images; the defaults where its folder has no settings."""
        default = LoadingConfig()
        if "loading" not in self.settings:
            return default
        held, file = self.settings["loading"], self.folder / "config.yaml"
        return configuration.parse(LoadingConfig, held, (), program=str(file), default=default)

    @property
    def data(self) -> str:
        """DATA string of the run, of an adaptation the target's; empty where unknown, and of a stream."""
        return "" if self.loading.streaming else str(self.settings.get("target", self.settings.get("data", "")))

    @functools.cached_property
    def storage(self) -> Storage:
        """Storage of the run's images. A run of an earlier version kept no record: 8 bits are assumed.

        Raises:
            InputError: the record is missing, and the images had more than 8 bits.
        """
        files = (self.backbone_file, *([] if self.head_file is None else [self.head_file]))
        for description in (file.description for file in files):
            if "images" in description:
                kept = description["images"]
                low, high = kept["value_range"]
                layout = as_stored(
                    channels=kept["channels"], dtype=kept["dtype"], side=kept["side"], config=self.loading
                )
                return Storage(layout=layout, value_range=(low, high))
        if self.spec.value_range != EIGHT_BITS:
            raise InputError(
                f"{self.path}: an earlier version made it, which did not keep how its images were stored, and they "
                "were not of 8 bits. Start its command again with another --output."
            )
        side = self.loading.stored_size or round(self.spec.image_size * CROP_MARGIN)
        layout = as_stored(channels=self.spec.in_chans, dtype="uint8", side=side, config=self.loading)
        note = (
            f"warning: {self.path} does not say how its images were stored; 8 bits and {side} pixels a side are taken."
        )
        return Storage(layout=layout, value_range=self.spec.value_range, note=note)

    @functools.cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """Metrics of validation and test in `evaluation/metrics.json`; None where the run measured nothing.

        Raises:
            InputError: the file is damaged.
        """
        file = self.path / evaluation.FOLDER / "metrics.json"
        if self.path == self.folder:
            self.verify(f"{evaluation.FOLDER}/metrics.json")
        if not file.is_file():
            return None
        try:
            found = dict(json.loads(file.read_text(encoding="utf-8")))
            float(found["metrics"]["validation"]["temperature"]), tuple(found["notes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Start the run's command again with another --output."
            raise InputError(f"{file}: not the metrics of an evaluation ({error}). {remedy}") from error
        return found

    @property
    def temperature(self) -> Temperature:
        """Temperature of the run's evaluation."""
        found = self.evaluation
        if found is None:
            return Temperature(value=None)
        value = float(found["metrics"]["validation"]["temperature"])
        return Temperature(value=value, doubts=tuple(map(str, found["notes"])))

    def load_backbone(self, *, image_size: int | None = None) -> Backbone:
        """Build the backbone and load its weights.

        Args:
            image_size: pixels a side of the images to come; by default those of the run.

        Raises:
            InputError: nothing is exported there, or the weights do not fit.
        """
        return pretrained.from_export(self.backbone_file, image_size=image_size)

    def load_classifier(
        self, backbone: Backbone, classes: Sequence[str] | None = None, *, remedy: str = ""
    ) -> Classifier:
        """Load the head onto the run's backbone.

        Args:
            backbone: from `load_backbone`; set to evaluation mode.
            classes: of the data, in the data's order; by default those of the head.
            remedy: last sentence of the messages.

        Raises:
            InputError: the run has no head, or one for other classes.
        """
        if self.head_file is None:
            raise InputError(
                f"{self.path}: holds a backbone without a head, which knows no classes. {remedy or self.head_remedy}"
            )
        return load_classifier(self.head_file, backbone, classes or self.classes, remedy=remedy)

    @property
    def head_remedy(self) -> str:
        """Sentence with the command that trains a head on this backbone."""
        return f"`ssl-transfer transfer --init {self.path} --data DATA` trains one."
