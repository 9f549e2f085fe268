"""The settings that every stage shares."""

from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.data.sources import LoadingConfig
from ssl_transfer.engine.distributed.runtime import MixedPrecision
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.runs.checkpoint_files import CheckpointConfig
from ssl_transfer.engine.tracking.tracker import TrackingConfig

IMAGE_SIZE = 64
"""Pixels a side of what models see, unless the user says otherwise."""
MOST = 10**9
"""Of anything that is counted."""
VOLATILE = (
    *("output", "fresh", "dry_run", "tracking", "checkpoints", "jobs", "data", "optimizer.skip_limit"),
    *(f"loading.{name}" for name in ("cache", "cache_gb", "max_unreadable", "workers", "download", "downloads")),
)
"""Settings that may change between two starts of one run: they do not change its result. Where the images lie is one;
which images they are is part of the run's identity."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Where a run goes, how its images are read, how it is followed."""

    output: Path | None = None
    """The run's folder. Started again with the same settings, a run goes on where it stopped. Default: runs/ and what
    it is."""
    fresh: bool = False
    """Start over. What the folder holds is moved aside, not deleted."""
    dry_run: bool = False
    """Train nothing: say what would be done, with counts and an estimate of the time from a few steps, and leave
    nothing but decoded pixels in the cache."""
    mixed_precision: MixedPrecision = "no"
    """bf16 or fp16 autocast. Losses stay in float32."""
    deterministic: bool = False
    """On a GPU, use only algorithms that give the same bits each time, which are slower: `scripts/benchmark.py
    reliability --device cuda` says how much. A CPU does in any case."""
    loading: LoadingConfig = LoadingConfig()
    """How images are read and divided."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """When states are saved, from which a run goes on."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Followed):
    """Which images, where the run goes, how it is followed."""

    data: str = "digits"
    """The images: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:REPO, medmnist:NAME, or made of others:
    blended-digits, blend:DATA,PHOTOFOLDER, union:DATA,DATA (see the README)."""


def check_positive(**values: int) -> None:
    """Raise InputError for a count that is below 1, or beyond what anybody counts to."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: it must be 1 or more.")
        if value > MOST:
            raise InputError(f"--{name.replace('_', '-')} {value}: at most {MOST:,}.")
