"""List `medmnist:NAME`: MedMNIST v2 (Yang et al. 2023), as pathmnist, or pathmnist_64 for 64 pixels a side.

The file NAME.npz, as on Zenodo, lies in `--loading.downloads`. MedMNIST's library provides its address, its checksum
and the classes.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.content_key import fixed
from ssl_transfer.data.store.listing import Listing
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded

from .download import alone
from .joined_parts import Part, join
from .optional import need

_PARTS = {"train": "train", "val": "validation", "test": "test"}


def read(rest: str, config: LoadingConfig) -> Listing:
    """List one of MedMNIST's data sets of flat images with one label each, in its official parts.

    Raises:
        InputError: an unknown name; several labels an image; volumes; no such file, or not the expected one.
    """
    source = f"medmnist:{rest}"
    need("medmnist", extra="medmnist", source=source)
    from medmnist import INFO

    name, _, size = rest.lower().partition("_")
    if name not in INFO:
        raise InputError(f"--data {source}: not of MedMNIST; there are {', '.join(INFO)}.{did_you_mean(name, INFO)}")
    info = INFO[name]
    _refuse_others(source, info)
    suffix = "" if size in ("", "28") else f"_{size}"
    if f"url{suffix}" not in info:
        sizes = [key.removeprefix("url_") for key in info if key.startswith("url_")]
        raise InputError(
            f"--data {source}: {name} has 28 pixels a side, or {', '.join(sizes)} as in {name}_{sizes[0]}."
        )
    file = expanded(config.downloads, flag="--loading.downloads") / f"{name}{suffix}.npz"
    if config.download:
        _fetch(source, file, info[f"url{suffix}"], info[f"MD5{suffix}"])
    elif not file.is_file():
        raise InputError(
            f"--data {source}: there is no {file}. Place it there (from {info[f'url{suffix}']}; --loading.downloads), "
            "or fetch it with --loading.download."
        )
    classes = tuple(info["label"][str(number)] for number in range(len(info["label"])))
    return join(_parts(source, file, len(classes)), classes=classes, source=source)


def _refuse_others(source: str, info: dict[str, Any]) -> None:
    if "multi-label" in info["task"]:
        raise InputError(
            f"--data {source}: its images have several labels each ({info['task']}), and one is what is read here. Its "
            "images alone can serve for pretraining as folder:PATH with an unlabeled/."
        )
    if "3d" in info["python_class"].lower():
        raise InputError(f"--data {source}: volumes, and flat images are what is read here.")


def _fetch(source: str, file: Path, url: str, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    try:
        with alone(file.parent, file.stem):
            if not file.is_file():
                # Complete or absent: a file that was cut short would be read the next time.
                aside = file.with_suffix(".partial")
                download_url(url, str(aside.parent), filename=aside.name, md5=md5)
                aside.replace(file)
    except Exception as error:  # The network fails in many ways; each is named to the user.
        raise InputError(
            f"--data {source}: could not be fetched ({type(error).__name__}: {error}). Place {url} by hand as {file}."
        ) from error


def _parts(source: str, file: Path, num_classes: int) -> list[Part]:
    with open(file, "rb") as content:
        key = hashlib.file_digest(content, "sha256").hexdigest()
    parts = []
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for theirs, ours in _PARTS.items():
                images, labels = arrays[f"{theirs}_images"], arrays[f"{theirs}_labels"].reshape(-1)
                if len(images) != len(labels) or labels.min() < 0 or labels.max() >= num_classes:
                    raise InputError(
                        f"--data {source}: {theirs} of {file} has {len(images)} images and {len(labels)} labels of "
                        f"{labels.min()} to {labels.max()}; expected one each, 0 to {num_classes - 1}."
                    )
                parts.append(Part(name=ours, items=images, labels=labels, key=fixed(key)))
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--data {source}: {file} is not a file of MedMNIST ({error}). Fetch it again.") from error
    return parts
