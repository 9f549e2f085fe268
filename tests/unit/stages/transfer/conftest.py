"""Provide a quick transfer run, and its result without measurements of clock and machine."""

import pytest

from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.transfer import transfer

CLOCKS = ("seconds", "peak_memory_mb", "energy_joules")


@pytest.fixture
def quick(convolutional, tmp_path):
    """Configure a run of few steps on `make_dataset`'s images, in `tmp_path / "run"`."""
    return TransferConfig(
        image_size=16,
        backbone=convolutional,
        epochs=1,
        head_steps=6,
        finetune_steps=6,
        batch_size=12,
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=1e-2, warmup_steps=1),
        output=tmp_path / "run",
    )


@pytest.fixture
def run(runtime, make_dataset):
    return lambda config: transfer(config, runtime=runtime, dataset=make_dataset(), quiet=True)


def _without_clocks(result):
    if isinstance(result, dict):
        return {key: _without_clocks(value) for key, value in result.items() if key not in CLOCKS}
    return [_without_clocks(value) for value in result] if isinstance(result, list) else result


@pytest.fixture
def measured():
    """Return a function that leaves out the measurements of clock and machine."""
    return _without_clocks
