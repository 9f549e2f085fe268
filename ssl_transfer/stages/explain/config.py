"""Configure `explain` and resolve the settings for the given runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from ssl_transfer.data import sources
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.runs.run_folder import check_free
from ssl_transfer.evaluation.predictions import grad_cam
from ssl_transfer.evaluation.predictions.attack_table import RunName
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.run_config import check_positive

from .subject import MOST_IMAGES

What = Literal["maps", "grad-cam", "neighbours", "ideal", "attacks", "all"]
PARTS: tuple[What, ...] = ("maps", "grad-cam", "neighbours", "ideal", "attacks")
NEED_A_HEAD = ("grad-cam", "ideal", "attacks")
PHOTOGRAPHS, DIGITS = ("2/255", "4/255", "8/255"), ("0.05", "0.1", "0.2")
"""Default epsilons. Digits are black and white, and need larger ones."""
_SEED = re.compile(r"[-_/ ]*seed[-_]?(\d+)$")
"""Seed at the end of a run's path."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Explain the network of a run: maps, Grad-CAM, nearest neighbours, ideal images, adversarial examples.

    Several runs are shown side by side. Runs whose folders differ only in a seed at the end of their names (mine/seed0,
    mine/seed1) are one arm of the table of attacks.
    """

    runs: Annotated[tuple[str, ...], *configuration.positional("RUN...")] = ()
    """Folders of runs: transfer, adapt or distill; of pretrain for maps and neighbours."""
    what: tuple[What, ...] = ("all",)
    """maps, grad-cam, neighbours, ideal, attacks. all omits those that need a head where a run has none, and Grad-CAM
    where captum is not installed."""
    data: str = ""
    """The images. Default: those of the first run, read and split in the same way."""
    images: tuple[str, ...] = ()
    """Images to look at: files, folders of them, or any other input of `predict`. Default: some images of --data.
    Attacks are always measured on --data."""
    split: Literal["validation", "test"] = "test"
    """Part of --data to look at and to attack."""
    num_images: int = 6
    """Number of images of --data to look at, evenly spaced over the classes."""
    blocks: tuple[str, ...] = ()
    """Blocks whose maps are drawn: names as `ssl-transfer summary RUN` lists them. Grad-CAM takes the last of them.
    Default: maps of four over the depth, Grad-CAM of the last one."""
    channels: int = 6
    """Channels of each block to draw; those that vary most are chosen."""
    neighbours: int = 5
    """Number of training images beside each image."""
    steps: int = 300
    """Steps of the optimisation of ideal images."""
    tv: float = 0.05
    """Weight of an ideal image's total variation, a sum over its places: more is smoother."""
    epsilons: tuple[str, ...] = ()
    """Largest changes of a pixel by an attack, in units of 0..1: 8/255 or 0.03. Default: 2/255 4/255 8/255; on the
    digits 0.05 0.1 0.2."""
    pgd_steps: int = 20
    """Steps of PGD."""
    target: str = ""
    """Class of targeted attacks. Default: for each image the class of lowest score."""
    attack_images: int = 1000
    """Largest number of images to attack, evenly spaced over the classes."""
    seed: int = 0
    """Seed of the ideal images and of PGD's start."""
    output: Path | None = None
    """Folder for the results. Default: runs/explain- and the run's name."""
    loading: sources.LoadingConfig = field(default_factory=sources.LoadingConfig)
    """Settings for reading and splitting --data."""


def parts_of(what: Sequence[What], run: Run) -> list[What]:
    """List the explanations that a run supports.

    Raises:
        InputError: one was requested by name and needs a head, which the run does not have, or a missing library.
    """
    headless = not run.has_head
    asked = [part for part in PARTS if part in what]
    if headless and set(asked) & set(NEED_A_HEAD):
        raise InputError(
            f"--what {' '.join(part for part in asked if part in NEED_A_HEAD)}: {run.path} holds no classifier, only a "
            "backbone, of which maps and neighbours are shown. Give a run of transfer, adapt or distill."
        )
    if "grad-cam" in asked and not grad_cam.is_installed():
        raise InputError(f"--what {grad_cam.NEEDS}")
    if "all" not in what:
        return asked
    shown = [part for part in PARTS if not (headless and part in NEED_A_HEAD)]
    return [part for part in shown if part != "grad-cam" or grad_cam.is_installed()]


def names_of(runs: Sequence[str]) -> list[RunName]:
    """Name runs by their paths without the common folders; paths that differ in their seed are one arm."""
    parts = [Path(run).resolve().parts for run in runs]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    # A seed alone is no name.
    while shared and any(_SEED.fullmatch("/".join(one[shared:])) for one in parts):
        shared -= 1
    return [_named("/".join(one[shared:])) for one in parts]


def _named(path: str) -> RunName:
    """Split a path such as scratch/seed3 into arm and seed; without a seed in its last part the seed is 0."""
    found = _SEED.search(path)
    return RunName(name=path, arm=_SEED.sub("", path), seed=int(found[1]) if found else 0)


def check(config: ExplainConfig) -> list[float]:
    """Refuse impossible settings before any computation; return the epsilons, sorted from the least."""
    if not config.runs:
        raise InputError("Which run? Give its folder, as in `ssl-transfer explain runs/NAME`.")
    if len(set(map(Path, config.runs))) < len(config.runs):
        raise InputError("A run stands there twice. Give each once.")
    check_positive(
        num_images=config.num_images,
        channels=config.channels,
        neighbours=config.neighbours,
        steps=config.steps,
        pgd_steps=config.pgd_steps,
        attack_images=config.attack_images,
    )
    if config.num_images > MOST_IMAGES:
        raise InputError(f"--num-images {config.num_images}: at most {MOST_IMAGES}.")
    if config.tv < 0:
        raise InputError(f"--tv {config.tv}: 0 or more.")
    if config.output is not None:
        check_free(config.output)
    given = config.epsilons or (DIGITS if config.data == "digits" else PHOTOGRAPHS)
    try:
        epsilons = sorted({float(Fraction(text)) for text in given})
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"--epsilons {' '.join(given)}: numbers such as 8/255 or 0.03.") from error
    if not 0.0 < epsilons[0] <= epsilons[-1] <= 1.0:
        raise InputError(f"--epsilons {' '.join(given)}: above 0 and at most 1, as pixels are 0..1.")
    return epsilons
