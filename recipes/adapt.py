"""Train on labelled images of one domain for another, of which no label is used.

accelerate launch recipes/adapt.py dann --source folder:images/studio --target folder:images/street --init imagenet
accelerate launch recipes/adapt.py mmd --source digits --target npz:other_digits.npz --choose density

Two processes on a CPU:

ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node 2 recipes/adapt.py coral --target DATA
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["adapt", *sys.argv[1:]])
