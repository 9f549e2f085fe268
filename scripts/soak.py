"""Kill runs at random moments, resume them, and compare them with undisturbed runs.

python scripts/soak.py --minutes 10
python scripts/soak.py --adversary --rounds 100

Pretraining, transfer, adaptation and distillation, tiny, on one process and on two. A run dies by SIGKILL at its n-th
event: the beginning or the end of an optimiser step, or a file that it opens for writing, renames or removes, in its
folder, its checkpoints or its cache of pixels. Then the same command is started again, and killed again, until it ends.
Weights, choice of the best, metrics, states and log must be those of the undisturbed run, to the bit. One line
of JSON is printed for each trial; the exit status is 1 where one differed. `--adversary` damages runs of all commands
instead (`adversary/`).
"""

import argparse
import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CLOCKS = ("seconds", "images_per_second", "peak_memory_mb", "energy_joules", "energy")
"""What the machine has a part in; all else is the same each time."""
OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
TWO = "two processes"
_TRANSFORMER = (
    *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=16", "depth=2", "num_heads=2", "drop_path_rate=0.3"),
)
_CONVOLUTIONAL = (
    *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
    *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
_SHORT = ("--image-size", "16", "--labels", "2", "--batch-size", "8", "--epochs", "1")
_STEPS = ("--head-steps", "6", "--finetune-steps", "12")


def cases(workshop: Path) -> dict[str, tuple[str, ...]]:
    """The commands by name, without --output; what they read lies in the workshop (`prepare`)."""
    pictures, inverted = f"folder:{workshop / 'pictures'}", f"npz:{workshop / 'inverted.npz'}"
    return {
        "pretrain": (
            *("pretrain", "moco", "--data", pictures, "--image-size", "16", "--batch-size", "16", "--epochs", "4"),
            *("--evaluate-every", "1", "--method.queue-size", "20", *_CONVOLUTIONAL),
        ),
        "transfer": ("transfer", *_SHORT, *_STEPS, "--stopping.patience", "4", *_CONVOLUTIONAL),
        "adapt": (
            *("adapt", "dann", "--target", inverted, "--choose", "information", "--image-size", "16", "--labels", "2"),
            *("--batch-size", "200", "--epochs", "3", *_STEPS, *_CONVOLUTIONAL),
        ),
        "distill": (
            *("distill", "--teacher", str(workshop / "teacher"), "--pool", "--pool-share", "0.9", "--labels", "3"),
            *("--batch-size", "300", "--epochs", "1", "--finetune-steps", "12", "--distillation.hint", "1"),
            *_TRANSFORMER,
        ),
        TWO: (
            *("pretrain", "simclr", "--data", pictures, "--image-size", "16", "--batch-size", "16", "--epochs", "3"),
            *("--evaluate-every", "1", *_TRANSFORMER),
        ),
    }


def prepare(workshop: Path) -> None:
    """Images in a folder, a second domain, and a teacher."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    generator = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder := workshop / "pictures" / name).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    np.savez(workshop / "inverted.npz", images=255 - images, labels=digits.target)
    command = ("transfer", *_SHORT, *_STEPS, *_TRANSFORMER, "--output", str(workshop / "teacher"))
    _check(start(command, workshop, kill_at=0), workshop)


def _check(status: int, workshop: Path) -> None:
    if status:
        raise RuntimeError(f"exit status {status}:\n{(workshop / 'output.txt').read_text()[-3000:]}")


def start(command: Sequence[str], workshop: Path, *, kill_at: int) -> int:
    """Run a command in a process of its own that dies at an event; 0: at none. Its exit status is returned."""
    context = multiprocessing.get_context("forkserver")
    # Imported once; each command is a fork of it.
    context.set_forkserver_preload(
        ["ssl_transfer.stages.adapt.adapt", "ssl_transfer.stages.distill.distill", "sklearn.datasets"]
    )
    process = context.Process(target=_child, args=(list(command), workshop, kill_at))
    process.start()
    process.join()
    return process.exitcode or 0


def start_two(command: Sequence[str], workshop: Path, *, kill_at: int, rank: int) -> int:
    """As `start`, on two processes of which one dies."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    words += ["--child", str(workshop), "--kill-at", str(kill_at), "--rank", str(rank), "--", *command]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with open(workshop / "output.txt", "ab") as output:
        return subprocess.run(words, env=environment, stdout=output, stderr=output, check=False).returncode  # noqa: S603


def _child(command: list[str], workshop: Path, kill_at: int) -> None:
    with open(workshop / "output.txt", "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run(command, workshop, kill_at)


def run(command: list[str], workshop: Path, kill_at: int) -> None:
    """Run a command in this process, which dies at an event."""
    import torch

    from ssl_transfer.cli.main import main
    from ssl_transfer.engine.training.stepper import Steps

    torch.set_num_threads(1)
    count = 0

    def event() -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        writing = name in CHANGES or (name == "open" and arguments[2] is not None and arguments[2] & OPENED_TO_WRITE)
        if writing and str(arguments[0]).startswith(str(workshop / "run")):
            event()

    plain = Steps.take

    def take(self: Any, *arguments: Any) -> Any:
        event()
        answer = plain(self, *arguments)
        event()
        return answer

    Steps.take = take  # type: ignore[method-assign,assignment]
    sys.addaudithook(watch)
    main(command)
    (workshop / f"events-{os.environ.get('RANK', '0')}.txt").write_text(str(count))


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves but for clocks: the content of each file, by its name."""
    import torch

    from ssl_transfer.engine.io.json_files import read_lines

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".npy", ".npz"):
            found[name] = path.read_bytes()
        elif path.suffix == ".pt":
            found[name] = _plain(torch.load(path, weights_only=True))
        elif path.name == "result.json":
            found[name] = _plain(json.loads(path.read_text()))
        elif path.name == "metrics.jsonl":
            found[name] = [_plain(line) for line in read_lines(path)]
    return found


def _plain(value: Any) -> Any:
    """Without clocks and places; tensors as their bytes."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in (*CLOCKS, "backbone")}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return (str(value.dtype), value.numpy().tobytes()) if hasattr(value, "dtype") else value


class Soak:
    """Trials in a folder of their own.

    Args:
        workshop: an empty folder.
        seed: of the moments.
    """

    def __init__(self, workshop: Path, seed: int) -> None:
        self.workshop, self.random = workshop, random.Random(seed)  # noqa: S311
        self.kills = 0
        """Processes that were killed."""
        self._whole: dict[tuple[str, str], tuple[list[int], dict[str, Any]]] = {}
        prepare(workshop)

    def trial(self, case: str, *, kills: int) -> list[str]:
        """Kill a run up to so many times and let it end: the files that differ from those of one that was not."""
        # A state after every step, or only at the end.
        seconds = self.random.choice(["0", "1000"])
        if (case, seconds) not in self._whole:
            _check(self._start(case, "whole", seconds, kill_at=0), self.workshop)
            events = [int(path.read_text()) for path in sorted(self.workshop.glob("events-*.txt"))]
            self._whole[case, seconds] = events, outcome(self._folder("whole"))
            self._clear("whole")
        events, expected = self._whole[case, seconds]
        for _ in range(kills):
            rank = self.random.randrange(2) if case == TWO else 0
            status = self._start(case, "killed", seconds, kill_at=self.random.randint(1, events[rank]), rank=rank)
            self.kills += status != 0
        _check(self._start(case, "killed", seconds, kill_at=0), self.workshop)
        found = outcome(self._folder("killed"))
        left = [path.name for path in self._folder("killed").rglob("*.part")]
        self._clear("killed")
        # How many states lie there depends on when each was saved.
        names = [name for name in found.keys() | expected.keys() if not name[-1].isdigit()]
        return [name for name in names if found.get(name) != expected.get(name)] + left

    def _start(self, case: str, name: str, seconds: str, *, kill_at: int, rank: int = 0) -> int:
        folder, cache = self._folder(name), self._folder(f"{name}-cache")
        paths = ("--output", str(folder), "--loading.cache", str(cache), "--checkpoints.seconds", seconds)
        command = (*cases(self.workshop)[case], *paths)
        if case == TWO:
            return start_two(command, self.workshop, kill_at=kill_at, rank=rank)
        return start(command, self.workshop, kill_at=kill_at)

    def _folder(self, name: str) -> Path:
        return self.workshop / f"run-{name}"

    def _clear(self, name: str) -> None:
        for folder in (self._folder(name), self._folder(f"{name}-cache")):
            if folder.exists():
                folder.rename(self.workshop / f"done-{time.monotonic_ns()}")


def trials(soak: Soak, minutes: float) -> Iterator[dict[str, Any]]:
    """Trials, case after case, until the time is over."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for case in cases(soak.workshop):
            before = soak.kills
            different = soak.trial(case, kills=soak.random.randint(1, 3))
            yield {"case": case, "kills": soak.kills - before, "different": different}


def main() -> None:
    """See the text above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="trials begin for so long (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--adversary", action="store_true", help="damage runs of all commands (adversary/)")
    parser.add_argument("--rounds", type=int, default=100, help="of the adversary (default 100)")
    parser.add_argument("--first", type=int, default=0, help="number of the adversary's first round (default 0)")
    parser.add_argument("--commands", nargs="*", help="of the adversary (default: all)")
    for flag, kind in (("--child", Path), ("--kill-at", int), ("--rank", int)):
        parser.add_argument(flag, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        run(asked.command, asked.child, asked.kill_at if int(os.environ["RANK"]) == asked.rank else 0)
        return
    if asked.adversary:
        from adversary.rounds import soak as soak_all

        say = functools.partial(print, flush=True)
        is_kept = soak_all(asked.commands, count=asked.rounds, seed=asked.seed, first=asked.first, say=say)
        sys.exit(0 if is_kept else 1)
    with tempfile.TemporaryDirectory() as folder:
        soak, failed, begun = Soak(Path(folder), asked.seed), 0, time.monotonic()
        for number, found in enumerate(trials(soak, asked.minutes), start=1):
            print(json.dumps(found), flush=True)
            failed += bool(found["different"])
            summary = {"trials": number, "kills": soak.kills, "failed": failed}
        print(json.dumps({**summary, "minutes": round((time.monotonic() - begun) / 60, 1)}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
