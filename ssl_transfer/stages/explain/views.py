"""Draw explanations of one model: its maps, Grad-CAM, nearest neighbours, the ideal image of each class.

Each function writes a table and figures into a folder and returns the page's section.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.atomic import write_atomically
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.knn import nearest
from ssl_transfer.evaluation.predictions.activation_maximization import ideal_images
from ssl_transfer.evaluation.predictions.attacks import scores_of
from ssl_transfer.evaluation.predictions.grad_cam import grad_cam
from ssl_transfer.evaluation.predictions.spatial_maps import SpatialBlock, maps_of, principal, spatial_blocks, strongest
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.reports.evaluation import write_picture
from ssl_transfer.reports.evaluation_figures import shown_name
from ssl_transfer.reports.image_grid import picture

from .grids import Cell, bands_note, channel_cell, grid, marked, pixels_of, short_name
from .page import Section
from .subject import Subject, views_of

DEFAULT_BLOCKS = 4
"""Number of blocks, evenly spaced over the depth, including the first and the last."""


def feature_maps(subject: Subject, folder: Path, *, names: Sequence[str], channels: int) -> Section:
    """Draw each image's maps, by principal components and channel by channel."""
    blocks = chosen_blocks(spatial_blocks(subject.backbone), names)
    shown, found = subject.shown, maps_of(subject.backbone, blocks, subject.shown.views)
    best = [strongest(maps, channels) for maps in found]
    colours = [principal(maps) for maps in found]
    lines, pictures = [], []
    for image, name in enumerate(shown.names):
        rows: list[tuple[str, list[Cell | None]]] = []
        for number, (block, maps) in enumerate(zip(blocks, found, strict=True)):
            own = maps[image, best[number]]
            cells: list[Cell | None] = [Cell(pixels=pixels_of(shown.views[image]), caption="image")]
            cells = cells if number == 0 else [None]
            cells.append(Cell(pixels=colours[number][image].numpy(), caption="components 1-3"))
            for channel, values in zip(best[number].tolist(), own, strict=True):
                cells.append(channel_cell(channel, values))
                lines.append((name, block.name, channel, *(float(x) for x in (values.mean(), values.var()))))
            rows.append((f"{block.name}\n{' x '.join(map(str, maps.shape[1:]))}", cells))
        drawn = grid(f"maps of {subject.name}: {_titled(subject, image)}", rows)
        write_picture(folder / "maps" / f"{image + 1:03}.png", drawn)
        pictures.append((f"Maps of {name}", drawn))
    write_tables.write_readable_lines(folder / "maps.csv", ("image", "block", "channel", "mean", "variance"), lines)
    sentences = (
        "For each block the principal components of its maps, fitted over all places of all these images: the first "
        "three as red, green and blue, so that one colour means the same in every image. Beside them the channels that "
        "vary most over all images, each from its own least to its own largest value, or grey where it has but one. Of "
        "a transformer the tokens of the patches are the places.",
        bands_note(shown.views.shape[1]),
    )
    return Section(title=f"Feature maps of {subject.name}", sentences=_said(sentences), pictures=tuple(pictures))


def chosen_blocks(blocks: Sequence[SpatialBlock], names: Sequence[str]) -> tuple[SpatialBlock, ...]:
    """Select blocks by name; without names a few over the depth.

    Raises:
        InputError: no spatial block has this name.
    """
    known = {block.name: block for block in blocks}
    for name in names:
        if name not in known:
            raise InputError(
                f"--blocks {name}: the blocks with places are {', '.join(known)}.{did_you_mean(name, known)}"
            )
    if names:
        return tuple(block for block in blocks if block.name in names)
    count = min(DEFAULT_BLOCKS, len(blocks))
    return tuple(blocks[round(place)] for place in torch.linspace(0, len(blocks) - 1, count).tolist())


def class_activation(subject: Subject, classifier: Classifier, folder: Path, *, names: Sequence[str]) -> Section:
    """Draw Grad-CAM of the predicted class, and of the true one or else the next; of these blocks or of the last."""
    shown, classes = subject.shown, [shown_name(name) for name in subject.classes]
    with torch.no_grad():
        probabilities = classifier.scores(classifier.features(shown.views)).softmax(dim=1)
    order = probabilities.argsort(dim=1, descending=True).cpu()
    said, second = order[:, 0], order[:, 1]
    labels = torch.tensor(shown.labels)
    is_wrong = (labels >= 0) & (labels != said)
    second = torch.where(is_wrong, labels, second)
    device = shown.views.device
    blocks = spatial_blocks(subject.backbone)
    blocks = chosen_blocks(blocks, names) if names else blocks
    of_said = grad_cam(classifier, blocks, shown.views, said.to(device))
    of_second = grad_cam(classifier, blocks, shown.views, second.to(device))
    rows, lines = [], []
    for image, name in enumerate(shown.names):
        pixels = pixels_of(shown.views[image])
        share = [float(probabilities[image, place]) for place in (said[image], second[image])]
        caption, colour = f"says {classes[said[image]]}, {share[0]:.0%}", Cell(pixels=pixels).colour
        if labels[image] >= 0:
            caption, colour = marked(not bool(is_wrong[image]), caption)
        speaks, nothing = bool(of_second.weights[image].any()), "\n(nothing spoke for it)"
        which = "true class" if is_wrong[image] else "next"
        cells = [
            Cell(pixels=pixels, caption="image"),
            Cell(pixels=pixels, caption=caption, colour=colour, overlay=of_said.weights[image].numpy()),
            Cell(
                pixels=pixels,
                caption=f"{which}: {classes[second[image]]}, {share[1]:.0%}{'' if speaks else nothing}",
                overlay=of_second.weights[image].numpy(),
            ),
        ]
        rows.append((f"true class\n{classes[labels[image]]}" if labels[image] >= 0 else short_name(name), cells))
        for role, which_class, value, found in (
            ("said", said[image], share[0], of_said),
            ("true" if is_wrong[image] else "next", second[image], share[1], of_second),
        ):
            at = divmod(int(found.weights[image].argmax()), found.weights.shape[2])
            truth = subject.classes[labels[image]] if labels[image] >= 0 else ""
            lines.append((name, truth, role, subject.classes[int(which_class)], value, found.block, *at))
    drawn = grid(f"Grad-CAM of {subject.name}, block {of_said.block}", rows)
    write_picture(folder / "grad_cam.png", drawn)
    columns = ("image", "true_class", "role", "class", "probability", "block", "peak_row", "peak_column")
    write_tables.write_readable_lines(folder / "grad_cam.csv", columns, lines)
    places = " x ".join(map(str, of_said.grid))
    sentences = (
        f"What spoke for a class (Selvaraju et al. 2017), from {places} places of block {of_said.block}, enlarged: "
        "each image has its own scale, so strengths are not compared between images. It shows where the score depends "
        "on the image, not that the reason is a good one.",
        bands_note(shown.views.shape[1]),
    )
    return Section(
        title=f"Grad-CAM of {subject.name}", sentences=_said(sentences), pictures=(("Grad-CAM of the images", drawn),)
    )


def neighbours(subject: Subject, folder: Path, runtime: Runtime, *, count: int) -> Section:
    """Draw the training images with the nearest features, for each image."""
    dataset, shown = subject.dataset, subject.shown
    if dataset is None or not len(dataset.splits["train"]):
        raise InputError("--what neighbours: --data has no labelled training images to look among.")
    known = dataset.splits["train"]
    with torch.no_grad():
        queries = subject.backbone(shown.views).float().cpu()
    cosines, positions = nearest(extract(subject.backbone, dataset, known, runtime), queries, count)
    rows, lines, hits, asked = [], [], 0, 0
    for image, name in enumerate(shown.names):
        found, label = known[positions[image]], shown.labels[image]
        views = views_of(dataset, found, subject.backbone.spec, torch.device("cpu"))
        caption = f"query: {shown_name(dataset.classes[label])}" if label >= 0 else "query"
        cells: list[Cell | None] = [Cell(pixels=pixels_of(shown.views[image]), caption=caption)]
        for rank, (index, cosine, view) in enumerate(zip(found.tolist(), cosines[image].tolist(), views, strict=True)):
            own = int(dataset.labels[index])
            words, colour = (
                f"{shown_name(dataset.classes[own])}\ncosine {cosine:.3f}",
                Cell(pixels=pixels_of(view)).colour,
            )
            if label >= 0:
                words, colour = marked(own == label, words)
                hits, asked = hits + (own == label), asked + 1
            cells.append(Cell(pixels=pixels_of(view), caption=words, colour=colour))
            truth = dataset.classes[label] if label >= 0 else ""
            lines.append((name, truth, rank + 1, str(dataset.names[index]), dataset.classes[own], cosine))
        rows.append((short_name(name), cells))
    drawn = grid(f"nearest training images, features of {subject.name}", rows)
    write_picture(folder / "neighbours.png", drawn)
    columns = ("image", "true_class", "rank", "neighbour", "class", "cosine")
    write_tables.write_readable_lines(folder / "neighbours.csv", columns, lines)
    sentences = (
        "Training images whose features have the largest cosine with an image's; a tick in green says that they are of "
        "the same class, a cross in orange that they are not.",
        f"Of these neighbours {hits} of {asked} are of the image's class." if asked else "",
        bands_note(shown.views.shape[1]),
    )
    return Section(
        title=f"Nearest neighbours, {subject.name}", sentences=_said(sentences), pictures=(("Neighbours", drawn),)
    )


def ideals(
    subject: Subject,
    classifier: Classifier,
    folder: Path,
    *,
    classes: Sequence[int],
    steps: int,
    variation_weight: float,
    seed: int,
) -> Section:
    """Draw the image that maximises each class's score."""
    spec = subject.backbone.spec
    found = ideal_images(
        scores_of(classifier),
        classes,
        shape=(spec.in_chans, spec.image_size, spec.image_size),
        device=subject.shown.views.device,
        steps=steps,
        variation_weight=variation_weight,
        seed=seed,
    )
    cells, lines = [], []
    for place, label in enumerate(classes):
        score, share = float(found.scores[place]), float(found.probabilities[place])
        file = folder / "ideal" / f"{label}.png"
        write_atomically(file, functools.partial(picture(found.images[place]).save, format="png"))
        caption = f"{shown_name(subject.classes[label])}\nscore {score:.1f}, {share:.0%}"
        cells.append(Cell(pixels=pixels_of(found.images[place]), caption=caption))
        variation = float(found.variation[place])
        lines.append((subject.classes[label], file.name, float(found.start_scores[place]), score, share, variation))
    columns = min(6, math.ceil(math.sqrt(2 * len(cells))))
    rows = [("", cells[start : start + columns]) for start in range(0, len(cells), columns)]
    drawn = grid(f"ideal images of {subject.name}, {steps} steps, tv {variation_weight:g}", rows)
    write_picture(folder / "ideal.png", drawn)
    header = ("class", "file", "grey_score", "score", "probability", "total_variation")
    write_tables.write_readable_lines(folder / "ideal.csv", header, lines)
    sentences = (
        "For each class an image that was changed, from grey, until the class's score was high (Simonyan et al. 2014) "
        "and neighbouring pixels alike (Mahendran and Vedaldi 2015), with the score and the probability reached. It "
        "shows the features behind the score, not an image of the class: those of an accurate model may look like "
        "nothing.",
        bands_note(spec.in_chans),
    )
    return Section(
        title=f"The ideal image of each class, {subject.name}",
        sentences=_said(sentences),
        pictures=(("The ideal image of each class", drawn),),
    )


def _titled(subject: Subject, image: int) -> str:
    label = subject.shown.labels[image]
    known = f" ({shown_name(subject.classes[label])})" if label >= 0 and subject.classes else ""
    return f"{short_name(subject.shown.names[image])}{known}"


def _said(sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if sentence)
