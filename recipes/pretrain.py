"""Pretrain a backbone on images without labels.

accelerate launch recipes/pretrain.py simclr --data digits --output runs/mine
accelerate launch recipes/pretrain.py --config recipes/configs/mae_digits.yaml

Two processes on a CPU (`accelerate launch --cpu --num_processes 2` would start one):

ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node 2 recipes/pretrain.py mae --data digits
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
