"""Run a worker in processes that share its imports: `forked.py WORKER COUNT ARGUMENTS...`.

Each process has the environment that torch.distributed.run gives, and calls the worker's `main()`.
"""

import importlib.util
import os
import socket
import sys
from pathlib import Path
from types import ModuleType

from torch.multiprocessing import start_processes


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_rank(rank: int, count: int, port: int, worker: ModuleType) -> None:
    """Call the worker as one of `count` processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
    worker.main()


def main() -> None:
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    sys.argv = [str(path), *sys.argv[3:]]
    worker = imported(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(one_rank, (count, port, worker), nprocs=count, start_method="fork")


if __name__ == "__main__":
    main()
