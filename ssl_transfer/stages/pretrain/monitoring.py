"""Monitor a pretraining: quality of the features, collapse alarm, pictures of views and reconstructions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssl_transfer.data.dataset import UNLABELED, Dataset
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.transforms.augment import augment, evaluation_view
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.randomness import permutation, sample_keys
from ssl_transfer.engine.training.objective import Batch, Objective
from ssl_transfer.evaluation.features.collapse import CollapseAlarm
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.features.representation import representation
from ssl_transfer.methods.base import Method, View
from ssl_transfer.models.backbones import Backbone

MOST_IMAGES = 2048
"""Most images whose features are measured: enough for the rank of 2,048 dimensions, constant work on larger data."""
PAINTED = 8
"""Images in the picture of reconstructions."""
SEED = 0
"""Seed of the monitored images and of their views, equal in all runs."""


def is_labelled(dataset: Dataset) -> bool:
    """Check for labels for kNN accuracy: neighbours among training images, queries from validation."""
    return len(dataset.splits["train"]) > 0 and len(dataset.splits["validation"]) > 0


def held_out(dataset: Dataset) -> Tensor:
    """Return the indices to monitor: validation images, or those of the pool where validation has fewer than two."""
    validation = dataset.splits["validation"]
    return validation if len(validation) > 1 else dataset.pool


def chosen(indices: Tensor) -> Tensor:
    """Choose the positions of at most `MOST_IMAGES` of these images, equal in all runs."""
    return permutation(SEED, 0, len(indices))[:MOST_IMAGES]


def measure(backbone: Backbone, dataset: Dataset, runtime: Runtime) -> dict[str, float]:
    """Measure `knn_accuracy` where there are labels, and `representation` on held-out images.

    The backbone and all random generators keep their state.
    """
    indices = held_out(dataset)
    places = chosen(indices)
    found: dict[str, float] = {}
    if is_labelled(dataset):
        train, validation = dataset.splits["train"], dataset.splits["validation"]
        queries = extract(backbone, dataset, validation, runtime)
        known = extract(backbone, dataset, train, runtime)
        found["knn_accuracy"] = knn_accuracy(known, dataset.labels[train], queries, dataset.labels[validation])
        features = queries[places] if indices is validation else extract(backbone, dataset, indices[places], runtime)
    else:
        features = extract(backbone, dataset, indices[places], runtime)
    return found | representation(backbone, dataset, indices[places], features, runtime)


def alarm(name: str, entry: Method, *, batch_size: int, warmup_steps: int, runtime: Runtime) -> CollapseAlarm:
    """Make the collapse alarm of a method, with its remedies."""
    advice = "a lower --optimizer.learning-rate, a longer --optimizer.warmup-steps or a weaker --optimizer.weight-decay"
    if entry.reconstruct is None:
        advice += ", a larger --batch-size, or a projector and predictor with normalisation (--method. ... in --help)"
    return CollapseAlarm(
        name,
        warmup_steps=warmup_steps,
        equal_loss=entry.equal_loss(batch_size) if entry.equal_loss is not None else None,
        advice=advice,
        warn=runtime.warn,
    )


def draw_views(path: Path, views: Sequence[View], dataset: Dataset, *, size: int, seed: int) -> None:
    """Draw a few images of the pool and their views in the first epoch. Called on rank 0.

    Args:
        path: of the picture.
        views: of the training.
        dataset: images of the run.
        size: pixels a side of the model's input.
        seed: of the run.
    """
    from ssl_transfer.reports import image_grid
    from ssl_transfer.reports.evaluation import write_picture

    indices = dataset.pool[chosen(dataset.pool)[:PAINTED]]
    (images,) = dataset.batches([indices], image_grid.CPU)
    keys = sample_keys(seed, 0, indices)
    columns = [("stored", images)]
    for number, view in enumerate(views):
        side = max(1, round(size * view.side))
        columns.append((f"view {number + 1}", augment(images, keys, view=number, size=side, config=view.augment)))
    rows = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels[indices].tolist()]
    sheet = image_grid.sheet(f"views of {data_label(dataset.source)}", rows, columns, side=max(64, size))
    write_picture(path, image_grid.png(sheet))


def draw_reconstructions(
    path: Path, name: str, entry: Method, module: Objective, backbone: Backbone, dataset: Dataset, runtime: Runtime
) -> None:
    """Draw the reconstructions of a few held-out images; nothing for other methods. Called on rank 0.

    Args:
        path: of the picture.
        name: of the method.
        entry: the method.
        module: of the method, in evaluation mode.
        backbone: that the module trains.
        dataset: images of the run.
        runtime: device of the module.
    """
    if entry.reconstruct is None:
        return
    from ssl_transfer.reports import reconstructions

    indices = held_out(dataset)
    indices = indices[chosen(indices)[:PAINTED]]
    images, labels = next(dataset.batches([indices], runtime.device)), dataset.labels[indices]
    batch = Batch(
        images=images,
        labels=torch.full_like(labels, UNLABELED).to(runtime.device),
        keys=sample_keys(SEED, 0, indices).to(runtime.device),
    )
    with runtime.accelerator.autocast():
        found = entry.reconstruct(module, batch)
    spec = backbone.spec
    view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
    rows = [dataset.classes[label] if label >= 0 else "" for label in labels.tolist()]
    kind = "held-out images" if len(dataset.splits["validation"]) > 1 else "images of the pool"
    title = f"{name} on {data_label(dataset.source)}: {kind}"
    reconstructions.write(path, title, rows, view.cpu(), type(found)(*(part.float().cpu() for part in found)))
