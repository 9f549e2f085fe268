"""Load a `Dataset` from a DATA string; the name before its colon selects a module of this folder."""

from collections.abc import Callable
from pathlib import Path

from ssl_transfer.data import domains
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.split import assemble
from ssl_transfer.data.store import cache
from ssl_transfer.data.store.columns import Stored
from ssl_transfer.data.store.image_files import SUFFIXES
from ssl_transfer.data.store.listing import Listing
from ssl_transfer.engine.errors import InputError, did_you_mean

from . import arrays, blend, digits, folder, huggingface, medmnist_sets, table, torchvision_sets

__all__ = ["SOURCES", "SUFFIXES", "Dataset", "LoadingConfig", "load", "read"]

SOURCES = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8 x 8 grey, shipped with it",
    "folder:PATH": f"{folder.FORM}; or PATH a table (.csv, .parquet) of path and label",
    "npz:FILE": "arrays, or encoded bytes, in numpy's format",
    "torchvision:NAME": "CIFAR10, STL10, EuroSAT, Flowers102 and others, through torchvision",
    "hf:REPO": "a data set of the Hugging Face hub, or a folder in a form that its library reads",
    "medmnist:NAME": "pathmnist, bloodmnist_64 and others of MedMNIST",
    "blended-digits": "these digits over crops of photographs that scikit-image ships, divided as digits is",
    "blend:DATA,PHOTOFOLDER": "DATA over crops of a folder's photographs, as MNIST-M was made of MNIST",
    "union:DATA,DATA": "the first data set, with the second's images in the pool for pretraining",
}
MADE = ("blended-digits", "blend", "union")
"""Sources that are built from other data sets."""


def load(source: str, *, image_size: int, config: LoadingConfig) -> Dataset:
    """Load the images behind a DATA string.

    Args:
        source: see `SOURCES`.
        image_size: pixels a side of the model's input; photographs are stored a little larger, for crops.
        config: how to read, store and split.

    Raises:
        InputError: an unknown source; one that is missing, empty or has one class; too many unreadable images; copies
            in several parts.
    """
    if source.partition(":")[0] in MADE:
        return _made(source, image_size=image_size, config=config)
    listing, stored = read(source, image_size=image_size, config=config)
    return assemble.assemble(listing, stored, source=source, config=config)


def read(source: str, *, image_size: int, config: LoadingConfig) -> tuple[Listing, Stored]:
    """List a source and store its readable images, before they are split into parts."""
    if image_size < 8:
        raise InputError(f"--image-size {image_size}: at least 8 pixels.")
    if config.streaming:
        raise InputError(
            "--loading.streaming is for `pretrain` on hf:REPO: a stream has no splits and no image can be looked up, "
            "which comparing, transfer, evaluating and checking need. Leave it out."
        )
    kind, rest = _parsed(source)
    if kind in MADE:
        raise InputError(f"--data {source}: is made of other data, which has the files. Give that instead.")
    if kind == "digits":
        return digits.read()
    listing = LISTERS[kind](rest, config)
    stored = cache.store(
        listing.items, listing.names, key=listing.key, source=source, image_size=image_size, config=config
    )
    return listing, stored


def _parsed(source: str) -> tuple[str, str]:
    """Split a source into its kind and the text after its colon."""
    kind, colon, rest = source.partition(":")
    forms = {form.partition(":")[0]: form for form in SOURCES}
    if kind not in forms or (colon and forms[kind] == kind):
        form = "npz" if source.endswith(".npz") else "folder"
        hint = f" Write {form}:{source}." if Path(source).exists() else did_you_mean(kind, forms)
        raise InputError(f"--data {source}: not a known source; there are {', '.join(SOURCES)}.{hint}")
    if not rest and forms[kind] != kind:
        raise InputError(f"--data {source}: needs more, as in {forms[kind]}: {SOURCES[forms[kind]]}.")
    return kind, rest


def _made(source: str, *, image_size: int, config: LoadingConfig) -> Dataset:
    """Load a data set that is built from others."""
    kind, rest = _parsed(source)
    # A second data set may contain a comma; a folder of photographs is last.
    first, comma, second = rest.partition(",") if kind == "union" else rest.rpartition(",")
    if kind != "blended-digits" and not (first and comma and second):
        form = next(form for form in SOURCES if form.startswith(f"{kind}:"))
        raise InputError(f"--data {source}: two with a comma between them, as in {form}: {SOURCES[form]}.")
    base = load("digits" if kind == "blended-digits" else first, image_size=image_size, config=config)
    if kind == "union":
        return domains.pooled(base, load(second, image_size=image_size, config=config), source=source)
    side, seed = max(image_size, *base.pixels.shape[2:]), config.split_seed
    if kind == "blended-digits":
        photographs = blend.embedded(side)
    else:
        photographs = blend.of_folder(Path(second), side, seed=seed, source=source)
    return blend.blend(base, photographs, side=side, seed=seed, source=source)


def _folder(rest: str, _: LoadingConfig) -> Listing:
    return table.read(Path(rest)) if rest.lower().endswith(table.SUFFIXES) else folder.read(Path(rest))


def _npz(rest: str, _: LoadingConfig) -> Listing:
    return arrays.read(Path(rest))


LISTERS: dict[str, Callable[[str, LoadingConfig], Listing]] = {
    "folder": _folder,
    "npz": _npz,
    "torchvision": torchvision_sets.read,
    "hf": huggingface.read,
    "medmnist": medmnist_sets.read,
}
"""Functions that list a source, given the text after its colon."""
