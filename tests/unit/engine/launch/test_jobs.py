"""Runs side by side: a failed one leaves the others alone, is remembered, and is run again when that is asked for."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssl_transfer.engine.launch import jobs
from ssl_transfer.engine.launch.jobs import Failure
from ssl_transfer.engine.launch.local import workers

sys.path.insert(0, str(Path(__file__).parent))
from job_samples import Sample


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., Sample]:
    """`sample("name", "kind", after="other name")`."""

    def make(name: str, kind: str = "fine", after: str | None = None) -> Sample:
        return Sample(folder=tmp_path / name, kind=kind, after=None if after is None else tmp_path / after)

    return make


def starts_of(job: Sample) -> int:
    path = job.folder / "starts"
    return len(path.read_text()) if path.is_file() else 0


def run_all(samples: list[Sample], runtime, at_a_time: int = 1, *, retry: bool = False) -> list:
    with workers(at_a_time, runtime) as launcher:
        outcomes = launcher.run(samples, retry=retry)
    return [outcomes[job.folder] for job in samples]


def test_a_failed_run_takes_only_its_own_with_it(sample: Callable, runtime) -> None:
    failing, other = sample("failing", "raises"), sample("other")
    dependant, further = sample("dependant", after="failing"), sample("further", after="dependant")
    mistake, fine = sample("mistake", "mistake"), sample("fine", after="other")
    outcomes = run_all([failing, other, dependant, further, mistake, fine], runtime)
    assert outcomes[0].lines[-1] == "RuntimeError: CUDA out of memory"
    assert any("job_samples.py" in line for line in outcomes[0].lines)
    assert outcomes[2] == Failure(lines=(), after=failing.folder)
    assert outcomes[3] == Failure(lines=(), after=dependant.folder)
    # No traceback for what was said in words.
    assert outcomes[4] == Failure(lines=("the loss is not finite",))
    assert [type(outcomes[place]) for place in (1, 5)] == [dict, dict]
    assert [starts_of(job) for job in (dependant, further)] == [0, 0]


def test_failed_runs_are_run_again_on_request(sample: Callable, runtime) -> None:
    first = [sample("failing", "raises"), sample("fine"), sample("dependant", after="failing")]
    before = run_all(first, runtime)
    # What made it fail has gone.
    mended = [sample("failing"), *first[1:]]
    assert run_all(mended, runtime) == [before[0], before[1], before[2]]
    assert [starts_of(job) for job in mended] == [1, 2, 0]
    outcomes = run_all(mended, runtime, retry=True)
    assert [type(outcome) for outcome in outcomes] == [dict, dict, dict]
    assert [starts_of(job) for job in mended] == [2, 3, 1]
    assert not (mended[0].folder / jobs.RECORD).exists()
    assert [type(outcome) for outcome in run_all(mended, runtime)] == [dict, dict, dict]


def test_a_killed_worker_is_replaced(
    sample: Callable, runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its job alone fails, and the next one has the same GPU in a new process."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    samples = [sample("killed", "killed"), sample("dependant", after="killed"), sample("raises", "raises")]
    samples += [sample(f"fine {number}") for number in range(3)]
    outcomes = run_all(samples, runtime, at_a_time=2)
    assert "was killed" in outcomes[0].lines[0]
    assert outcomes[1] == Failure(lines=(), after=samples[0].folder)
    assert outcomes[2].lines[-1] == "RuntimeError: CUDA out of memory"
    assert [outcome["device"] for outcome in outcomes[3:]] == ["3"] * 3
    assert os.getpid() not in {outcome["process"] for outcome in outcomes[3:]}
    assert "--jobs 2 on 1 GPU: runs share them" in capsys.readouterr().err
    assert [starts_of(job) for job in samples] == [1, 0, 1, 1, 1, 1]


def test_each_worker_has_a_gpu_of_its_own(
    sample: Callable, runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outcomes = run_all([sample("first"), sample("second")], runtime, at_a_time=2)
    assert sorted(outcome["device"] for outcome in outcomes) == ["0", "1"]
    assert "share" not in capsys.readouterr().err
