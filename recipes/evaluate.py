"""Print the kNN accuracy of a backbone's features, as they are.

python recipes/evaluate.py runs/mine --data digits
python recipes/evaluate.py runs/mine --data folder:images/mine --split test
"""

import sys

from ssl_transfer.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
