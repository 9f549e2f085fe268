r"""Measure many transfer plans from the same first weights, for "How strong are the baselines?".

    OMP_NUM_THREADS=1 python scripts/measure_plans.py --output measured --arm imagenet --labels 5 20 --seeds 0 1 2 \\
        -- --data folder:PATH --init imagenet --image-size 64

Flags behind `--` are those of `ssl-transfer transfer`. Each run writes one file, `ARM-LABELS-SEED.npz`: for each
plan its logits of the validation and of the test images, its seconds, and the labels. A run whose file exists is left
out, so a stopped measurement goes on. `scripts/plan_tables.py` makes the tables.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ssl_transfer.data import sources
from ssl_transfer.engine.distributed.runtime import start
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import image_size_of, initial_backbone, open_initial_run
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.plan_phases import merged
from ssl_transfer.stages.transfer.plan_training import run_plan
from ssl_transfer.stages.transfer.setup import batch_size_of, fitted, labelled_images, make_training

PORTFOLIO = {
    "head": ("head",),
    "probe": ("probe",),
    "frozen": ("head", "all norm=frozen"),
    "average": ("head", "all norm=frozen", "average"),
    "moving": ("head", "all norm=train"),
    "full-fast": ("all rate=3e-3 decay=1 norm=train",),
}
"""Plans that each run of a comparison may take."""
WIDE = {
    **PORTFOLIO,
    "frozen-flat": ("head", "all decay=1 norm=frozen"),
    "frozen-fast": ("head", "all rate=3e-3 norm=frozen"),
    "frozen-slow": ("head", "all rate=3e-4 norm=frozen"),
    "probe-frozen": ("probe", "all norm=frozen"),
    "probe-average": ("probe", "all norm=frozen", "average"),
    "moving-flat": ("head", "all decay=1 norm=train"),
    "full": ("all rate=1e-3 decay=1 norm=train",),
    "full-faster": ("all rate=1e-2 decay=1 norm=train",),
    "full-long": ("all rate=3e-3 decay=1 norm=train epochs={long}",),
}
"""Plans of the search by hand."""


def measure(config: TransferConfig, plans: dict[str, tuple[str, ...]], path: Path) -> None:
    """Train every plan of a run, and write logits and costs to `path`."""
    runtime = start()
    run = open_initial_run(config)
    size = image_size_of(config, run)
    dataset = sources.load(config.data, image_size=size, config=config.loading)
    backbone, _ = initial_backbone(replace(config, image_size=size), dataset, run)
    dataset = matched(dataset, run, config.loading)
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled = labelled_images(config, dataset)
    batch_size = batch_size_of(config, config.labels, len(labelled.train), 1)
    training = make_training(config, dataset, backbone, head, labelled, batch_size, runtime, quiet=True)
    steps = len(labelled.train) // batch_size
    long = 3 * max(config.epochs, -(-config.finetune_steps // steps))
    phases = merged(
        {
            name: replace(config, plan=tuple(line.format(long=long) for line in lines)).phases(steps)
            for name, lines in plans.items()
        }
    )
    log = path.with_suffix("") / "metrics.jsonl"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    tracker = Tracker(log, TrackingConfig(), runtime, settings={}, group="", job_type="")
    begun = time.monotonic()
    trained = run_plan(training, phases, tracker=tracker, metrics=log, states=None)
    test = dataset.splits["test"]
    found = {}
    for name, state in trained.weights.items():
        training.learner.load_state_dict(state)
        training.objective.eval()
        found[f"validation/{name}"] = training.logits(labelled.validation).numpy()
        found[f"test/{name}"] = training.logits(test).numpy()
    found["validation"] = dataset.labels[labelled.validation].numpy()
    found["test"] = dataset.labels[test].numpy()
    seconds = {name: one["seconds"] for name, one in trained.found.items()}
    found["seconds"] = np.array(json.dumps({**seconds, "all": time.monotonic() - begun}))
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **found)
    part.rename(path)


def main() -> None:
    """Measure the runs that are not yet measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--wide", action="store_true", help="the search by hand instead of the portfolio")
    parser.add_argument("flags", nargs="+")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed in asked.seeds:
        for labels in asked.labels:
            path = asked.output / f"{asked.arm}-{labels}-{seed}.npz"
            if path.exists():
                continue
            flags = [*asked.flags, "--labels", labels, "--seed", str(seed)]
            config = parse_for_images(TransferConfig(), flags, "measure_plans")
            measure(config, WIDE if asked.wide else PORTFOLIO, path)
            print(path, flush=True)


if __name__ == "__main__":
    main()
