"""How long several runs still take, told from those that have ended."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from statistics import fmean

from ssl_transfer.engine.console.formatting import duration


class Pace:
    """Means over two kinds of runs: those that others go on from (pretrainings) take longer than the others.

    Args:
        after: each run's folder, with that of the run that it goes on from.
        at_a_time: runs at a time.
    """

    def __init__(self, after: Mapping[Path, Path | None], at_a_time: int) -> None:
        starts = set(after.values())
        # One that an earlier start finished takes no time, which says nothing of the others.
        self._kinds = {folder: folder in starts for folder in after if not (folder / "result.json").is_file()}
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        self._at_a_time = at_a_time

    def ended(self, folder: Path, seconds: float) -> None:
        """A run has a result, after so many seconds in this start."""
        if folder in self._kinds:
            self._seconds[self._kinds[folder]].append(seconds)

    def left(self, done: Collection[Path]) -> str:
        """`, about 12 min left`; empty as long as there is a kind of which none has ended, and at the end.

        Args:
            done: the runs that are out of the way, whatever became of them.
        """
        waiting = Counter(kind for folder, kind in self._kinds.items() if folder not in done)
        if not waiting or not all(self._seconds[kind] for kind in waiting):
            return ""
        seconds = sum(count * fmean(self._seconds[kind]) for kind, count in waiting.items())
        return f", about {duration(seconds / min(self._at_a_time, waiting.total()))} left"
