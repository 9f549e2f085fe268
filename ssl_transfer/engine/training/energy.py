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
        self._read, self._spent = read, 0.0
        self._last = read()

    def observe(self) -> None:
        """Look at the sensors. A counter begins anew after some 260 kJ: to be called more often than that."""
        now = self._read()
        for name in self._last.keys() & now.keys():
            # One that has gone back has begun anew.
            self._spent += (now[name][0] - self._last[name][0]) % now[name][1]
        self._last = now

    @property
    def joules(self) -> float | None:
        """So far; None without a sensor."""
        self.observe()
        return self._spent if self._last else None

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"joules": self.joules or 0.0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._spent += state["joules"]


def meter(device: torch.device, *, num_processes: int) -> Meter:
    """Of this machine's processors, and the GPU where that is the device; of nothing where several processes train."""
    if num_processes > 1:
        return Meter(dict)
    return Meter(lambda: {**packages(POWERCAP), **(gpu(device) if device.type == "cuda" else {})})


def packages(folder: Path) -> Counters:
    """RAPL's counters of whole packages, those that can be read.

    What lies inside a package is part of it, and `psys`, which some machines have beside them, is all of them.
    """
    found: Counters = {}
    for place in sorted(folder.glob("intel-rapl:*")):
        if place.name.count(":") == 1:
            try:
                if not (place / "name").read_text().startswith("package"):
                    continue
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
