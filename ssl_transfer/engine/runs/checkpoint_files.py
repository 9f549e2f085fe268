"""Keep the checkpoints of a training on disk: the last few and the best."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import atomic, ownership, state_files

FORMAT = 2
"""Version of a checkpoint; raised when its fields change, with a line in `_UPGRADES` for earlier ones."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Configure how often a training saves a checkpoint, and how many are kept beside the best."""

    seconds: float = 20.0
    """Least seconds between two checkpoints; 0: after every step. Slow saving raises it, so that saving takes at most a
    twentieth of the time."""
    keep: int = 2
    """Number of the last checkpoints to keep. Where the newest cannot be read, the one before is used."""

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise InputError(f"checkpoints.seconds {self.seconds}: it may not be negative; 0 saves after every step.")
        if self.keep < 1:
            raise InputError(f"checkpoints.keep {self.keep}: it must be 1 or more; 2 leaves one to fall back on.")


@dataclass(frozen=True, kw_only=True)
class StateFiles:
    """Files of one training: the newest checkpoint `NAME.pt`, the one before it `NAME.pt.1`, and so on; `BEST.pt`."""

    folder: Path
    name: str
    best: str
    config: CheckpointConfig = CheckpointConfig()

    def exist(self) -> bool:
        """Check for a saved checkpoint."""
        return any(path.is_file() for path in self._paths())

    def newest(self) -> Path | None:
        """Return the file of the newest checkpoint; None before the first."""
        return next((path for path in self._paths() if path.is_file()), None)

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Save a checkpoint as the newest, or as the best. From the first one on, a whole file exists at any moment."""
        path = self.folder / f"{self.best if best else self.name}.pt"
        state_files.save_state(path, {"format": FORMAT, **state}, before=None if best else self._shift)

    def load(self, warn: Callable[[str], None]) -> tuple[dict[str, Any] | None, list[Path]]:
        """Load the newest whole checkpoint, or None without any file; and list newer files that are damaged.

        Args:
            warn: called with a message for each damaged file.

        Raises:
            InputError: all files are damaged; a later version wrote them.
        """
        damaged: dict[Path, str] = {}
        for path in self._paths():
            if not path.is_file():
                continue
            try:
                state = state_files.load_state(path)
            except atomic.DamagedError as error:
                damaged[path] = str(error)
                continue
            for one in damaged.values():
                warn(f"warning: {one} Going on from the one before, {path.name}.")
            return _upgraded(state, path), list(damaged)
        if damaged:
            raise InputError(f"{' '.join(damaged.values())} No whole one is left. Start over with --fresh.")
        return None, []

    def set_aside(self, damaged: list[Path]) -> None:
        """Rename damaged files, so that none of them takes the place of a whole one."""
        for path in damaged:
            ownership.move(path, path.with_name(f"{path.name}.damaged"))

    def _paths(self) -> list[Path]:
        """List the files from the newest on."""
        return numbered(self.folder / f"{self.name}.pt")

    def _shift(self) -> None:
        """Shift each file to the next older name, and remove the oldest."""
        newest, *before = self._paths()
        if not newest.is_file():
            # Killed when it had just made room.
            return
        for path in reversed(before):
            if _age(path) >= self.config.keep - 1:
                ownership.remove(path)
            else:
                ownership.move(path, path.with_suffix(f".{_age(path) + 1}"))
        if self.config.keep > 1:
            ownership.move(newest, newest.with_name(f"{newest.name}.1"))


def numbered(newest: Path) -> list[Path]:
    """List the files of one kind of checkpoint from the newest on; the newest may be absent."""
    before = [path for path in newest.parent.glob(f"{newest.name}.*") if path.suffix[1:].isdigit()]
    return [newest, *sorted(before, key=_age)]


def _age(path: Path) -> int:
    return int(path.suffix[1:])


def _upgraded(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Upgrade a checkpoint of an older version to today's fields."""
    version = state.pop("format", None)
    if version not in (FORMAT, *_UPGRADES):
        known = ", ".join(str(one) for one in sorted([FORMAT, *_UPGRADES]))
        raise InputError(
            f"{path}: checkpoint format {version}, and this version reads {known}. Go on with the version of "
            "ssl_transfer that wrote it, or start over with --fresh."
        )
    for number in range(version, FORMAT):
        state = _UPGRADES[number](state)
    return state


def _from_first(state: dict[str, Any]) -> dict[str, Any]:
    """Upgrade format 1, which was saved at ends of epochs alone, without a best state and without skipped steps."""
    return {**state, "best": {"value": None}, "skips": {"count": 0}, "gradients": {"accumulate": None}, "sums": {}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first}
