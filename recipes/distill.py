"""Train a small student on what the model of a finished run says of images, those without labels among them.

accelerate launch recipes/distill.py --teacher runs/transferred --student mobilenetv3_small_100 --data digits --labels 5
accelerate launch recipes/distill.py --teacher runs/transferred --student resnet10t --data folder:images/mine --pool

Two processes on a CPU:

ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node 2 recipes/distill.py --teacher runs/transferred
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
