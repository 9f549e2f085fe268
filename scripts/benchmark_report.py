"""Measure the time to draw a report of 1,000 finished runs: `scripts/benchmark.py report`."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.features import transferability
from ssl_transfer.reports.comparison import report
from ssl_transfer.stages.compare.diagnostics import CONFUSION_COLUMNS, EMBEDDING_COLUMNS

BAR_SECONDS = 30.0
METHODS = ("simclr", "moco", "mae", "autoencoder", "byol", "dino", "barlow", "vicreg")
ARMS, LABELS, SEEDS = ("scratch", "imagenet", *METHODS), ("2", "5", "20", "100", "all"), range(20)
"""10 x 5 x 20 runs."""
CLASSES = tuple(f"class {number}" for number in range(10))
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error", "top_5_accuracy")
PHASES = ("head", "finetune")
NUM_TEST = 2000
IMAGES = 500
"""Of validation, in each map."""


def figures() -> Iterator[dict[str, Any]]:
    """One figure: `theirs` are the seconds that it may take, `ratio` how many times faster it is."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_comparison(folder)
        start = time.perf_counter()
        report.draw(Results.read(folder))
        seconds = time.perf_counter() - start
    yield {
        "name": "report of 1,000 runs",
        "ratio": round(BAR_SECONDS / seconds, 2),
        "bar": 1.0,
        "ours": round(seconds, 2),
        "theirs": BAR_SECONDS,
        "unit": "seconds",
        "device": "cpu",
    }


def write_comparison(folder: Path) -> None:
    """The tables of a comparison that has finished, with made-up values."""
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    for place, arm in enumerate(ARMS):
        for budget, labels in enumerate(LABELS):
            for seed in SEEDS:
                key = {"arm": arm, "backbone": "resnet18", "labels": labels, "seed": seed}
                level = 0.4 + 0.1 * budget + 0.01 * place + 0.02 * generator.standard_normal()
                rows += _rows(key, level, pretrained=place > 1)
                curves += _curves(key, level, generator)
    cells = [(arm, "resnet18", labels, "chosen", "accuracy") for arm in ARMS for labels in LABELS]
    hits = {cell: {seed: generator.integers(0, 2, NUM_TEST).astype(np.uint8) for seed in SEEDS} for cell in cells}
    write_tables.write(folder, Results(rows, curves=curves, hits=hits))
    confusions = [
        (arm, "resnet18", labels, true, guess, int(generator.integers(1, 400)))
        for arm in ARMS
        for labels in LABELS
        for true in CLASSES
        for guess in CLASSES
    ]
    write_tables.write_lines(folder / "confusions.csv", CONFUSION_COLUMNS, confusions)
    places = generator.uniform(-1.0, 1.0, (len(ARMS), IMAGES, 2))
    maps = [
        (arm, "resnet18", f"image {image}", CLASSES[image % len(CLASSES)], *places[number, image].tolist())
        for number, arm in enumerate(ARMS)
        for image in range(IMAGES)
    ]
    write_tables.write_lines(folder / "embeddings.csv", EMBEDDING_COLUMNS, maps)
    found = [(arm, "resnet18", name, "", 0.5, 500) for arm in ARMS for name in ("distance", "separability")]
    found += [(arm, "resnet18", "similarity", "scratch", 0.5, 500) for arm in ARMS[1:]]
    write_tables.write_lines(folder / "diagnosis.csv", transferability.COLUMNS, found)
    (folder / "comparison.json").write_text(json.dumps(_comparison()), encoding="utf-8")
    environment = {"command": "", "devices": "", "python": "", "packages": {}, "git_commit": ""}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")


def _rows(key: dict[str, Any], level: float, *, pretrained: bool) -> Iterator[Row]:
    for phase in (*PHASES, "chosen"):
        for split in ("validation", "test"):
            for metric in METRICS:
                yield Row(**key, phase=phase, split=split, metric=metric, value=level)
    for phase in PHASES:
        yield Row(**key, phase=phase, split="train", metric="seconds", value=5.0)
    costs = {"pretrain_seconds": 100.0 * pretrained, "transfer_seconds": 10.0, "images_seen": 1e6}
    for metric, value in {**costs, "peak_memory_mb": 900.0, "num_parameters": 1e7}.items():
        yield Row(**key, phase="chosen", split="train", metric=metric, value=value)


def _curves(key: dict[str, Any], level: float, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Ten measurements of validation in each phase, and training after each of fifty epochs, as the stages log them."""
    for phase in PHASES:
        for epoch in range(1, 51):
            place = {**key, "phase": phase, "epoch": epoch, "step": 10 * epoch}
            value = float(np.clip(level * epoch / 50 + 0.01 * generator.standard_normal(), 0.0, 1.0))
            for metric in ("learning_rate", "images_per_second", "loss", "accuracy"):
                yield {**place, "split": "train", "metric": metric, "value": value}
            for metric in METRICS if epoch % 5 == 0 else ():
                yield {**place, "split": "validation", "metric": metric, "value": value}


def _comparison() -> dict[str, Any]:
    counts = {"2": 20, "5": 50, "20": 200, "100": 1000, "all": 5000}
    return {
        "data": "made up",
        "source": "made up",
        "image_size": 32,
        "data_fingerprint": "",
        "classes": list(CLASSES),
        "num_pool": 10000,
        "backbones": {"resnet18": {"stem": "small", "arguments": []}},
        "num_test": NUM_TEST,
        "num_classes": len(CLASSES),
        "labels": list(LABELS),
        "images": {labels: [counts[labels]] * 2 for labels in LABELS},
        "seeds": list(SEEDS),
        "pretrain_seeds": 2,
        "epochs": dict.fromkeys(METHODS, 100),
        "plan": {"finetune_rate": 0.1},
        "settings": {},
        "reconstructions": {},
        "warnings": [],
    }
