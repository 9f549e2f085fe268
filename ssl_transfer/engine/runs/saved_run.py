"""Open the folder of a run to read it: settings, identity, result, exported weights."""

import functools
from pathlib import Path
from typing import Any

import yaml

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import DamagedError
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.engine.io.weight_files import WeightFile

from .seal import REMEDY, RESULT_FILE, SEAL_FILE, has_result, held_result, is_sealed, verify


class SavedRun:
    """A run's folder, as a later command reads it. Each file is read and parsed once, when it is first needed.

    Args:
        path: the run's folder, or its `backbone/`, which stands for the backbone without the head.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent if path.name == "backbone" else path

    @functools.cached_property
    def backbone_file(self) -> WeightFile:
        """Exported backbone.

        Raises:
            InputError: the folder holds none.
        """
        self.verify("backbone/backbone.json")
        return WeightFile(self.path, "backbone")

    @property
    def has_backbone(self) -> bool:
        """Check for an exported backbone."""
        return any((place / "backbone.json").is_file() for place in (self.path, self.path / "backbone"))

    @functools.cached_property
    def head_file(self) -> WeightFile | None:
        """Exported head; None for a backbone alone.

        Raises:
            InputError: the folder holds neither.
        """
        _ = self.backbone_file
        if self.path == self.folder:
            self.verify("head/head.json")
        return WeightFile(self.path / "head", "head") if (self.path / "head" / "head.json").is_file() else None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the run as `config.yaml` has them; empty where the folder has no such file.

        Raises:
            InputError: the file is damaged.
        """
        file = self.folder / "config.yaml"
        self.verify(file.name)
        if not file.is_file():
            return {}
        try:
            return dict(configuration.load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise InputError(
                f"{file}: not the settings of a run ({error}). Take another copy of the folder."
            ) from error

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """Fingerprints of images and weights by their setting's name; empty where the folder has no record.

        Raises:
            DamagedError: the record is damaged.
        """
        file = self.folder / "environment.json"
        self.verify(file.name)
        return dict(read_json(file, remedy="Start the run again.")["identity"]) if file.is_file() else {}

    @functools.cached_property
    def result(self) -> dict[str, Any] | None:
        """Result of the finished run; None before its end.

        Raises:
            DamagedError: the file is damaged, or missing although its seal is there.
        """
        found = held_result(self.folder)
        if found is None and is_sealed(self.folder):
            raise DamagedError(f"{self.folder / RESULT_FILE}: missing, and {SEAL_FILE} holds its checksum. {REMEDY}")
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """A warning for a finished run of an older version, which wrote no checksums."""
        if is_sealed(self.folder) or not has_result(self.folder):
            return ()
        return (f"warning: {self.path}: without checksums, of an older version: a changed number is not detected.",)

    def verify(self, name: str) -> None:
        """Compare a file of the run with its checksum.

        Raises:
            DamagedError: it differs or is missing.
        """
        verify(self.folder, name)
