"""`benchmark.py head`: phases behind a frozen boundary, with features computed once against computed in each epoch."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_transfer.data.dataset import PARTS, Dataset
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.heads import make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig
from ssl_transfer.stages.transfer import feature_cache
from ssl_transfer.stages.transfer.phases import Training, run_phase
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

IMAGES, SIZE, EPOCHS, BATCH = 1024, 160, 10, 64
BARS = {"feature-extraction": 8.0, "partial": 1.4}
"""By plan; of each its last phase is measured."""


def photographs(count: int) -> Dataset:
    """Crops of the two photographs that scikit-learn ships, one class each, stored at 8/7 of the size."""
    from sklearn.datasets import load_sample_images

    generator, side = np.random.default_rng(0), round(SIZE * 8 / 7)
    sources = load_sample_images().images
    crops = []
    for index in range(count):
        top, left = (int(generator.integers(0, length - side)) for length in sources[0].shape[:2])
        crops.append(sources[index % 2][top : top + side, left : left + side])
    everything = torch.arange(count)
    splits = {"train": everything[:-BATCH], "validation": everything[-BATCH:]}
    return Dataset(
        source="photographs",
        pixels=torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous(),
        labels=everything % 2,
        names=[str(index) for index in range(count)],
        classes=("flower", "temple"),
        splits={part: splits.get(part, everything[:0]) for part in PARTS},
        fingerprint="",
    )


def figures(device: torch.device) -> Iterator[dict[str, Any]]:
    """One figure for each plan."""
    runtime = runtimes.start()
    dataset = photographs(IMAGES + BATCH)
    for plan, bar in BARS.items():
        seconds: dict[str, float] = {}
        states: dict[str, dict[str, torch.Tensor]] = {}
        # The best of three turns of each: other work makes times longer, never shorter.
        for side in ("once", "live") * 3:
            took, states[side] = _phase(plan, side == "once", dataset, runtime)
            seconds[side] = min(took, seconds.get(side, float("inf")))
        yield {
            "name": f"head, {plan}, mobilenetv3_small_100 at {SIZE} px, {EPOCHS} epochs of {IMAGES} images",
            "ratio": round(seconds["live"] / seconds["once"], 2),
            "bar": bar,
            "ours": round(seconds["once"], 3),
            "theirs": round(seconds["live"], 3),
            "unit": "seconds; theirs is our live path",
            "same_bits": all(torch.equal(states["once"][name], states["live"][name]) for name in states["once"]),
            "device": str(device),
        }


def _phase(plan: str, once: bool, dataset: Dataset, runtime: runtimes.Runtime) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds of a plan's last phase, and the weights that it ends with."""
    recipe = TransferRecipe(
        plan=(plan,),
        frozen_views=0,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        epochs=EPOCHS,
        head_steps=1,
        finetune_steps=1,
        batch_size=BATCH,
    )
    spec = backbones.make_spec(
        backbones.BackboneConfig(name="mobilenetv3_small_100"),
        in_chans=3,
        image_size=SIZE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    backbone = pretrained.scratch(spec, seed=0)
    torch.manual_seed(0)
    head = make_head(recipe.head, backbone, 2)
    objective = Supervised(backbone, head, SupervisedConfig(augment=recipe.augment), num_classes=2).to(runtime.device)
    most, feature_cache.MOST_BYTES = feature_cache.MOST_BYTES, feature_cache.MOST_BYTES if once else 0
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            RunFolder(Path(scratch) / "run", {}, runtime, identity={}, fresh=False) as folder,
        ):
            training = Training(
                objective=objective,
                recipe=recipe,
                dataset=dataset,
                labelled=dataset.splits["train"],
                validation=dataset.splits["validation"],
                batch_size=BATCH,
                seed=0,
                runtime=runtime,
                quiet=True,
            )
            tracker = Tracker(
                folder.metrics, TrackingConfig(), runtime, settings={}, group="benchmark", job_type="benchmark"
            )
            phase = recipe.phases(steps_per_epoch=IMAGES // BATCH)[-1]
            started = time.perf_counter()
            run_phase(training, phase, seed=0, tracker=tracker, metrics=folder.metrics, state=None)
            took = time.perf_counter() - started
    finally:
        feature_cache.MOST_BYTES = most
    return took, {name: value.clone() for name, value in objective.state_dict().items()}
