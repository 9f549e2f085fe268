"""Methods with a second encoder: two processes with half of the batch each take the steps of one with the whole."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
WORKER = Path(__file__).parent / "method_gradients.py"


@pytest.fixture(scope="module")
def worker() -> Any:
    """method_gradients.py as a module, for what one process has."""
    spec = importlib.util.spec_from_file_location("method_gradients", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, two_processes: Callable) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gradients")
    command, environment = two_processes(WORKER, folder)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["byol", "simsiam", "dino", "mocov3"])
def test_gradients_and_state_are_those_of_one_process(name: str, ranks: list, worker: Any, runtime: Any) -> None:
    alone = worker.trained(name, runtime)
    gradients, state = alone["gradients"], alone["state"]
    assert len(gradients) > 15
    scale = max(float(value.abs().max()) for value in gradients.values())
    assert scale > 1e-4
    for rank in ranks:
        assert rank[name]["gradients"].keys() == gradients.keys()
        for key, value in gradients.items():
            torch.testing.assert_close(rank[name]["gradients"][key], value, rtol=1e-3, atol=1e-4 * scale)
        for key, value in state.items():
            torch.testing.assert_close(rank[name]["state"][key], value, rtol=1e-3, atol=1e-5)


def test_dinos_centre_is_that_of_all_images(ranks: list, worker: Any, runtime: Any) -> None:
    """To the last bits, and it has moved much further than the tolerance, on each process by images of both."""
    expected = worker.trained("dino", runtime)["state"]["centre"]
    assert float(expected.abs().max()) > 1e-2
    for rank in ranks:
        torch.testing.assert_close(rank["dino"]["state"]["centre"], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(ranks[0]["dino"]["state"]["centre"], ranks[1]["dino"]["state"]["centre"])
