"""Train a head, then everything, on labelled images, from any initialisation.

accelerate launch recipes/transfer.py --init runs/mine --data digits --labels 5
accelerate launch recipes/transfer.py --init scratch --data folder:images/mine --backbone.name resnet18

Two processes on a CPU:

ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node 2 recipes/transfer.py --data digits
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["transfer", *sys.argv[1:]])
