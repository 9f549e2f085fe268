"""Trackers beside wandb, by name: what they hold is read back, and is what `metrics.jsonl` has."""

import importlib.util
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import StoppedError
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig


def logged(folder: Path) -> dict[tuple[str, int], float]:
    """Each number of the log by its name and step; what has none stands where the log was by then."""
    found: dict[tuple[str, int], float] = {}
    step = 0
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        place, step = "/".join(record[key] for key in ("phase", "split")), record.get("step", step)
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                found[f"{place}/{name}", step] = value
    return found


def test_tensorboard_has_every_metric(run: Callable, killed_in_step: Callable, tiny: dict, tmp_path: Path) -> None:
    """Each once, also those of a start that was killed."""
    folder = tmp_path / "run"
    flags = (*tiny["transfer"], *tiny["convolutional"], "--tracking.also", "tensorboard")
    killed_in_step(6, "transfer", *flags, output=folder)
    answer = run("transfer", *flags, "--output", folder)
    assert answer.status == 0, answer.err
    assert "warning" not in answer.err
    (place,) = {path.parent for path in (folder / "tensorboard" / "run").glob("events*")}
    events = EventAccumulator(str(place), size_guidance={"scalars": 0})
    events.Reload()
    scalars = [(name, one) for name in events.Tags()["scalars"] for one in events.Scalars(name)]
    held = {(name, one.step): one.value for name, one in scalars}
    assert len(held) == len(scalars)
    expected = logged(folder)
    assert held.keys() == expected.keys()
    assert len(held) > 50
    # Its files hold 32 bits.
    assert {place: pytest.approx(value, rel=1e-6) for place, value in expected.items()} == held


def test_a_tracker_that_fails_stops_no_run(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no room for events")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", refuse)
    flags = (*tiny["transfer"], *tiny["convolutional"], "--output", tmp_path / "run", "--tracking.also", "tensorboard")
    answer = run("transfer", *flags)
    assert answer.status == 0
    assert answer.err.count("warning: tensorboard could not log (OSError: no room for events)") == 1
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_tracker_that_is_not_installed_is_said(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    flags = (*tiny["transfer"], *tiny["convolutional"], "--output", tmp_path / "run", "--tracking.also", "mlflow")
    answer = run("transfer", *flags)
    assert answer.status == 0
    assert answer.err.count("warning: mlflow could not begin (ModuleNotFoundError") == 1


class MLflow:
    """As Accelerate's class and the module behind it: no run begins while another is open."""

    name = "mlflow"
    open_run = False
    ended: list[str]

    def start(self) -> None:
        assert not MLflow.open_run
        MLflow.open_run = True

    def store_init_configuration(self, _: dict) -> None:
        pass

    def log(self, values: dict, **_: object) -> None:
        if "p/train/refused" in values:
            raise OSError("no room")

    @staticmethod
    def end_run(status: str = "FINISHED") -> None:
        if MLflow.open_run:
            MLflow.ended.append(status)
        MLflow.open_run = False

    def finish(self) -> None:
        self.end_run()


def test_a_run_that_fails_is_ended(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("accelerate.tracking.MLflowTracker", lambda **_: MLflow())
    monkeypatch.setitem(sys.modules, "mlflow", MLflow)  # type: ignore[misc]
    MLflow.ended = []

    def track(name: str, metric: str, error: BaseException | None) -> None:
        place, config = tmp_path / name / "metrics.jsonl", TrackingConfig(also=("mlflow",))
        place.parent.mkdir()
        with Tracker(place, config, runtime, settings={}, group="", job_type="") as tracker:
            tracker.log({"phase": "p", "split": "train", "step": 1, metric: 1.0})
            if error is not None:
                raise error

    for error in (RuntimeError(), StoppedError(signal.SIGTERM)):
        with pytest.raises(type(error)):
            track(type(error).__name__, "loss", error)
    assert capsys.readouterr().err == ""
    # One that took nothing any more is closed as well.
    track("refusing", "refused", None)
    track("last", "loss", None)
    assert capsys.readouterr().err.count("mlflow could not") == 1
    assert MLflow.ended == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is large, and an extra of its own")
def test_mlflow_has_every_metric(
    run: Callable, killed_in_step: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    folder = tmp_path / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    flags = (*tiny["transfer"], *tiny["convolutional"], "--tracking.also", "mlflow")
    killed_in_step(6, "transfer", *flags, output=folder)
    answer = run("transfer", *flags, "--output", folder)
    assert answer.status == 0, answer.err
    assert "warning: mlflow" not in answer.err
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'ssl_transfer'")
    one, killed = client.search_runs([experiment.experiment_id])
    assert (one.info.status, killed.info.status) == ("FINISHED", "FAILED")
    assert one.info.run_name == "run"
    held = {
        (name, metric.step): metric.value
        for name in one.data.metrics
        for metric in client.get_metric_history(one.info.run_id, name)
    }
    assert held == {place: pytest.approx(value, rel=1e-12) for place, value in logged(folder).items()}
