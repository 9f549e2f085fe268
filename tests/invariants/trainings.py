"""A short training of every method and objective: for test_world_sizes.py and the golden curves.

`trainings.py FOLDER 2 4` trains with two processes and then with four, which write what they have into the folder.
Eight images of the digits a step, whatever the number of processes, through the loop itself.

Everything behind the augmentation is float64, and the steps are plain (SGD). BatchNorm over eight images makes a
difference of 1e-7 to one of 1e-3 within five steps, and Adam divides by the gradient's own size, which makes much of
rounding where a gradient is nothing else: in float64 what differs is mathematics.
"""

import contextlib
import dataclasses
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.loaders.two_domains import Domain, DomainLoader
from ssl_transfer.data.sources import LoadingConfig, load
from ssl_transfer.data.transforms.augment import SUPERVISED_DEFAULT
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.distributed.runtime import Runtime, start
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.objective import Batches, Objective
from ssl_transfer.engine.training.training_settings import Saving, TrainingPlan
from ssl_transfer.evaluation.features.extract import extract, over_samples
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.features.linear_probe import linear_probe
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.distillation import Distillation, DistillationConfig, Teacher
from ssl_transfer.objectives.domain_adaptation import Adapting
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig

STEPS, BATCH_SIZE, CLASSES = 4, 8, 10
FEW = (1, 2, 3, 5, 7)
KINDS = {
    "convolutional": BackboneConfig(
        name="resnet10t",
        stem="standard",
        arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
    ),
    "transformer": BackboneConfig(
        name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=1", "num_heads=2")
    ),
}
SMALLER: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_width": 32, "output_width": 16},
    "moco": {"hidden_width": 32, "output_width": 16, "queue_size": 24},
    "mocov3": {"hidden_width": 32, "output_width": 16},
    "byol": {"hidden_width": 32, "output_width": 16},
    "simsiam": {"hidden_width": 32, "output_width": 32, "predictor_width": 16},
    "barlow": {"hidden_width": 32, "output_width": 16},
    "vicreg": {"hidden_width": 32, "output_width": 16},
    "dino": {"hidden_width": 32, "bottleneck_width": 16, "output_width": 16, "local_crops": 2, "frozen_steps": 1},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "autoencoder": {"decoder_width": 16},
    # A new head is never sure.
    "self-training": {"confidence": 0.0},
}
TERMS = [name for name, entry in ADAPTATIONS.items() if entry.term is not None]
NAMES = [*METHODS, "supervised", *TERMS, "distillation"]
TRANSFORMERS_ALONE = [name for name, entry in METHODS.items() if entry.backbones == "vit"]
CASES = [(name, kind) for name in NAMES for kind in KINDS if kind == "transformer" or name not in TRANSFORMERS_ALONE]
"""Every method and objective with a backbone that has BatchNorm and one that has none."""
VARIANTS = [("dann separate", "convolutional"), ("supervised frozen", "convolutional"), ("moco", "no norm")]
"""Statistics of each domain apart; statistics that stand still; MoCo, its projector's BatchNorm taken away."""
EXCEPTIONS = {"moco": "its key encoder normalises shuffled groups of each process's own images apart"}
"""Where the mathematics differ with the number of processes, and why."""
COMPARED = [case for case in CASES if case[0] not in EXCEPTIONS] + VARIANTS
ALONE = [("simclr", "convolutional"), ("supervised", "convolutional"), ("mmd", "transformer"), ("dino", "transformer")]
"""Trained once more by processes that exchange gradients and nothing else."""


class Losses:
    """A monitor that writes down every step's loss."""

    every = 1

    def __init__(self) -> None:
        self.found: list[float] = []

    def look(self, _step: int, values: Mapping[str, float]) -> dict[str, float]:
        self.found.append(values["loss"])
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, _state: dict[str, Any]) -> None:
        pass


def digits() -> Dataset:
    """The embedded digits at 16 px."""
    return load("digits", image_size=16, config=LoadingConfig())


def training(
    name: str, kind: str, dataset: Dataset, runtime: Runtime, *, synchronized: bool = True
) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of every step, the mean over processes, and the state that the training ends with."""
    torch.manual_seed(0)
    objective, batches = _made(name, kind, dataset, runtime)
    losses = Losses()
    optimizer = OptimizerConfig(name="sgd", warmup_steps=0, schedule="constant", sync_batch_norm=synchronized)
    with tempfile.TemporaryDirectory() as folder, _double(objective):
        tracker = Tracker(Path(folder) / "log", TrackingConfig(), runtime, settings={}, group="", job_type="")
        train(
            objective,
            parameter_groups(objective, learning_rate=0.01, weight_decay=1e-4),
            batches,
            plan=TrainingPlan(phase=name, epochs=1, seed=0, optimizer=optimizer),
            saving=Saving(tracker=tracker),
            runtime=runtime,
            monitor=losses,
        )
    return losses.found, {key: value.clone() for key, value in objective.state_dict().items()}


def _made(name: str, kind: str, dataset: Dataset, runtime: Runtime) -> tuple[Objective, Batches]:
    plain, _, variant = name.partition(" ")
    backbone = _backbone("transformer" if kind == "no norm" else kind)
    shared = {"seed": 0, "runtime": runtime}
    if plain in METHODS:
        entry = METHODS[plain]
        objective = entry.module(backbone, entry.config(**SMALLER.get(plain, {})))
        pool = dataset.pool[: STEPS * BATCH_SIZE]
        loader = Loader(dataset, pool, batch_size=BATCH_SIZE, labelled=False, **shared)
        return _without_norm(objective) if kind == "no norm" else objective, loader
    labelled = dataset.splits["train"][: STEPS * BATCH_SIZE]
    # The head has a BatchNorm, so that one is in front of a transformer's head too.
    supervised = Supervised(
        backbone,
        make_head(HeadConfig(kind="hidden"), backbone, CLASSES),
        SupervisedConfig(),
        num_classes=CLASSES,
    )
    supervised.set_trained("all", keep_statistics=variant == "frozen")
    if plain in TERMS:
        entry = ADAPTATIONS[plain]
        term = entry.term(supervised, backbone.num_features, CLASSES, entry.config(**SMALLER.get(plain, {})))
        objective = Adapting(supervised, term, norm="separate" if variant == "separate" else "shared")
        objective.begin(adapting=True)
        half = labelled[: STEPS * BATCH_SIZE // 2]
        source, target = Domain(dataset, half), Domain(_inverted(dataset), half.flip(0))
        return objective, DomainLoader(source, target, batch_size=BATCH_SIZE, **shared)
    loader = Loader(dataset, labelled, batch_size=BATCH_SIZE, labelled=True, **shared)
    if plain == "supervised":
        return supervised, loader
    taught = _backbone(kind, seed=1)
    head = make_head(HeadConfig(), taught, CLASSES)
    nn.init.normal_(head.layers[-1].weight)
    teacher = Teacher(Classifier(taught.eval(), head.eval(), torch.arange(CLASSES)), augment=SUPERVISED_DEFAULT)
    config = DistillationConfig(temperature=2.0, alpha=0.5, hint=1.0, similarity=1.0)
    return Distillation(supervised, teacher, config), loader


def _backbone(kind: str, *, seed: int = 0) -> Backbone:
    spec = backbones.make_spec(KINDS[kind], in_chans=1, image_size=16, mean=(0.5,), std=(0.25,))
    backbone = pretrained.scratch(spec, seed=seed)
    backbone.register_forward_pre_hook(lambda _, images: images[0].double())
    return backbone


@contextlib.contextmanager
def _double(objective: Objective) -> Iterator[None]:
    """The objective in float64, in which for the `with` block `.float()` is done too."""
    objective.double()
    if isinstance(objective, Distillation):
        classifier = objective.teacher.classifier
        classifier.backbone.double()
        classifier.head.double()
    plain = Tensor.float
    Tensor.float = Tensor.double
    try:
        yield
    finally:
        Tensor.float = plain


def _inverted(dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, pixels=255 - dataset.pixels // 2, fingerprint="inverted", moments=None)


def _without_norm(objective: Objective) -> Objective:
    """LayerNorm, of each image by itself, in the place of BatchNorm; a momentum encoder's stays frozen."""
    for parent in list(objective.modules()):
        for key, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                norm = nn.LayerNorm(child.num_features)
                setattr(parent, key, norm.requires_grad_(all(one.requires_grad for one in parent.parameters())))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules())
    return objective


def measured(dataset: Dataset, runtime: Runtime) -> dict[int, dict[str, Any]]:
    """Of a few images, fewer than there are processes too: which an evaluation counts, and what it makes of them."""
    backbone = _backbone("convolutional").double().eval()
    validation = dataset.splits["validation"][:50]
    shown = extract(backbone, dataset, validation, runtime)
    found = {}
    for count in FEW:
        indices, counted = dataset.splits["train"][:count], list[int]()

        def note(images: Tensor, samples: Tensor, counted: list[int] = counted) -> Tensor:
            counted.extend(samples.tolist())
            return images

        over_samples(note, dataset, indices, runtime, "noting")
        features, labels = extract(backbone, dataset, indices, runtime), dataset.labels
        row = {"counted": counted, "features": features}
        row["knn"] = knn_accuracy(features, labels[indices], shown, labels[validation])
        try:
            probe = linear_probe(features, labels[indices], shown, labels[validation], num_classes=CLASSES)
            row["probe"] = probe.validation_accuracy
        except InputError as error:
            row["probe"] = str(error)
        found[count] = row
    return found


def one_rank(rank: int, count: int, port: int, folder: Path) -> None:
    """Train everything in one of `count` processes, and write FOLDER/world<count>-rank<n>.pt."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
    runtime, dataset = start(), digits()
    held = {f"{name}, {kind}": training(name, kind, dataset, runtime) for name, kind in COMPARED}
    torch.save(measured(dataset, runtime), folder / f"few{count}-rank{rank}.pt")
    # From here on nothing is gathered.
    collectives.num_processes = lambda: 1
    for name, kind in ALONE if count == 2 else []:
        held[f"{name}, {kind}, alone"] = training(name, kind, dataset, runtime, synchronized=False)
    torch.save(held, folder / f"world{count}-rank{rank}.pt")
    runtime.wait()


def main() -> None:
    torch.set_num_threads(1)
    for count in map(int, sys.argv[2:]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Forked: what is imported by now is imported once.
        start_processes(one_rank, (count, port, Path(sys.argv[1])), nprocs=count, start_method="fork")


if __name__ == "__main__":
    main()
