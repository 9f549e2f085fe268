"""Run scripts in processes that share their imports.

`forked.py` alone reads a request a line and forks a process for each, which runs a script as Python would. `forked.py
WORKER COUNT ARGUMENTS...` starts COUNT processes with the environment that torch.distributed.run gives; each calls the
worker's `main()`.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.multiprocessing import start_processes

IMPORTED = ("pretrain.pretrain", "transfer.transfer", "adapt.adapt", "distill.distill")
"""The stages that scripts find imported."""


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


def run(request: dict[str, Any]) -> None:
    """Run a request's script in this process, which then ends."""
    os.setsid()
    for number, name in enumerate((os.devnull, request["out"], request["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve() -> None:
    """Answer each request with the number of its process, and with its exit status when it has ended."""
    for name in IMPORTED:
        importlib.import_module(f"ssl_transfer.stages.{name}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            run(json.loads(line))
        print(number, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        serve()
