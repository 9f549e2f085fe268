"""Average the weights of two phases: the head's training and the fine-tuning that follows it.

Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, equation 1 with a share of one half,
which they recommend where no data chooses the share.
"""

import time
from typing import Any

from torch import Tensor

from ssl_transfer.engine.distributed import device_memory
from ssl_transfer.engine.training import energy

from .phases import Training


def average(training: Training, earlier: dict[str, Tensor], later: dict[str, Tensor]) -> dict[str, Any]:
    """Load the mean of two states into the trained module, and measure it.

    Args:
        training: holds the module.
        earlier: its state after the first of the two phases.
        later: its state after the second one; counters and other whole numbers are taken from it.

    Returns:
        As `phases.run_phase`.
    """
    begun = time.monotonic()
    meter = energy.meter(training.runtime.device, num_processes=training.runtime.num_processes)
    device_memory.reset_peak(training.runtime.device)
    training.learner.load_state_dict(
        {name: (earlier[name] + value) / 2 if value.is_floating_point() else value for name, value in later.items()}
    )
    training.objective.take_features(None)
    training.learner.eval()
    return {
        "validation": training.measure(training.validation),
        "seconds": time.monotonic() - begun,
        "images_seen": 0,
        "peak_memory_mb": device_memory.peak_mb(training.runtime.device),
        "energy_joules": meter.joules,
    }
