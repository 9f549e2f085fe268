"""Configure the settings that all stages share."""

from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.data.sources import LoadingConfig
from ssl_transfer.engine.distributed.runtime import MixedPrecision
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.runs.checkpoint_files import CheckpointConfig
from ssl_transfer.engine.tracking.tracker import TrackingConfig

IMAGE_SIZE = 64
"""Default pixels a side of the models' input."""
MOST = 10**9
"""Largest count that a setting may have."""
VOLATILE = (
    *("output", "fresh", "dry_run", "tracking", "checkpoints", "jobs", "data", "optimizer.skip_limit"),
    *(f"loading.{name}" for name in ("cache", "cache_gb", "max_unreadable", "workers", "download", "downloads")),
)
"""Settings that may change between two starts of one run, as they do not change its result. The place of the images is
one of them; a fingerprint of the images is part of the run's identity."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Configure the folder of a run, its loading, its tracking and its checkpoints."""

    output: Path | None = None
    """Folder of the run. The same command with the same settings resumes a stopped run. Default: a name below runs/."""
    fresh: bool = False
    """Start over. The content of the folder is moved aside, not deleted."""
    dry_run: bool = False
    """Train nothing: print the plan with counts, and a time estimate from a few steps. Only decoded pixels in the cache
    remain."""
    mixed_precision: MixedPrecision = "no"
    """bf16 or fp16 autocast. Losses stay in float32."""
    deterministic: bool = False
    """On a GPU, use only algorithms that repeat to the bit. They are slower (`scripts/benchmark.py reliability`). A CPU
    always repeats to the bit."""
    loading: LoadingConfig = LoadingConfig()
    """Reading and splitting of the images."""
    tracking: TrackingConfig = TrackingConfig()
    """Trackers of the metrics."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """Checkpoints, from which a stopped run resumes."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Followed):
    """Configure the images and the folder of a run, and its tracking."""

    data: str = "digits"
    """The images: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:REPO, medmnist:NAME, or made of others:
    blended-digits, blend:DATA,PHOTOFOLDER, union:DATA,DATA (docs/howto/data.md)."""


def check_positive(**values: int) -> None:
    """Refuse a count below 1 or above `MOST`."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: it must be 1 or more.")
        if value > MOST:
            raise InputError(f"--{name.replace('_', '-')} {value}: at most {MOST:,}.")
