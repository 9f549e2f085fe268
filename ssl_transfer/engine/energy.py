"""Energy that a training took, where the machine has a sensor for it; elsewhere nothing is estimated.

Intel's and AMD's processors count microjoules (RAPL), which Linux shows below /sys/class/powercap to whoever may read
them, most often root alone. NVIDIA's drivers count millijoules a GPU (NVML, through the package nvidia-ml-py where it
is installed). Both count all that the chip does, also for other programs that run beside.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
Counters = dict[str, tuple[float, float]]
"""By sensor what it has counted, in joules, and the value at which it begins at zero again."""


class Meter:
    """Counts from when it is made; what an earlier start of the run took is part of its state."""

    def __init__(self, read: Callable[[], Counters]) -> None:
        self._read, self._before = read, 0.0
        self._started = read()

    @property
    def joules(self) -> float | None:
        """So far; None without a sensor."""
        now = self._read()
        shared = self._started.keys() & now.keys()
        if not shared:
            return None
        # A counter that has gone back has begun anew once; in longer trainings it may have done so more often.
        spent = [(now[name][0] - self._started[name][0]) % now[name][1] for name in sorted(shared)]
        return self._before + sum(spent)

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"joules": self.joules or 0.0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._before = state["joules"]


def meter(device: torch.device, *, num_processes: int) -> Meter:
    """Of this machine's processors, and the GPU where that is the device; of nothing where several processes train."""
    if num_processes > 1:
        return Meter(dict)
    return Meter(lambda: {**packages(POWERCAP), **(gpu(device) if device.type == "cuda" else {})})


def packages(folder: Path) -> Counters:
    """RAPL's counters of whole packages, those that can be read; what lies inside a package is part of it."""
    found: Counters = {}
    for place in sorted(folder.glob("intel-rapl:*")):
        if place.name.count(":") == 1:
            try:
                values = [int((place / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
            except OSError:
                continue
            found[place.name] = (values[0] / 1e6, values[1] / 1e6)
    return found


def gpu(device: torch.device) -> Counters:
    """NVML's counter of a GPU; nothing where the package or the counter is absent."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(name)) / 1e3
    except pynvml.NVMLError:
        return {}
    # It starts with the driver and has 64 bits of millijoules.
    return {name: (joules, 2.0**64 / 1e3)}
