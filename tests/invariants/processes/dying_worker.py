"""A command of which one process ends before its time: `dying_worker.py HOW RANK STEP COMMAND... --output FOLDER`.

For test_process_death.py, under torch.distributed.run. HOW is killed, raises or leaves (with exit status 0).
"""

import os
import signal
import sys
from pathlib import Path

import torch

from ssl_transfer.cli.main import main
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.engine.training.objective import Batch, Output
from ssl_transfer.methods.simsiam import SimSiam


def end(how: str) -> None:
    """End this process, and leave a file that says when."""
    Path(sys.argv[-1]).with_name("ended").touch()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "leaves":
        os._exit(0)
    raise InputError("the disk of this process alone: it is full.")


def arrange(how: str, rank: str, last: int) -> None:
    """From now on this process ends in the forward of a step, if it is the one."""
    steps, plain = 0, SimSiam.forward

    def forward(self: SimSiam, batch: Batch) -> Output:
        nonlocal steps
        steps += 1
        if steps == last and os.environ["RANK"] == rank:
            end(how)
        return plain(self, batch)

    SimSiam.forward = forward


if __name__ == "__main__":
    torch.set_num_threads(1)
    State.due = True
    arrange(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    main(sys.argv[4:])
