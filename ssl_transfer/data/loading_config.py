"""Configure how images are read, stored and split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_transfer.engine.errors import InputError

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """Settings for reading, storing and splitting images."""

    split_seed: int = 0
    """Seed of the split into training, validation and test images, where the data has none. It is not the seed of the
    runs: all of them are tested on the same images."""
    test_fraction: float = 0.25
    """Share of each class that becomes test images where the data has no test part."""
    validation_fraction: float = 0.15
    """Share of each class's training images that becomes validation images where the data has no validation part."""
    group_by: str | None = None
    """Group images that must stay on one side of a split (a patient, a scene): a column of the table of labels, or a
    regular expression on an image's name. Its brackets capture the group, as in '(patient[0-9]+)_'."""
    block: float | None = None
    """Split by place. group_by then gives two numbers: two columns as in 'x,y', or two brackets. Images in the same
    square of this side stay together."""
    near_duplicates: Literal["together", "free"] = "together"
    """together: near-duplicate images are kept on one side of a split. Exact ones always are."""
    leakage: Literal["stop", "drop", "allow"] = "stop"
    """Exact duplicates between parts that the data itself has. stop: an error with their names; allow: keep them; drop:
    remove the copy that is not in the test part (or, of two others, not in validation). The same applies where a
    checkpoint was trained on images that are now for validation or test; drop then leaves these out."""
    max_unreadable: float = 0.01
    """Largest share of images that may be unreadable. They are named, counted and left out; more is an error."""
    channels: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    """Channels of stored 8-bit images. auto: grey where all are grey, otherwise rgb; transparent pixels show
    `background`."""
    background: Literal["white", "grey", "black"] = "white"
    """Colour of transparent pixels, unless channels is rgba."""
    value_range: Range | None = None
    """Stored values that become 0 and 1. None: 0 and 255 for 8 bits. For deeper images: the range of the pool, without
    a thousandth of each image's pixels at either end."""
    stored_size: int | None = None
    """Pixels a side of stored images. None: 8/7 of --image-size, as 256 is to 224, so that crops have room; or the
    original size where all images are smaller."""
    cache: Path = Path("~/.cache/ssl_transfer")
    """Folder for decoded pixels, shared by runs; `ssl-transfer data cache` lists and empties it."""
    cache_gb: float | None = None
    """Largest size, in GB, of one data set's decoded pixels. None: four fifths of the free disk. A larger data set is
    decoded anew for every batch, by worker processes."""
    workers: int | None = None
    """Processes that decode. None: one for each core."""
    download: bool = False
    """Allow downloads from the network. Otherwise the data must lie in `downloads`."""
    downloads: Path = Path("~/.cache/ssl_transfer/downloads")
    """Folder for torchvision's and MedMNIST's files. Hugging Face keeps its own."""
    streaming: bool = False
    """Pretrain on hf:REPO as it comes from the hub, keeping nothing on disk: for data larger than any disk."""
    stream_images: int | None = None
    """Images of a stream that make an epoch. None: the number that the data set declares."""

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
