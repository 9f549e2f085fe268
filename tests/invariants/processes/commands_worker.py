"""Commands one after the other, by however many processes: `commands_worker.py COMMAND... , COMMAND...`.

For test_two_processes.py: what the libraries take to be imported is paid once.
"""

import sys
from itertools import groupby

import torch

from ssl_transfer.cli.main import main as run


def main() -> None:
    torch.set_num_threads(1)
    for separates, words in groupby(sys.argv[1:], key=",".__eq__):
        if not separates:
            run(list(words))


if __name__ == "__main__":
    main()
