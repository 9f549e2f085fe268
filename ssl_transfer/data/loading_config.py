"""Configure how images are read, stored and divided."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_transfer.engine.errors import InputError

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How images are read, stored and divided."""

    split_seed: int = 0
    """Seed of the division into training, validation and test images, where the data has none. It is not the seed of
    the runs: all of them are tested on the same images."""
    test_fraction: float = 0.25
    """Share of each class that becomes test images where the data has no test part."""
    validation_fraction: float = 0.15
    """Share of each class's training images that becomes validation images where the data has no validation part."""
    group_by: str | None = None
    """What must stay on one side of a division (a patient, a scene): a column of the table of labels, or a regular
    expression on an image's name whose brackets catch the group, as in '(patient[0-9]+)_'."""
    block: float | None = None
    """Divide by place: group_by then gives two numbers (two columns as in 'x,y', or two brackets), and images in the
    same square of this side stay together."""
    near_duplicates: Literal["together", "free"] = "together"
    """together: near-duplicate images are kept on one side of a division. Exact ones always are."""
    leakage: Literal["stop", "drop", "allow"] = "stop"
    """Exact duplicates between parts that the data itself has: stop with their names, drop the copy that is not in the
    test part (or, of two others, not in validation), or allow. So too where a checkpoint was trained on images that are
    now for validation or test; drop then leaves these out."""
    max_unreadable: float = 0.01
    """Largest share of images that may be unreadable. They are named, counted and left out; more is an error."""
    channels: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    """What 8-bit images become. auto: grey where all are, otherwise rgb; transparent places show `background`."""
    background: Literal["white", "grey", "black"] = "white"
    """What transparent places show, unless channels is rgba."""
    value_range: Range | None = None
    """The stored values that become 0 and 1. None: 0 and 255 for 8 bits; for deeper images the range of the pool, but
    for a thousandth of each image's pixels at either end."""
    stored_size: int | None = None
    """Pixels a side that images are stored at. None: 8/7 of --image-size, as 256 is to 224, so that crops have room; or
    as they are where all are smaller."""
    cache: Path = Path("~/.cache/ssl_transfer")
    """Folder for decoded pixels, shared by runs; `ssl-transfer data cache` lists and empties it."""
    cache_gb: float | None = None
    """Most that the decoded pixels of one data set may take. None: four fifths of the free disk. What is larger is
    decoded anew for every batch, by worker processes."""
    workers: int | None = None
    """Processes that decode. None: one for each core."""
    download: bool = False
    """Whether data may be fetched from the network; otherwise it must lie in `downloads`."""
    downloads: Path = Path("~/.cache/ssl_transfer/downloads")
    """Folder for torchvision's and MedMNIST's files. Hugging Face keeps its own."""
    streaming: bool = False
    """Pretrain on hf:REPO as it comes from the hub, keeping nothing on disk: for what fits on none."""
    stream_images: int | None = None
    """Images of a stream that make an epoch. None: as many as the data set says that it has."""

    def __post_init__(self) -> None:
        for name in ("test_fraction", "validation_fraction", "max_unreadable"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise InputError(f"loading.{name} {value}: it is a share, 0 or more and below 1.")
        if not (self.test_fraction and self.validation_fraction):
            raise InputError("loading.test_fraction and loading.validation_fraction must be above 0.")
        for name in ("block", "cache_gb", "workers", "stored_size", "stream_images"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"loading.{name} {value}: it must be above 0.")
        if self.stream_images is not None and not self.streaming:
            raise InputError("loading.stream_images would be ignored without loading.streaming.")
        if self.block is not None and self.group_by is None:
            raise InputError("loading.block would be ignored: loading.group_by says where an image lies, as in x,y.")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise InputError(f"loading.value_range {self.value_range}: two numbers, the smaller first.")
