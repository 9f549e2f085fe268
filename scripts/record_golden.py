"""Record the golden loss curves again: `python scripts/record_golden.py [NAME...]`, by default all of them.

tests/invariants/training/test_golden.py compares every method and objective with its recorded curve. A curve that moves
changes the results of all users: a new recording needs a reason in its commit message. Curves that moved are printed.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1] / "tests" / "invariants"


def main() -> None:
    """Train each for a few steps and write its losses."""
    sys.path.insert(0, str(TESTS))
    import trainings

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(trainings.NAMES))
    names = parser.parse_args().names or trainings.NAMES
    if unknown := set(names) - set(trainings.NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: one of {', '.join(trainings.NAMES)}")
    torch.set_num_threads(1)
    runtime, dataset = trainings.start(), trainings.digits()
    for name in names:
        path = TESTS / "training" / "golden" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text()) if path.is_file() else {}
        kinds = [kind for case, kind in trainings.CASES if case == name]
        curves = {kind: trainings.training(name, kind, dataset, runtime)[0] for kind in kinds}
        path.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {'as before' if curves == before else 'moved' if before else 'new'}")


if __name__ == "__main__":
    main()
