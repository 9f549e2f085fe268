"""Print progress lines of several concurrent runs: the run of each, and no unknown remaining time."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.launch import jobs, local
from ssl_transfer.engine.launch.jobs import Pace


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Advance the clock by a minute at each reading."""
    clock = itertools.count(step=60.0)
    for module in (local, progress):
        monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))


@dataclass(frozen=True)
class Training:
    """A run with a bar of its own."""

    folder: Path
    title: str
    after: Path | None = None

    def check(self, result: dict[str, Any]) -> None:
        """Accept any result."""

    def __call__(self) -> dict[str, Any]:
        with progress.bar("simclr", 640) as bar:
            bar.update(160, "loss 1.0")
        return {}


def test_a_line_says_whose_it_is(
    minutes: None, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainings = [Training(tmp_path / title, title) for title in ("one seed 0", "one seed 1")]
    local.Alone(runtime).run(trainings, retry=False)
    assert capsys.readouterr().out.splitlines() == [
        "one seed 0, simclr: 160/640  loss 1.0  180 s left",
        # The other takes as long as this one did.
        "all runs: 1/2  runs, about 3 min left",
        "one seed 1, simclr: 160/640  loss 1.0  180 s left",
        "all runs: 2/2  runs",
    ]


def test_a_worker_says_whose_its_bars_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple] = []
    queue = type("Queue", (), {"put": sent.append})
    monkeypatch.setattr(progress._Display, "relay", queue)
    jobs.attempt(Training(Path("there"), "one seed 0"))
    assert {description for _, description, *_ in sent} == {"one seed 0, simclr"}
    assert progress._Display.run == ""


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., dict[Path, Path | None]]:
    """`folders(pretrainings=2, transfers=3)`: the transfers go on from the pretrainings, in turns."""

    def make(pretrainings: int, transfers: int) -> dict[Path, Path | None]:
        first = [tmp_path / f"pretraining{number}" for number in range(pretrainings)]
        starts = itertools.cycle(first or [None])
        return {**dict.fromkeys(first), **{tmp_path / f"transfer{number}": next(starts) for number in range(transfers)}}

    return make


def test_long_runs_say_nothing_of_short_ones(folders: Callable, tmp_path: Path) -> None:
    after = folders(pretrainings=2, transfers=4)
    pace, done = Pace(after, at_a_time=1), [tmp_path / "pretraining0"]
    pace.ended(done[0], 600.0)
    assert pace.left(done) == ""
    done.append(tmp_path / "transfer0")
    pace.ended(done[1], 30.0)
    assert pace.left(done) == ", about 12 min left"
    done.append(tmp_path / "pretraining1")
    pace.ended(done[2], 600.0)
    assert pace.left(done) == ", about 2 min left"
    assert pace.left(list(after)) == ""


def test_runs_at_a_time_share_what_is_left(folders: Callable, tmp_path: Path) -> None:
    pace = Pace(folders(pretrainings=0, transfers=5), at_a_time=4)
    pace.ended(tmp_path / "transfer0", 40.0)
    assert pace.left([tmp_path / "transfer0"]) == ", about 40 s left"
    assert pace.left([tmp_path / f"transfer{number}" for number in range(3)]) == ", about 40 s left"


def test_what_an_earlier_start_finished_says_nothing(folders: Callable, tmp_path: Path) -> None:
    (tmp_path / "transfer0").mkdir()
    write_text(tmp_path / "transfer0" / "result.json", "{}")
    pace = Pace(folders(pretrainings=0, transfers=3), at_a_time=1)
    pace.ended(tmp_path / "transfer0", 0.01)
    assert pace.left([tmp_path / "transfer0"]) == ""
    pace.ended(tmp_path / "transfer1", 50.0)
    assert pace.left([tmp_path / "transfer0", tmp_path / "transfer1"]) == ", about 50 s left"
