"""Measure the energy of a training with the machine's sensors. Nothing is estimated without a sensor.

Intel and AMD processors count microjoules (RAPL). Linux exposes the counters below /sys/class/powercap, often to root
alone. NVIDIA drivers count millijoules for each GPU (NVML, through the package nvidia-ml-py if it is installed). Both
count the whole chip, other programs included.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
Counters = dict[str, tuple[float, float]]
"""Joules counted so far, and the value at which the counter wraps to zero, by sensor."""


class Meter:
    """Sum energy from its construction on; its state adds earlier starts of the run."""

    def __init__(self, read: Callable[[], Counters]) -> None:
        self._read, self._spent = read, 0.0
        self._last = read()

    def observe(self) -> None:
        """Read the sensors. A counter wraps after some 260 kJ, so call this more often than that."""
        now = self._read()
        for name in self._last.keys() & now.keys():
            # A counter that decreased has wrapped.
            self._spent += (now[name][0] - self._last[name][0]) % now[name][1]
        self._last = now

    @property
    def joules(self) -> float | None:
        """Return the joules so far; None without a sensor."""
        self.observe()
        return self._spent if self._last else None

    def state_dict(self) -> dict[str, Any]:
        """Return the joules so far."""
        return {"joules": self.joules or 0.0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add the joules of earlier starts."""
        self._spent += state["joules"]


def meter(device: torch.device, *, num_processes: int) -> Meter:
    """Return a meter of the processors, and of the GPU if it is the device; on several processes, of nothing."""
    if num_processes > 1:
        return Meter(dict)
    return Meter(lambda: {**packages(POWERCAP), **(gpu(device) if device.type == "cuda" else {})})


def packages(folder: Path) -> Counters:
    """Read RAPL's counters of whole packages.

    Counters inside a package are part of it, and `psys` covers all packages; both are left out.
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
    """Read NVML's counter of a GPU; return nothing without the package or the counter."""
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
    # The counter starts with the driver and has 64 bits of millijoules.
    return {name: (joules, 2.0**64 / 1e3)}
