"""Prepare tiny finished and half-done runs of all commands, and run a command in a fork."""

import atexit
import csv
import functools
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak import CHANGES, CLOCKS, OPENED_TO_WRITE

from ssl_transfer.engine.io.json_files import lines_of

VERSIONS = Path(__file__).parents[2] / "tests" / "invariants" / "resume" / "versions"
_SIZE = ("--image-size", "16")
_DIGITS = ("--data", "npz:digits.npz")
_CACHE = ("--loading.cache", "cache")
_SAVED = ("--checkpoints.seconds", "0")
_BACKBONE = (
    *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
    *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
_SHORT = ("--labels", "2", "--batch-size", "8", "--epochs", "1", "--head-steps", "3", "--finetune-steps", "4")
_OLDER_BACKBONE = (
    *(*_SIZE, "--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=8", "depth=1", "num_heads=1"),
)
MEASURED = ("seconds", "transfer_seconds", "pretrain_seconds", "peak_memory_mb", "transfer_joules", "pretrain_joules")
LOG = "metrics.jsonl"
_TEXTS = ("evaluation.json", "findings.json", "model.json", "metrics.json")
TIMEOUT = 150
"""Seconds after which a command counts as hanging."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command on relative paths.

    Args:
        words: without the output.
        output: folder of its results; empty for one that only prints.
        file: name of the file in `output` that `--output` names; empty: the folder itself.
        reads: folders of the commands that come before.
        resumes: a killed one goes on.
        writes_into: it has no `--output`; the results are written into the folder that it reads.
        folder: in which it is started.
    """

    words: tuple[str, ...]
    output: str = ""
    file: str = ""
    reads: tuple[str, ...] = ()
    resumes: bool = False
    writes_into: bool = False
    folder: str = "."

    def line(self, output: str = "") -> tuple[str, ...]:
        """Return the words with `--output`, by default the command's own."""
        if self.writes_into or not self.output:
            return self.words
        place = output or self.output
        return (*self.words, "--output", f"{place}/{self.file}" if self.file else place)


COMMANDS: dict[str, Command] = {
    "pretrain": Command(
        words=(
            *("pretrain", "simclr", *_DIGITS, *_SIZE, "--batch-size", "32", "--epochs", "2"),
            *(*_BACKBONE, *_CACHE, *_SAVED),
        ),
        output="pretrain",
        resumes=True,
    ),
    "transfer": Command(
        words=("transfer", *_DIGITS, "--init", "pretrain", *_SIZE, *_SHORT, "--tune", "2", *_CACHE, *_SAVED),
        output="transfer",
        reads=("pretrain",),
        resumes=True,
    ),
    "adapt": Command(
        words=(
            *("adapt", "dann", "--source", "npz:digits.npz", "--target", "npz:inverted.npz", *_SIZE),
            *("--labels", "2", "--batch-size", "32", "--epochs", "1", "--head-steps", "3", "--finetune-steps", "4"),
            *(*_BACKBONE, *_CACHE, *_SAVED),
        ),
        output="adapt",
        resumes=True,
    ),
    "distill": Command(
        words=(
            *("distill", "--teacher", "transfer", *_DIGITS, "--labels", "2", "--batch-size", "32", "--epochs", "1"),
            *("--finetune-steps", "4", *_BACKBONE, *_CACHE, *_SAVED),
        ),
        output="distill",
        reads=("transfer",),
        resumes=True,
    ),
    "compare": Command(
        words=(
            *("compare", *_DIGITS, "--arms", "simclr", "--labels", "1", "--seeds", "0", "1", "--pretrain-seeds", "1"),
            *(*_SIZE, "--epochs", "1", "--batch-size", "64", "--transfer.epochs", "1", "--transfer.head-steps", "2"),
            *("--transfer.finetune-steps", "2", *_BACKBONE, *_CACHE, *_SAVED),
        ),
        output="compare",
        resumes=True,
    ),
    "evaluate": Command(words=("evaluate", "transfer", *_CACHE), output="evaluate", reads=("transfer",)),
    "predict": Command(
        words=("predict", "transfer", "pictures"), output="predict", file="predictions.csv", reads=("transfer",)
    ),
    "export": Command(words=("export", "transfer"), output="export", reads=("transfer",)),
    "explain": Command(
        words=(
            *("explain", "transfer", "--num-images", "2", "--attack-images", "4", "--pgd-steps", "2", "--steps", "2"),
            *_CACHE,
        ),
        output="explain",
        reads=("transfer",),
    ),
    "data check": Command(words=("data", "check", "npz:digits.npz", *_CACHE), output="check"),
    "data preview": Command(
        words=("data", "preview", *_DIGITS, *_SIZE, "--method", "simclr", *_CACHE), output="preview"
    ),
    "data cache": Command(words=("data", "cache", *_CACHE)),
    "data verify": Command(words=("data", "cache", "--verify", *_CACHE)),
    "demo adapt": Command(
        words=(
            *("demo", "adapt", "--source", "npz:digits.npz", "--target", "npz:inverted.npz", *_SIZE, "--jobs", "1"),
            *("--methods", "adabn", "--seeds", "0", "--labels", "2", "--recipe.batch-size", "32"),
            *("--recipe.epochs", "1", "--recipe.head-steps", "3", "--recipe.finetune-steps", "4", *_BACKBONE, *_CACHE),
        ),
        output="demo-adapt",
        resumes=True,
    ),
    "report": Command(words=("report", "compare"), output="compare", reads=("compare",), writes_into=True),
    "summary": Command(words=("summary", "transfer"), reads=("transfer",)),
    "older evaluate": Command(
        words=("evaluate", "transferred", "--split", "test", *_CACHE),
        output="measured",
        reads=("transferred",),
        folder="older",
    ),
    "older compare": Command(
        words=(
            *("compare", *_OLDER_BACKBONE, "--arms", "scratch", "pretrained/", "--labels", "2", "5"),
            *("--seeds", "0", "1", "--transfer.epochs", "1", "--transfer.head-steps", "3"),
            *("--transfer.finetune-steps", "3", *_CACHE),
        ),
        output="comparison",
        reads=("pretrained",),
        resumes=True,
        folder="older",
    ),
    "older report": Command(
        words=("report", "comparison"), output="comparison", reads=("comparison",), writes_into=True, folder="older"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Exit status of a command, all that it printed, and the number of its file events."""

    status: int
    out: str
    err: str
    events: int = 0

    @property
    def text(self) -> str:
        """All that was printed, on one line."""
        return " ".join(f"{self.err} {self.out}".split())


def warm_up(names: Sequence[str]) -> None:
    """Import the stages of these commands once, and leave figures blank: drawing takes most of a tiny run."""
    import torch
    from matplotlib.figure import Figure
    from PIL import Image

    from ssl_transfer.cli.main import COMMANDS as STAGES
    from ssl_transfer.evaluation.features import tsne

    torch.set_num_threads(1)
    os.environ["COLUMNS"] = "200"
    for kind in {COMMANDS[name].words[0] for name in names}:
        importlib.import_module(STAGES[kind][0])

    def save_blank(figure: Figure, file: Any, *, dpi: float = 100.0, **_: Any) -> None:
        width, height = (max(1, int(length * dpi / 10)) for length in figure.get_size_inches())
        Image.new("L", (width, height), 255).save(file, format="png")

    Figure.savefig = save_blank  # type: ignore[method-assign,assignment]
    tsne._ITERATIONS = 250


@functools.cache
def _printed() -> Path:
    """Return a folder for what the forks print, on a disk that no round fills."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def call(words: Sequence[str], folder: Path, *, event_hook: Callable[[int, str], None] | None = None) -> Answer:
    """Run a command in a fork, started in `folder`; `event_hook` gets the number and the name of each file event."""
    aside = _printed()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        _child(words, folder, aside, event_hook)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    out, err = ((aside / name).read_text(errors="replace") for name in ("out", "err"))
    events = aside / "events"
    return Answer(status=status, out=out, err=err, events=int(events.read_text()) if events.exists() else 0)


def _child(words: Sequence[str], folder: Path, aside: Path, event_hook: Callable[[int, str], None] | None) -> None:
    status, count = 70, 0
    try:
        (aside / "events").unlink(missing_ok=True)
        os.dup2(os.open(aside / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(aside / "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        sys.argv = ["ssl-transfer", *words]
        signal.alarm(TIMEOUT)
        from ssl_transfer.cli.main import main

        watched = True

        def watch(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            opened = name == "open" and arguments[2] is not None and arguments[2] & OPENED_TO_WRITE
            if not watched or not (opened or name in CHANGES) or isinstance(arguments[0], int):
                return
            path = os.fsdecode(arguments[0])
            if path.startswith(str(folder)) or not os.path.isabs(path):
                count += 1
                if event_hook is not None:
                    event_hook(count, name)

        sys.addaudithook(watch)
        sync = os.fsync

        def counted_sync(file: int) -> None:
            nonlocal count
            count += watched
            if watched and event_hook is not None:
                event_hook(count, "os.fsync")
            sync(file)

        os.fsync = counted_sync  # type: ignore[assignment]
        try:
            main(list(words))
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        watched = False
        sys.stdout.flush()
        sys.stderr.flush()
        (aside / "events").write_text(str(count))
    finally:
        os._exit(status)


def _write_inputs(place: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    chosen = np.concatenate([np.flatnonzero(digits.target == label)[:40] for label in range(4)])
    images, labels = images[chosen], digits.target[chosen]
    np.savez(place / "digits.npz", images=images, labels=labels)
    np.savez(place / "inverted.npz", images=255 - images, labels=labels)
    for number in range(0, len(images), 10):
        (folder := place / "pictures" / str(labels[number])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).resize((16, 16)).save(folder / f"{number}.png")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Finished runs of all commands, half-done ones, and the numbers of each."""

    place: Path
    halves: Path
    numbers: dict[str, dict[str, Any]]
    events: dict[str, int]


def prepare(workshop: Path, names: Sequence[str] = tuple(COMMANDS)) -> Prepared:
    """Run these commands, which come after those that they read, once; and once more to a kill in the middle."""
    place, halves = workshop / "finished", workshop / "halves"
    place.mkdir()
    _write_inputs(place)
    shutil.copytree(VERSIONS / "0.1", place / "older")
    numbers, events = {}, {}
    for name in names:
        command = COMMANDS[name]
        folder = place / command.folder
        before = workshop / "before"
        if command.resumes and command.folder == ".":
            shutil.copytree(place, before)
        answer = call(command.line(), folder)
        if answer.status:
            raise RuntimeError(f"{name}: exit status {answer.status}\n{answer.err}")
        numbers[name], events[name] = numbers_of(command, folder, answer), answer.events
        if before.exists():
            # Long enough for a checkpoint.
            middle = int(answer.events * 0.7)

            def die(count: int, _: str, middle: int = middle) -> None:
                if count == middle:
                    os.kill(os.getpid(), signal.SIGKILL)

            killed = call(command.line(), before, event_hook=die)
            if killed.status != -signal.SIGKILL:
                raise RuntimeError(f"{name}: was not killed\n{killed.err}")
            shutil.copytree(before / command.output, halves / command.output)
            shutil.rmtree(before)
    return Prepared(place=place, halves=halves, numbers=numbers, events=events)


def numbers_of(command: Command, folder: Path, answer: Answer, output: str = "") -> dict[str, Any]:
    """Read all numbers that a command leaves, but for clocks: the content of each file, by its name."""
    found: dict[str, Any] = {}
    if not command.output:
        return {"out": answer.out} if command.words[0] == "summary" else found
    root = folder / (output or command.output)
    # A report reads the tables alone.
    for path in sorted(root.glob("*") if command.writes_into else root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not path.is_file() or ".old-" in name or "checkpoints/" in name or "/." in f"/{name}":
            continue
        if path.suffix in (".safetensors", ".npy", ".npz"):
            found[name] = path.read_bytes()
        elif path.suffix == ".csv":
            found[name] = _rows(path)
        elif path.name == "result.json" or path.name in _TEXTS:
            found[name] = _content(path)
        elif path.name == LOG:
            found[name] = [_plain(line.content) for line in lines_of(path)]
    return found


def _content(path: Path) -> Any:
    try:
        return _plain(json.loads(path.read_bytes()))
    except ValueError:
        return path.read_bytes()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in (*CLOCKS, "backbone", "settings")}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _rows(path: Path) -> Any:
    try:
        lines = list(csv.reader(io.StringIO(path.read_bytes().decode())))
    except (ValueError, csv.Error):
        return path.read_bytes()
    return [line for line in lines if not any(cell in (*MEASURED, *CLOCKS) for cell in line)]
