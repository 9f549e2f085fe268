"""How fast: `scripts/benchmark.py NAME [--device cpu]` prints one JSON object a line for each figure.

A line has `name`, `ratio` (how many times faster than the other library), `bar` (the ratio asked for), `ours` and
`theirs` in `unit`, and what was measured. Both sides take turns, on one core and one thread, and the best turn of each
counts: whatever else the machine does makes times longer, never shorter.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
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


def augment(device: torch.device) -> Iterator[Figure]:
    """Two SimCLR views an image: ours from stored uint8, lightly's from PIL images; both end normalised."""
    import lightly
    import numpy as np
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from PIL import Image

    from ssl_transfer.data.augment import AugmentConfig
    from ssl_transfer.data.augment import augment as make_view
    from ssl_transfer.engine.memory import keep_freed_memory
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
            crop_scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_sigma=sigmas
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
                "gaussian_blur": config.blur,
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


BENCHMARKS: dict[str, Callable[[torch.device], Iterator[Figure]]] = {"augment": augment}


def main() -> int:
    """Run one benchmark; 2 where there is none of that name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="where ours runs; the other library runs on the CPU")
    arguments = parser.parse_args()
    if arguments.name not in BENCHMARKS:
        print(f"error: {arguments.name!r} is not a benchmark; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for figure in BENCHMARKS[arguments.name](torch.device(arguments.device)):
        print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
