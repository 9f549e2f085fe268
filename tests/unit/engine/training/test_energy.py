import sys
import types

import pytest
import torch

from ssl_transfer.engine.training import energy


@pytest.fixture
def powercap(tmp_path):
    """`powercap(name, joules)` sets a counter that begins anew at 100 J."""

    def put(name: str, joules: float, of: str = "package-0") -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "name").write_text(f"{of}\n")
        (tmp_path / name / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("100000000\n")

    put.folder = tmp_path
    return put


def test_packages_are_counted_and_what_lies_in_them_is_not(powercap):
    powercap("intel-rapl:0", 10.0)
    powercap("intel-rapl:1", 20.0)
    powercap("intel-rapl:0:0", 5.0)
    powercap("intel-rapl:2", 30.0, "psys")
    meter = energy.Meter(lambda: energy.packages(powercap.folder))
    powercap("intel-rapl:0", 12.5)
    powercap("intel-rapl:0:0", 50.0)
    powercap("intel-rapl:2", 60.0, "psys")
    # This one has begun at zero again, and then once more.
    powercap("intel-rapl:1", 4.0)
    meter.observe()
    powercap("intel-rapl:1", 2.0)
    assert meter.joules == pytest.approx(2.5 + 84.0 + 98.0)


def test_without_a_sensor_nothing_is_estimated(powercap):
    assert energy.Meter(lambda: energy.packages(powercap.folder)).joules is None
    assert energy.Meter(lambda: energy.packages(powercap.folder / "absent")).joules is None
    (powercap.folder / "intel-rapl:0").mkdir()
    assert energy.packages(powercap.folder) == {}


def test_a_stopped_training_goes_on_counting(powercap):
    powercap("intel-rapl:0", 10.0)
    first = energy.Meter(lambda: energy.packages(powercap.folder))
    powercap("intel-rapl:0", 13.0)
    second = energy.Meter(lambda: energy.packages(powercap.folder))
    second.load_state_dict(first.state_dict())
    powercap("intel-rapl:0", 14.0)
    assert second.joules == pytest.approx(3.0 + 1.0)


def test_several_processes_measure_nothing():
    assert energy.meter(torch.device("cpu"), num_processes=2).joules is None


@pytest.fixture
def driver(monkeypatch):
    """NVML as its package speaks; what it has counted, in millijoules, is `driver.count`."""
    fake = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByUUID = lambda name: name
    fake.count = 1000

    def count(handle):
        if handle != "GPU-abc" or fake.count is None:
            raise fake.NVMLError
        return fake.count

    fake.nvmlDeviceGetTotalEnergyConsumption = count
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(energy, "packages", lambda _: {})
    return fake


def test_a_gpu_is_counted_by_its_driver(driver):
    device = torch.device("cuda")
    meter = energy.meter(device, num_processes=1)
    driver.count = 6500
    assert meter.joules == pytest.approx(5.5)
    assert energy.meter(torch.device("cpu"), num_processes=1).joules is None
    # A GPU without a counter.
    driver.count = None
    assert energy.gpu(device) == {}
