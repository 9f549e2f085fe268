"""Measure speed and memory: `scripts/benchmark.py NAME [--device cpu]` prints one JSON object a line.

A line has `name`, `ratio` (how many times faster than the other side), `bar` (the ratio asked for), `ours` and
`theirs` in `unit`, and what was measured. Both sides take turns, on the cores that the benchmark names (`augment`,
`head` and `report` one, the others two), and the best turn of each counts: whatever else the machine does makes times
longer, never shorter. `data` takes some six minutes, `methods` ten, `train-step` twenty.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Figure = dict[str, Any]


def best_seconds(
    sides: dict[str, Callable[[], object]], *, turns: int = 5, turn_seconds: float = 0.3
) -> dict[str, float]:
    """Seconds a call of each side: the mean of a turn, in the best of its turns; the first turn is not timed."""
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(turns + 1):
        for name, side in sides.items():
            calls, start = 0, time.perf_counter()
            while not calls or time.perf_counter() - start < turn_seconds:
                side()
                calls += 1
            mean = (time.perf_counter() - start) / calls
            best[name] = min(best[name], mean) if turn else best[name]
    return best


def augment(device: torch.device, _: Path | None) -> Iterator[Figure]:
    """Two SimCLR views an image: ours from stored uint8, lightly's from PIL images; both end normalised."""
    import lightly
    import numpy as np
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from PIL import Image

    from ssl_transfer.data.transforms.augment import AugmentConfig
    from ssl_transfer.data.transforms.augment import augment as make_view
    from ssl_transfer.engine.distributed.device_memory import keep_freed_memory
    from ssl_transfer.engine.randomness import sample_keys

    keep_freed_memory()  # for both sides: they share the process
    bars = {32: 10.0, 64: 5.0, 96: 2.5, 224: 2.0}
    mean, std = (torch.tensor(IMAGENET_NORMALIZE[key], device=device)[:, None, None] for key in ("mean", "std"))
    for size, bar in bars.items():
        count, count_theirs, stored = 256 if size < 224 else 32, 32, round(size * 8 / 7)
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        photographs = [Image.fromarray(pixels).resize((stored, stored), Image.Resampling.BICUBIC) for pixels in coarse]
        pixels = torch.stack([torch.from_numpy(np.array(image)) for image in photographs]).permute(0, 3, 1, 2)
        pixels, keys = pixels.contiguous().to(device), sample_keys(0, 0, torch.arange(count)).to(device)
        # Our blur is given for 224 pixels and scaled to the view; lightly's is in pixels of the view.
        sigmas = (0.1 * 224 / size, 2.0 * 224 / size)
        strong = AugmentConfig(
            crop_scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5, blur_sigma=sigmas
        )
        for label, config in (("our defaults", AugmentConfig()), ("lightly's defaults", strong)):
            parameters: dict[str, Any] = {
                "min_scale": config.crop_scale[0],
                "hf_prob": config.flip,
                "cj_prob": config.jitter,
                "cj_bright": config.brightness,
                "cj_contrast": config.contrast,
                "cj_sat": config.saturation,
                "cj_hue": config.hue,
                "random_gray_scale": config.grey,
                "gaussian_blur": config.blur_at(size),
                "sigmas": tuple(round(sigma * size / 224, 4) for sigma in config.blur_sigma),
            }
            transform = SimCLRTransform(input_size=size, **parameters)

            def our_views(pixels: Any = pixels, keys: Any = keys, size: int = size, config: Any = config) -> None:
                images = pixels.to(torch.float32).div_(255.0)
                views = [make_view(images, keys, view=view, size=size, config=config) for view in range(2)]
                for view in views:
                    view.sub_(mean).div_(std)
                if device.type == "cuda":
                    torch.cuda.synchronize()

            def their_views(images: Any = photographs[:count_theirs], transform: Any = transform) -> None:
                for image in images:
                    transform(image)

            seconds = best_seconds({"ours": our_views, "theirs": their_views})
            mine, other = seconds["ours"] / count * 1e6, seconds["theirs"] / count_theirs * 1e6
            yield {
                "name": f"augment {size} px, {label}",
                "ratio": round(other / mine, 2),
                "bar": bar,
                "ours": round(mine, 1),
                "theirs": round(other, 1),
                "unit": "microseconds an image, two views",
                "device": str(device),
                "versions": {"torch": torch.__version__, "lightly": lightly.__version__},
                "parameters": {"stored_size": stored, "batch_size": count, **parameters},
            }


def data(device: torch.device, photographs: Path | None) -> Iterator[Figure]:
    """Batches from the cache against torchvision's ImageFolder; memory over a large cache; cost of a million files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield from _second_epoch(device, photographs or _crops_of_photographs(folder / "photographs", 2000), folder)
        yield _memory(folder)
        yield from _flat(folder)


def _crops_of_photographs(root: Path, count: int) -> Path:
    """JPEGs of 256 x 256 pixels cut from the two photographs that scikit-learn ships, in two classes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(count):
        source = sources[index % 2]
        left, top = (int(generator.integers(0, side - 256)) for side in source.size)
        path = root / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.crop((left, top, left + 256, top + 256)).save(path, quality=90)
    return root


def _second_epoch(device: torch.device, photographs: Path, folder: Path) -> Iterator[Figure]:
    """An epoch of batches of 128, on the device, as float32 of 96 pixels a side: both from their second epoch on."""
    import torchvision
    from torchvision.transforms import v2

    from ssl_transfer.data import sources
    from ssl_transfer.data.loaders.loader import Loader
    from ssl_transfer.data.loading_config import LoadingConfig
    from ssl_transfer.engine.distributed import runtime

    config = LoadingConfig(cache=folder / "cache", stored_size=96, near_duplicates="free")
    dataset = sources.load(f"folder:{photographs}", image_size=96, config=config)
    everything = torch.arange(len(dataset.pixels))
    loader = Loader(dataset, everything, batch_size=128, seed=0, runtime=runtime.start(), labelled=True)
    steps = [v2.Resize(96), v2.CenterCrop(96), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    image_folder = torchvision.datasets.ImageFolder(str(photographs), transform=v2.Compose(steps))
    theirs = torch.utils.data.DataLoader(
        image_folder, batch_size=128, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def our_epoch() -> None:
        for batch in loader.epoch(1):
            batch.images.shape  # noqa: B018  (on the device, ready for the model)

    def their_epoch() -> None:
        for images, _ in theirs:
            images.to(device)

    seconds = best_seconds({"ours": our_epoch, "theirs": their_epoch}, turns=3)
    rates = {name: loader.steps_per_epoch * 128 / seconds[name] for name in seconds}
    yield {
        "name": "data, an epoch from the cache against torchvision's ImageFolder with two workers",
        "ratio": round(rates["ours"] / rates["theirs"], 1),
        "bar": 5.0,
        "ours": round(rates["ours"]),
        "theirs": round(rates["theirs"]),
        "unit": "images a second, 96 px",
        "images": len(image_folder),
    }


_READ_LARGE_CACHE = """
import resource, sys
import numpy as np, torch
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.store.pixels import OnDisk
from ssl_transfer.engine.distributed import runtime
from pathlib import Path
file, count = Path(sys.argv[1]), int(sys.argv[2])
nothing = torch.empty(0, dtype=torch.int64)
dataset = Dataset(source="sparse", pixels=OnDisk(file, np.arange(count)), labels=torch.zeros(count, dtype=torch.int64),
                  names=(), classes=("a",), fingerprint="",
                  splits={"train": torch.arange(count), "unlabeled": nothing, "validation": nothing, "test": nothing})
loader = Loader(dataset, torch.arange(count), batch_size=128, seed=0, runtime=runtime.start(), labelled=False)
for number, batch in enumerate(loader.epoch(0)):
    assert float(batch.images.sum()) == 0.0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _memory(folder: Path) -> Figure:
    """The peak of a process that reads an epoch, in random order, of a cache ten times as large as its limit.

    The limit is on the data segment, which holds all that a process allocates; the file is sparse, so it takes no disk.
    """
    import numpy as np

    limit_mb = 1024
    count = 10 * limit_mb * 2**20 // (3 * 110 * 110)
    file = folder / "large.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, 3, 110, 110)).flush()
    command = f"ulimit -d {limit_mb * 1024}; exec {sys.executable} -c '{_READ_LARGE_CACHE}' {file} {count}"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if answer.returncode:
        raise RuntimeError(answer.stderr)
    peak = float(answer.stdout)
    return {
        "name": "data, peak resident memory while reading a cache ten times the limit, under ulimit -d",
        "ratio": round(limit_mb / peak, 2),
        "bar": 1.0,
        "ours": round(peak),
        "theirs": limit_mb,
        "unit": "MB; theirs is the limit",
        "images": count,
        "cache_mb": file.stat().st_size // 2**20,
    }


def _flat(folder: Path) -> Iterator[Figure]:
    """The cost of an image in data sets of a thousand to a million files: hard links to 50 small pictures."""
    import numpy as np
    from PIL import Image

    from ssl_transfer.data import sources
    from ssl_transfer.data.loaders.loader import Loader
    from ssl_transfer.data.loading_config import LoadingConfig
    from ssl_transfer.engine.distributed import runtime

    root = folder / "many"
    originals = []
    for number in range(50):
        blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / f"original{number}.png"
        Image.fromarray(blocks).resize((16, 16), Image.Resampling.BICUBIC).save(path)
        originals.append(path)
    first: dict[str, float] = {}
    done = 0
    for count in (10**3, 10**4, 10**5, 10**6):
        for index in range(done, count):
            place = root / "unlabeled" / f"{index // 1000:04d}"
            if index % 1000 == 0:
                place.mkdir(parents=True)
            os.link(originals[index % len(originals)], place / f"{index:07d}.png")
        done = count
        costs: dict[str, float] = {}
        config = LoadingConfig(cache=folder / "cache")
        for name in ("decoding once", "opening again"):
            start = time.perf_counter()
            dataset = sources.load(f"folder:{root}", image_size=16, config=config)
            costs[name] = (time.perf_counter() - start) / count * 1e6
        loader = Loader(dataset, dataset.pool, batch_size=128, seed=0, runtime=runtime.start(), labelled=False)
        start = time.perf_counter()
        for _ in loader.epoch(0):
            pass
        costs["an epoch of batches"] = (time.perf_counter() - start) / count * 1e6
        first = first or costs
        arrays = [dataset.names, dataset.labels.numpy(), *(split.numpy() for split in dataset.splits.values())]
        columns = [dataset.moments.mean, dataset.moments.square]
        # An array of names has sixteen bytes for each, and the text of longer ones elsewhere.
        texts = sum(len(name) for name in dataset.names[:1000].tolist()) / min(1000, count)
        index_bytes = sum(array.nbytes for array in [*arrays, *columns]) / count + texts
        for name, cost in costs.items():
            yield {
                "name": f"data, {name}, {count:,} files",
                "ratio": round(first[name] / cost, 2),
                "bar": None,
                "ours": round(cost, 1),
                "theirs": round(first[name], 1),
                "unit": "microseconds an image; theirs is the cost in a set of 1,000",
                "index_bytes_an_image": round(index_bytes),
            }


def key(_: torch.device, __: Path | None) -> Iterator[Figure]:
    """Cost of the cache's key for 100,000 files of 3 to 30 kB: reading all, against looking for changed ones."""
    import numpy as np

    from ssl_transfer.data.loading_config import LoadingConfig
    from ssl_transfer.data.store.content_key import SETTLED, of_files

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"{index // 1000}/{index}.jpg" for index in range(10**5)]
        for name in names:
            file = Path(scratch, "files", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(generator.bytes(int(generator.integers(3_000, 30_000))))
        time.sleep(SETTLED * 1e-9)
        seconds: dict[str, list[float]] = {"reading all": [], "looking for changed ones": []}
        for turn in range(2):
            config = LoadingConfig(cache=Path(scratch, f"cache{turn}"))
            for times in seconds.values():
                start = time.perf_counter()
                of_files(Path(scratch, "files"), names)(config)
                times.append(time.perf_counter() - start)
        for name, times in seconds.items():
            yield {
                "name": f"key, {name}, {len(names):,} files",
                "ratio": round(min(seconds["reading all"]) / min(times), 2),
                "bar": None,
                "ours": round(min(times), 2),
                "theirs": round(min(seconds["reading all"]), 2),
                "unit": "seconds, files in memory; theirs is reading all",
            }


def head(device: torch.device, _: Path | None) -> Iterator[Figure]:
    """Ten epochs behind a frozen boundary, features computed once against in each epoch."""
    sys.path.insert(0, str(Path(__file__).parent))
    import benchmark_head

    yield from benchmark_head.figures(device)


def train_step(device: torch.device, _: Path | None) -> Iterator[Figure]:
    """Whole pretrainings against plain PyTorch and against lightly."""
    sys.path.insert(0, str(Path(__file__).parent))
    import benchmark_train_step

    yield from benchmark_train_step.figures(device)


def methods(device: torch.device, _: Path | None) -> Iterator[Figure]:
    """Measure the time of an image with each method."""
    sys.path.insert(0, str(Path(__file__).parent))
    import benchmark_train_step

    yield from benchmark_train_step.costs(device)


def report(_: torch.device, __: Path | None) -> Iterator[Figure]:
    """The report of 1,000 finished runs, drawn again."""
    sys.path.insert(0, str(Path(__file__).parent))
    import benchmark_report

    yield from benchmark_report.figures()


def reliability(device: torch.device, _: Path | None) -> Iterator[Figure]:
    """Measure the cost of guarded steps, flushed and checked states, and deterministic algorithms."""
    sys.path.insert(0, str(Path(__file__).parent))
    import benchmark_reliability

    yield from benchmark_reliability.figures(device)


BENCHMARKS: dict[str, tuple[Callable[[torch.device, Path | None], Iterator[Figure]], int]] = {
    "augment": (augment, 1),
    "data": (data, 2),
    "key": (key, 2),
    "head": (head, 1),
    "train-step": (train_step, 2),
    "methods": (methods, 2),
    "report": (report, 1),
    "reliability": (reliability, 2),
}
"""By name: what is measured, and on how many cores."""


def main() -> int:
    """Run one benchmark; 2 where there is none of that name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="where ours runs; the other library runs on the CPU")
    parser.add_argument(
        "--images", type=Path, help="for data: a folder of photographs in class folders, instead of crops"
    )
    arguments = parser.parse_args()
    if arguments.name not in BENCHMARKS:
        print(f"error: {arguments.name!r} is not a benchmark; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    benchmark, cores = BENCHMARKS[arguments.name]
    if arguments.images is not None and benchmark is not data:
        print(f"error: --images would be ignored: {arguments.name} makes its own.", file=sys.stderr)
        return 2
    torch.set_num_threads(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    for figure in benchmark(torch.device(arguments.device), arguments.images):
        print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
