"""Adaptations one after the other, by one process or two: `adapt_worker.py FOLDER NAME... -- FLAGS`.

For test_adaptation.py.
"""

import sys

import torch

from ssl_transfer.cli.main import main

OWN = {"self-training": ("--method.confidence", "0")}
"""Flags of a method: a new head is never sure."""


def adapt_all(arguments: list[str]) -> None:
    """Run them."""
    cut = arguments.index("--")
    folder, *names = arguments[:cut]
    for name in names:
        main(["adapt", name, *arguments[cut + 1 :], *OWN.get(name, ()), "--output", f"{folder}/{name}"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    adapt_all(sys.argv[1:])
