"""Define jobs that workers import by name: this folder is on the path of their parent process."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError


@dataclass(frozen=True)
class Sample:
    """A run that finishes, or does not."""

    folder: Path
    kind: str = "fine"
    after: Path | None = None

    @property
    def title(self) -> str:
        return self.folder.name

    def check(self, result: dict[str, Any]) -> None:
        """Accept any result."""

    def __call__(self) -> dict[str, Any]:
        """Count the starts in the folder, then end as the kind says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "starts", "a", encoding="utf-8") as file:
            file.write("x")
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "raises":
            raise RuntimeError("CUDA out of memory")
        if self.kind == "mistake":
            raise InputError("the loss is not finite")
        return {"device": os.environ.get("CUDA_VISIBLE_DEVICES"), "process": os.getpid()}
