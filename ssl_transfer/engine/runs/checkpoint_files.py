"""The states of a training on disk: the last few and the best, and which of them it goes on from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import atomic, state_files

FORMAT = 2
"""Version of a state; raised when it changes shape, with a line in `_UPGRADES` for those before."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a training saves its state, and which states are kept beside the best."""

    seconds: float = 20.0
    """Least time between two. Where saving takes long it is more: no more than a twentieth of the time goes into it.
    0: after every step."""
    keep: int = 2
    """The last so many. Where the newest cannot be read, the one before is used."""

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise InputError(f"checkpoints.seconds {self.seconds}: it may not be negative; 0 saves after every step.")
        if self.keep < 1:
            raise InputError(f"checkpoints.keep {self.keep}: it must be 1 or more; 2 leaves one to fall back on.")


@dataclass(frozen=True, kw_only=True)
class StateFiles:
    """Where one training keeps its states: `NAME.pt`, the one before it `NAME.pt.1`, and so on; `BEST.pt`."""

    folder: Path
    name: str
    best: str
    config: CheckpointConfig = CheckpointConfig()

    def exist(self) -> bool:
        """Whether the training has saved any."""
        return any(path.is_file() for path in self._paths())

    def newest(self) -> Path | None:
        """The file of the newest state; None before there is one."""
        return next((path for path in self._paths() if path.is_file()), None)

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Save a state as the newest, or as the best. At any moment a whole one lies there, once there was one."""
        path = self.folder / f"{self.best if best else self.name}.pt"
        state_files.save_state(path, {"format": FORMAT, **state}, before=None if best else self._shift)

    def load(self, warn: Callable[[str], None]) -> tuple[dict[str, Any] | None, list[Path]]:
        """The newest state that is whole, or None where there is none; and newer files that are damaged.

        Args:
            warn: is told of each of these.

        Raises:
            InputError: there are some and none is whole; a later version wrote it.
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
        """Give damaged files another name, so that none of them takes the place of one that is whole."""
        for path in damaged:
            path.replace(path.with_name(f"{path.name}.damaged"))

    def _paths(self) -> list[Path]:
        """From the newest on."""
        newest = self.folder / f"{self.name}.pt"
        before = [path for path in self.folder.glob(f"{newest.name}.*") if path.suffix[1:].isdigit()]
        return [newest, *sorted(before, key=_age)]

    def _shift(self) -> None:
        """Make room for a new one: each becomes the one before it, and the oldest goes."""
        newest, *before = self._paths()
        if not newest.is_file():
            # Killed when it had just made room.
            return
        for path in reversed(before):
            if _age(path) >= self.config.keep - 1:
                path.unlink()
            else:
                path.replace(path.with_suffix(f".{_age(path) + 1}"))
        if self.config.keep > 1:
            newest.replace(newest.with_name(f"{newest.name}.1"))


def _age(path: Path) -> int:
    return int(path.suffix[1:])


def _upgraded(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The state in today's shape, whichever version wrote it."""
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
    """Format 1 was saved at the ends of epochs alone, knew no best state, and nothing was skipped."""
    return {**state, "best": {"value": None}, "skips": {"count": 0}, "gradients": {"accumulate": None}, "sums": {}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first}
