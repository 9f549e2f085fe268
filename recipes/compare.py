"""Compare pretraining with scratch and ImageNet, over label budgets and seeds.

accelerate launch recipes/compare.py --data folder:images/mine --arms scratch imagenet simclr --labels 5 20 all
accelerate launch recipes/compare.py --config recipes/configs/compare_surface_defects.yaml --data folder:images/mine

On one machine `--jobs 2` runs two trainings at a time, which divide the cores, or have a GPU each:

python recipes/compare.py --data digits --jobs 2

From a login node of a Slurm cluster (`pip install "ssl_transfer[slurm]"`), one job for each run; this command waits for
them, and can be killed and started again:

python recipes/compare.py --data digits --output DIR --launcher slurm --slurm.partition gpu --slurm.gpus 1

Runs that failed are listed in the end; `--retry` runs them again, and what has finished stays.
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
