"""Evaluate the backbone of a run by kNN, a linear probe and, where there is one, its own head.

python recipes/evaluate.py runs/mine --data digits
python recipes/evaluate.py runs/mine --data folder:images/mine --split test --corruptions --output runs/mine-evaluated
"""

import sys

from ssl_transfer.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
