"""Choose the stored layout of a data set from its headers, with a note on every conversion."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError

from .decode import Layout
from .image_files import DType, Header

CROP_MARGIN = 8 / 7
"""Ratio of stored size to model input for photographs, as 256 is to 224, so that crops have room."""
_GREYS = {"white": 255, "grey": 127, "black": 0}


def kept(dataset: Dataset) -> dict[str, Any]:
    """Return the layout that a run records, so that other images can be read in the same way."""
    return {
        "channels": dataset.num_channels,
        "dtype": str(dataset.pixels.dtype).removeprefix("torch."),
        "side": dataset.pixels.shape[-1],
        "value_range": list(dataset.value_range),
    }


def as_stored(*, channels: int, dtype: DType, side: int, config: LoadingConfig) -> Layout:
    """Rebuild the layout of a data set from a run's record and its loading settings."""
    shows_background = dtype == "uint8" and channels in (1, 3)
    return Layout(channels, dtype, side, _GREYS[config.background] if shows_background else None)


def agree(
    headers: Sequence[Header], names: Sequence[str], image_size: int, config: LoadingConfig
) -> tuple[Layout, list[str]]:
    """Choose the one layout of all images, and notes on the conversions.

    Raises:
        InputError: images of different depths, or bands besides grey and RGB. They are never converted silently.
    """
    notes: list[str] = []
    dtypes = Counter(one.dtype for one in headers)
    dtype = max(dtypes, key=lambda name: dtypes[name]) if dtypes else "uint8"
    if len(dtypes) > 1:
        strange = [name for name, one in zip(names, headers, strict=True) if one.dtype != dtype]
        kinds = ", ".join(f"{count} of {name}" for name, count in dtypes.most_common())
        raise InputError(f"The images differ in depth: {kinds} (first: {strange[0]}). Bring them to one, or part them.")
    bands = Counter(one.channels for one in headers)
    grey, rgb = set(bands) <= {1}, set(bands) <= {1, 3}
    alpha = [name for name, one in zip(names, headers, strict=True) if one.alpha]
    background: int | None = _GREYS[config.background]
    if not rgb or dtype != "uint8":
        if len(bands) > 1:
            most = bands.most_common()[0][0]
            strange = [name for name, one in zip(names, headers, strict=True) if one.channels != most]
            counts = ", ".join(f"{count} of {channels}" for channels, count in bands.most_common())
            raise InputError(
                f"The images differ in channels: {counts} (first: {strange[0]}). Bring them to one, or part them."
            )
        channels = next(iter(bands))
        if config.channels != "auto":
            raise InputError(
                f"--loading.channels {config.channels} is for 8-bit grey, RGB and RGBA; these are "
                f"{counted(channels, 'channel')} of {dtype}, kept as they are."
            )
        background = None
        notes.append(f"{counted(channels, 'channel')} of {dtype}, kept as they are.")
    elif config.channels == "rgba":
        channels, background = 4, None
    else:
        channels = {"auto": 1 if grey else 3, "grey": 1, "rgb": 3}[config.channels]
        greys = bands.get(1, 0)
        if greys and channels == 3:
            notes.append(f"{greys} of {len(headers)} images are grey: their channel is repeated three times.")
        if channels == 1 and greys < len(headers):
            notes.append(
                f"{len(headers) - greys} of {len(headers)} images lose their colours (--loading.channels grey)."
            )
        if alpha:
            notes.append(
                f"{len(alpha)} of {len(headers)} images may be transparent (first: {alpha[0]}): laid over "
                f"{config.background} (--loading.background), or kept with --loading.channels rgba."
            )
    largest = max((min(one.width, one.height) for one in headers), default=1)
    # Images that are all smaller are stored as they are: enlarging adds nothing, and what has its size already, as
    # CIFAR-10 at 32 pixels, would be blurred and lose its edge.
    side = config.stored_size or min(round(image_size * CROP_MARGIN), largest)
    return Layout(channels=channels, dtype=dtype, side=side, background=background), notes
