"""Compare pretraining with scratch and ImageNet, over label budgets and seeds.

accelerate launch recipes/compare.py --data folder:images/mine --arms scratch imagenet simclr --labels 5 20 all
accelerate launch recipes/compare.py --config recipes/configs/compare_surface_defects.yaml --data folder:images/mine

On one machine without a GPU, `--jobs 2` runs two trainings at a time, which divide the cores:

python recipes/compare.py --data digits --jobs 2
"""

import sys

from ssl_transfer.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
