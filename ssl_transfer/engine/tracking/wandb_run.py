"""Log to wandb. No failure of wandb stops a run or loses a metric, and no other file imports it.

wandb may be down, slow, refuse, or raise: every call goes through a guard that warns once and goes on without it.
"""

import netrc
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.redaction import redacted, redacted_all
from ssl_transfer.engine.runs.saved_run import SavedRun
from ssl_transfer.engine.terminal import say

from . import artifacts

Taken = Literal["online", "offline", ""]
_down: list[str] = []
"""Reason why wandb could not be reached in this process: the next of many runs does not wait again."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Configure trackers beside `metrics.jsonl`, which always has all metrics."""

    wandb: Literal["off", "auto", "offline", "online"] = "off"
    """Weights & Biases: off; offline (files under the run's folder, for `wandb sync`); online (needs a login); auto:
    online where a login is found, otherwise offline. Where it cannot be reached it is offline."""
    project: str = "ssl_transfer"
    """wandb's project. Only read when wandb is not off."""
    pictures: bool = True
    """Send pictures of your images to wandb: training views, reconstructions, a table of a few test images, and a
    comparison's report.html. Without, wandb gets numbers, diagrams, names and weights. Only read when wandb is not
    off."""
    also: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Other trackers, each with an extra of its own (`pip install "ssl_transfer[tensorboard]"`): TensorBoard, with its
    files in the run's folder; MLflow, where MLFLOW_TRACKING_URI says, or a database in that folder."""
    patience: float = 30.0
    """Seconds that wandb may take to begin, and again to end; then the run goes on without it. Only read when wandb is
    not off."""

    def __post_init__(self) -> None:
        if not self.patience > 0.0:
            raise InputError(f"--tracking.patience {self.patience}: more than 0 seconds.")


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a run in wandb."""

    name: str
    """Name of the run."""
    group: str = ""
    """Group of the run."""
    job_type: str = ""
    """Stage of the run."""


class Guard:
    """Guard the calls into one tracker: warn of the first failure, then make no further call."""

    def __init__(self, tracker: str, folder: Path, remedy: str = "") -> None:
        self.works = True
        self._tracker, self._folder, self._remedy = tracker, folder, remedy

    def call(self, what: str, call: Callable[[], object], *, always: bool = False) -> None:
        """Call, unless an earlier call failed; `always` calls even then, without a further warning."""
        if not (self.works or always):
            return
        try:
            call()
        except Exception as error:
            # Whatever it is: a run is worth more than its copy elsewhere.
            if self.works:
                _warn(
                    f"{self._tracker} could not {what} ({_reason(error)}): {self._folder} goes on without. Its "
                    f"metrics.jsonl has everything{self._remedy}."
                )
            self.works = False


def named(record: dict[str, Any]) -> dict[str, float]:
    """Name the numbers of a line of `metrics.jsonl` for trackers: simclr/train/loss."""
    prefix = "/".join(str(record[key]) for key in ("phase", "split") if key in record)
    numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    return {key if key in ("step", "epoch") else f"{prefix}/{key}": value for key, value in numbers.items()}


class Board:
    """A run of wandb, its files under `folder`; nothing where wandb is off.

    Every call into wandb goes through a `Guard`.
    """

    def __init__(self, config: TrackingConfig, folder: Path, settings: dict[str, Any], names: Names) -> None:
        self._asked, self._of_images = config.wandb != "off", config.pictures
        self._guard = Guard("wandb", folder, f"; `ssl-transfer sync {folder}` shows it in wandb later")
        self._folder, self._settings = folder, settings
        self._run: Any = None
        self._mode: Literal["online", "offline"] = "offline"
        names = Names(name=_shown(names.name), group=_shown(names.group), job_type=names.job_type)
        self._call("begin", lambda _: self._begin(config, settings, names))

    @property
    def taken(self) -> Taken:
        """Mode in which wandb has everything so far; empty where it is off or failed."""
        return self._mode if self._asked and self._guard.works else ""

    def log(self, record: dict[str, Any]) -> None:
        """Log a line of `metrics.jsonl`."""
        self._call("log", lambda run: run.log(named(record)))

    def summarize(self, values: dict[str, float]) -> None:
        """Set the numbers of the table of runs."""
        self._call("summarize", lambda run: run.summary.update(values))

    def show(self) -> None:
        """Show the artifacts in the run's folder: pictures, predicted images, weights, and their inputs."""
        self._call("show what the run left", self._show)

    def _show(self, run: Any) -> None:
        import wandb

        paths = artifacts.pictures(self._folder, of_images=self._of_images)
        found: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in paths.items()}
        examples = artifacts.examples(self._folder) if self._of_images else []
        if examples:
            columns: list[str | int] = ["image", *examples[0].line]
            rows = [[wandb.Image(str(one.picture)), *one.line.values()] for one in examples]
            found["predictions"] = wandb.Table(columns=columns, data=rows)
        if found:
            run.log(found)
        saved = SavedRun(self._folder)
        for parcel in artifacts.origins(saved, self._settings):
            if self._mode == "offline":
                # What use_artifact does of an artifact that is made here, which it refuses offline.
                run._log_artifact(_artifact(parcel), is_user_created=True, use_after_commit=True)
            else:
                run.use_artifact(_artifact(parcel))
        for parcel in artifacts.weights(saved):
            run.log_artifact(_artifact(parcel))

    def attach(self, name: str, files: Sequence[Path]) -> None:
        """Upload files as an artifact."""

        def upload(run: Any) -> None:
            import wandb

            # wandb takes no other characters in an artifact's name.
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="report")
            for path in files:
                artifact.add_file(str(path))
            run.log_artifact(artifact)

        self._call("upload", upload)

    def finish(self, *, failed: bool = False) -> None:
        """End the run; wait until all is sent, at most `patience` seconds."""
        self._call("end", lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _call(self, what: str, call: Callable[[Any], object]) -> None:
        if self._asked:
            self._guard.call(what, lambda: call(self._run))

    def _begin(self, config: TrackingConfig, settings: dict[str, Any], names: Names) -> None:
        # Send nothing beyond the requested logs. A silent server would delay the end of the process.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        def begin(mode: Literal["online", "offline"]) -> Any:
            return wandb.init(
                project=config.project,
                name=names.name,
                group=names.group,
                job_type=names.job_type,
                tags=redacted_all(artifacts.tags(settings, names.job_type)),
                dir=str(self._folder),
                config=redacted_all({**settings, **artifacts.arm(settings)}),
                mode=mode,
                # The run before may have failed in this process without an end.
                reinit="finish_previous",
                settings=wandb.Settings(
                    silent=True,
                    init_timeout=config.patience,
                    finish_timeout=config.patience,
                    finish_timeout_raises=True,
                    # It holds the command line.
                    x_disable_meta=redacted_all(sys.argv) != sys.argv,
                ),
            )

        if config.wandb != "offline" and not _down:
            try:
                if config.wandb == "online" or wandb.login(prompt=False):
                    self._run, self._mode = begin("online"), "online"
                    return
            except Exception as error:
                # Down, too slow, a wrong key, no quota: the files are kept, and can be sent when it is mended.
                _down.append(_reason(error))
                _warn(
                    f"wandb cannot be used online ({_down[-1]}): offline from here on. Once that is mended, "
                    f"`wandb sync` sends the files in {self._folder / 'wandb'}, or `ssl-transfer sync {self._folder}` "
                    "what metrics.jsonl has."
                )
        self._run = begin("offline")


def _artifact(parcel: artifacts.Parcel) -> Any:
    import wandb

    artifact = wandb.Artifact(parcel.name, type=parcel.kind, metadata=redacted_all(parcel.facts))
    if not parcel.files:
        # Without any file all would be one version of nothing.
        with artifact.new_file("fingerprint.txt", encoding="utf-8") as file:
            file.write(parcel.facts["fingerprint"])
    for path in parcel.files:
        # Without copies: a run's weights stay as they are, and many runs may begin with the same.
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
    return artifact


def has_login() -> bool:
    """Check for a key of wandb in the environment, or in the file of `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC", Path("~/.netrc").expanduser())).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False


def _reason(error: Exception) -> str:
    """Return the first line of wandb's message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _shown(name: str) -> str:
    """Redact a name and escape its control characters: wandb prints it, and shows it on pages."""
    return one_line(redacted(name))


def _warn(message: str) -> None:
    say(f"warning: {message}", error=True)
