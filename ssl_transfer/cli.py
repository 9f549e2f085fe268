"""The `ssl-transfer` command: one subcommand a stage. A stage is imported only when it is called."""

import importlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from .engine import signals, surroundings
from .engine.errors import FailedRunsError, InputError, StoppedError, did_you_mean
from .engine.secrets import redacted

COMMANDS = {
    "demo": ("ssl_transfer.stages.demo", "the whole question on the embedded digits, in minutes; demo adapt|distill"),
    "data": ("ssl_transfer.output.data", "check images, preview their augmentation, list the cache of pixels"),
    "pretrain": ("ssl_transfer.stages.pretrain", "pretrain a backbone on images without labels"),
    "transfer": ("ssl_transfer.stages.transfer", "train a head, then everything, on labelled images"),
    "adapt": ("ssl_transfer.stages.adapt", "train on labelled images of one domain for another without labels"),
    "distill": ("ssl_transfer.stages.distill", "train a small student on what the model of a run says of images"),
    "predict": ("ssl_transfer.output.predict", "what the model of a run says of images, as a table of probabilities"),
    "export": ("ssl_transfer.output.export", "the model of a run for timm, torchvision, ONNX, torch.export or the hub"),
    "evaluate": ("ssl_transfer.stages.evaluate", "kNN, linear probe and head of a run, on clean or corrupted images"),
    "compare": ("ssl_transfer.stages.compare", "pretraining against scratch and ImageNet, over budgets and seeds"),
    "summary": ("ssl_transfer.stages.summary", "a backbone's blocks, and what each phase would train of them"),
    "sync": ("ssl_transfer.output.sync", "show in wandb what a run, or all runs below a folder, have logged"),
    "explain": (
        "ssl_transfer.output.explain",
        "what a run's network sees: maps, Grad-CAM, neighbours, ideals, attacks",
    ),
    "report": ("ssl_transfer.output.report", "draw a comparison's report again from its results"),
}
USER_ERROR = 2


def usage() -> str:
    """The list of subcommands."""
    lines = "\n".join(f"  {name:10} {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        f"usage: ssl-transfer COMMAND [--help] [flags]\n\n{lines}\n\n"
        "Every command that trains takes --data, --output, --epochs, --batch-size, --config FILE.yaml and --fresh;\n"
        "started again with the same settings it goes on where it stopped."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand.

    Mistakes of the user end with one message and exit status 2; failed runs, a full disk and too little memory with
    one and status 1.
    """
    with surroundings.printing():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else USER_ERROR)
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise InputError(f"{name!r} is not a command.{did_you_mean(name, COMMANDS)}\n\n{usage()}")
        with signals.raised():
            importlib.import_module(COMMANDS[name][0]).main(rest)
    except InputError as error:
        print(redacted(f"error: {error}"), file=sys.stderr)
        sys.exit(USER_ERROR)
    except FailedRunsError as error:
        print(redacted(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        message = surroundings.explained(error)
        if not message:
            raise
        print(redacted(f"error: {message}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, StoppedError) else signal.SIGINT
        # One of several processes speaks for all.
        if os.environ.get("RANK", "0") == "0":
            line = f"\nstopped by {signal.Signals(number).name}. To go on: {_again(arguments)}"
            print(redacted(line), file=sys.stderr)
        sys.exit(128 + number)


def _again(arguments: Sequence[str]) -> str:
    """What to call to go on where it stopped."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "launch the same command again, without --fresh."
    return f"ssl-transfer {shlex.join(word for word in arguments if word != '--fresh')}"
