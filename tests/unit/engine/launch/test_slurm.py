"""The grid on a cluster that is two small scripts: what is submitted, what is waited for, what is done after a kill."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.launch import slurm
from ssl_transfer.engine.launch.jobs import Failure, Outcome

sys.path.insert(0, str(Path(__file__).parent))
from job_samples import Sample

SBATCH = """#!/bin/bash
cd {place} || exit 1
if [ -e refuse ]; then echo "invalid partition specified" >&2; exit 1; fi
number=$(( $(ls *.sh 2>/dev/null | wc -l) + 1 ))
cat "$1" > "$number.sh"
echo "Submitted batch job $number"
"""
SQUEUE = """#!/bin/bash
if [ -e {place}/silent ]; then exit 1; fi
if [ "$3" = --name ]; then cat {place}/named 2>/dev/null; exit 0; fi
cat {place}/queue 2>/dev/null
exit 0
"""


@dataclass
class FakeCluster:
    """Imitate Slurm: submitted scripts, the queue, and events while a command waits."""

    place: Path
    folder: Path
    events: list[Callable[[], None]]

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.place.glob("*.sh"), key=lambda path: int(path.stem))]

    def queue(self, *lines: str) -> Callable[[], None]:
        return lambda: (self.place / "queue").write_text("".join(f"{line}\n" for line in lines)) and None

    def finish(self, *jobs: Sample) -> Callable[[], None]:
        def write() -> None:
            for job in jobs:
                job.folder.mkdir(parents=True, exist_ok=True)
                (job.folder / "result.json").write_text(json.dumps({"name": job.folder.name}))

        return write

    def submitted(self) -> dict[str, str | None]:
        record = json.loads((self.folder / "submitted.json").read_text())
        return {Path(run).name: group["job"] for group in record for run in group["runs"]}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    place, folder = tmp_path / "bin", tmp_path / "comparison" / "slurm"
    place.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/bash\n"}.items():
        (place / name).write_text(text.format(place=place))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")
    cluster = FakeCluster(place=place, folder=folder, events=[])

    def next_event(_: float) -> None:
        cluster.events.pop(0)()

    monkeypatch.setattr(slurm.time, "sleep", next_event)
    monkeypatch.setattr(slurm, "GRACE", 0.0)
    return cluster


def sample(fake: FakeCluster, name: str, after: Sample | None = None) -> Sample:
    return Sample(folder=fake.folder.parent / name, after=None if after is None else after.folder)


def grid_of(fake: FakeCluster) -> list[Sample]:
    first, second = sample(fake, "first"), sample(fake, "second")
    return [first, second, sample(fake, "plain"), sample(fake, "a", first), sample(fake, "b", first)]


def run_all(fake: FakeCluster, jobs: Sequence[Sample], runtime, *, retry: bool = False) -> list[Outcome]:
    config = slurm.SlurmConfig(partition="gpu", minutes=30, cpus=3, gpus=1, memory_gb=8, at_a_time=7)
    outcomes = slurm.Cluster(config, fake.folder, runtime).run(jobs, retry=retry)
    return [outcomes[job.folder] for job in jobs]


def stop() -> None:
    raise KeyboardInterrupt


def test_dependants_wait_for_their_pretraining(fake: FakeCluster, runtime) -> None:
    jobs = grid_of(fake)
    fake.queue("1_0 RUNNING", "1_1 PENDING", "1_2 PENDING", "2_0 PENDING", "2_1 PENDING")()
    fake.events += [fake.finish(*jobs[:3]), fake.finish(*jobs[3:])]
    assert [outcome["name"] for outcome in run_all(fake, jobs, runtime)] == ["first", "second", "plain", "a", "b"]
    independent, dependent = fake.scripts()
    assert "--array=0-2%3" in independent
    assert "dependency" not in independent
    assert "--array=0-1%2" in dependent
    assert "--dependency=afterok:1_0" in dependent
    for line in ("partition=gpu", "time=30", "cpus-per-task=3", "gpus-per-node=1", "mem=8G", "kill-on-invalid-dep=yes"):
        assert f"#SBATCH --{line}\n" in independent
    # Again: nothing is left to do.
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime)] == [dict] * 5
    assert len(fake.scripts()) == 2


def test_the_next_start_waits_for_what_was_submitted(fake: FakeCluster, runtime) -> None:
    jobs = grid_of(fake)
    fake.queue("1_0 RUNNING", "1_1 RUNNING", "1_2 RUNNING", "2_0 PENDING", "2_1 PENDING")()
    fake.events += [fake.finish(jobs[1]), stop]
    with pytest.raises(KeyboardInterrupt):
        run_all(fake, jobs, runtime)
    # A run more than before goes on from a pretraining that is under way.
    jobs.append(sample(fake, "c", jobs[0]))
    fake.events += [fake.finish(*jobs)]
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime)] == [dict] * 6
    assert len(fake.scripts()) == 3
    assert "--dependency=afterok:1_0" in fake.scripts()[2]
    assert fake.submitted() == {"first": "1", "second": "1", "plain": "1", "a": "2", "b": "2", "c": "3"}


@pytest.mark.parametrize("queued", [True, False], ids=["submitted", "not submitted"])
def test_killed_between_submitting_and_writing_the_number(queued: bool, fake: FakeCluster, runtime) -> None:
    """The array is found by its name, or is not there and is submitted."""
    jobs = grid_of(fake)[:2]
    runs = [f"../{job.folder.name}" for job in jobs]
    write_text(fake.folder / "submitted.json", json.dumps([{"name": "mine", "job": None, "runs": runs}]))
    if queued:
        fake.queue("41_0 RUNNING", "41_1 RUNNING")()
        (fake.place / "named").write_text("41\n41\n")
    else:
        fake.queue("1_0 RUNNING", "1_1 RUNNING")()
    fake.events += [fake.finish(*jobs)]
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime)] == [dict, dict]
    assert len(fake.scripts()) == (0 if queued else 1)


def test_a_run_that_left_the_queue_has_failed(fake: FakeCluster, runtime) -> None:
    jobs = grid_of(fake)
    fake.queue("1_0 RUNNING", "1_1 RUNNING", "1_2 RUNNING", "2_0 PENDING", "2_1 PENDING")()

    def fail() -> None:
        (fake.folder / "1_0_0_log.err").write_text("Traceback\nCUDA out of memory\n")
        fake.finish(*jobs[1:3])()
        fake.queue()()

    fake.events += [fail, lambda: None]
    outcomes = run_all(fake, jobs, runtime)
    assert outcomes[0] == Failure(lines=("Traceback", "CUDA out of memory"))
    assert outcomes[3:] == [Failure(lines=(), after=jobs[0].folder)] * 2
    # Started again it says so at once; on request the three are submitted again.
    again = run_all(fake, jobs, runtime)
    assert [again[0], *again[3:]] == [outcomes[0], *outcomes[3:]]
    assert len(fake.scripts()) == 2
    fake.queue("3 RUNNING", "4_0 PENDING", "4_1 PENDING")()
    fake.events += [fake.finish(jobs[0], *jobs[3:])]
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime, retry=True)] == [dict] * 5
    assert "--dependency=afterok:3\n" in fake.scripts()[3]


def test_a_run_that_failed_while_nobody_waited(fake: FakeCluster, runtime) -> None:
    jobs = grid_of(fake)[:1]
    fake.queue("1 RUNNING")()
    fake.events += [stop]
    with pytest.raises(KeyboardInterrupt):
        run_all(fake, jobs, runtime)
    fake.queue()()
    (outcome,) = run_all(fake, jobs, runtime)
    assert isinstance(outcome, Failure)
    assert "left the queue without a word" in outcome.lines[0]
    assert len(fake.scripts()) == 1


def test_a_result_may_be_late(fake: FakeCluster, runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is looked at from another machine: a job may be gone before its result is to be seen."""
    monkeypatch.setattr(slurm, "GRACE", 60.0)
    jobs = grid_of(fake)[:1]
    fake.queue("1 RUNNING")()
    fake.events += [fake.queue(), lambda: None, lambda: None, stop]
    with pytest.raises(KeyboardInterrupt):
        run_all(fake, jobs, runtime)
    # The same without a waiting command.
    fake.events += [lambda: None, fake.finish(*jobs)]
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime)] == [dict]
    assert fake.events == []


def test_a_job_that_says_how_it_ended_is_not_waited_for(
    fake: FakeCluster, runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "GRACE", 60.0)
    fake.queue("1 RUNNING")()

    def fail() -> None:
        (fake.folder / "1_0_result.pkl").write_bytes(b"")
        fake.queue()()

    fake.events += [fail]
    (outcome,) = run_all(fake, grid_of(fake)[:1], runtime)
    assert isinstance(outcome, Failure)


def test_a_silent_controller_is_no_failure(fake: FakeCluster, runtime) -> None:
    jobs = grid_of(fake)[:1]
    fake.queue("1 RUNNING")()
    silent = fake.place / "silent"
    fake.events += [lambda: silent.touch(), lambda: None, lambda: None, fake.finish(*jobs)]
    assert [type(outcome) for outcome in run_all(fake, jobs, runtime)] == [dict]
    with pytest.raises(InputError, match="squeue does not answer"):
        run_all(fake, jobs, runtime)


def test_refused_runs_are_a_mistake(fake: FakeCluster, runtime) -> None:
    (fake.place / "refuse").touch()
    with pytest.raises(InputError, match="invalid partition specified"):
        run_all(fake, grid_of(fake), runtime)
    assert json.loads((fake.folder / "submitted.json").read_text()) == []


@pytest.mark.parametrize(
    ("setting", "value"), [("minutes", 0), ("cpus", 0), ("memory_gb", 0), ("at_a_time", 0), ("gpus", 2)]
)
def test_settings_that_ask_for_nothing(setting: str, value: int, fake: FakeCluster) -> None:
    slurm.check(slurm.SlurmConfig())
    with pytest.raises(InputError, match=f"--slurm.{setting.replace('_', '-')} {value}"):
        slurm.check(slurm.SlurmConfig(**{setting: value}))


def test_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch here"):
        slurm.check(slurm.SlurmConfig())
