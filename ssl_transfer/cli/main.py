"""The `ssl-transfer` command: one subcommand a stage. A stage is imported only when it is called."""

import errno
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence

from ssl_transfer import __version__
from ssl_transfer.engine.console import signals, streams
from ssl_transfer.engine.errors import FailedRunsError, InputError, RehearsedError, StoppedError, did_you_mean
from ssl_transfer.engine.redaction import redacted

from . import help_cache

COMMANDS = {
    "demo": (
        "ssl_transfer.stages.demos.compare",
        "the whole question on the embedded digits, in minutes; demo adapt|distill",
    ),
    "data": ("ssl_transfer.stages.data.command", "check images, preview their augmentation, list the cache of pixels"),
    "pretrain": ("ssl_transfer.stages.pretrain.pretrain", "pretrain a backbone on images without labels"),
    "transfer": ("ssl_transfer.stages.transfer.transfer", "train a head, then everything, on labelled images"),
    "adapt": ("ssl_transfer.stages.adapt.adapt", "train on labelled images of one domain for another without labels"),
    "distill": (
        "ssl_transfer.stages.distill.distill",
        "train a small student on what the model of a run says of images",
    ),
    "predict": (
        "ssl_transfer.stages.predict.predict",
        "what the model of a run says of images, as a table of probabilities",
    ),
    "export": (
        "ssl_transfer.stages.export.export",
        "the model of a run for timm, torchvision, ONNX, torch.export or the hub",
    ),
    "evaluate": ("ssl_transfer.stages.evaluate", "kNN, linear probe and head of a run, on clean or corrupted images"),
    "compare": (
        "ssl_transfer.stages.compare.compare",
        "pretraining against scratch and ImageNet, over budgets and seeds",
    ),
    "summary": ("ssl_transfer.stages.summary", "a backbone's blocks, and what each phase would train of them"),
    "sync": ("ssl_transfer.stages.sync", "show in wandb what a run, or all runs below a folder, have logged"),
    "explain": (
        "ssl_transfer.stages.explain.explain",
        "what a run's network sees: maps, Grad-CAM, neighbours, ideals, attacks",
    ),
    "report": ("ssl_transfer.reports.comparison.report", "draw a comparison's report again from its results"),
    "doctor": ("ssl_transfer.cli.doctor", "what this machine has: versions, devices, disk, logins; what would fail"),
}
USER_ERROR = 2
STATUSES = """\
exit status: 0 done; 1 a run failed, the disk is full, memory is too small; 2 a mistake in what was asked for;
128 + N stopped by signal N (130 Ctrl-C, 143 SIGTERM), the state saved: the same command goes on;
141 nobody reads its output any more."""


def usage() -> str:
    """The list of subcommands."""
    lines = "\n".join(f"  {name:10} {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        f"usage: ssl-transfer COMMAND [--help] [flags]\n\n{lines}\n\n"
        "Every command that trains takes --data, --output, --epochs, --batch-size, --config FILE.yaml and --fresh;\n"
        "started again with the same settings it goes on where it stopped. With --dry-run it says what it would do.\n\n"
        f"{STATUSES}\n\n"
        "ssl-transfer --version; ssl-transfer --print-completion bash|zsh|fish|tcsh, for the shell's start-up file."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand.

    Mistakes of the user end with one message and exit status 2; failed runs, a full disk and too little memory with
    one and status 1.
    """
    with streams.printing():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else USER_ERROR)
    if arguments == ["--version"]:
        print(f"ssl-transfer {__version__}")
        sys.exit(0)
    name, *rest = arguments
    try:
        if name == "--print-completion":
            _print_completion(" ".join(rest))
            return
        if name not in COMMANDS:
            raise InputError(f"{name!r} is not a command.{did_you_mean(name, COMMANDS)}\n\n{usage()}")
        with signals.raised():
            help_cache.shown(arguments, lambda: importlib.import_module(COMMANDS[name][0]).main(rest))
    except RehearsedError as rehearsed:
        if _speaks():
            print(redacted(str(rehearsed)))
    except InputError as error:
        print(redacted(f"error: {error}"), file=sys.stderr)
        sys.exit(USER_ERROR)
    except FailedRunsError as error:
        print(redacted(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        message = streams.explained(error)
        if not message:
            raise
        print(redacted(f"error: {message}"), file=sys.stderr)
        # A name that no disk takes is a slip in what was asked for.
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        sys.exit(USER_ERROR if too_long else 1)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, StoppedError) else signal.SIGINT
        if _speaks():
            line = f"\nstopped by {signal.Signals(number).name}. To go on: {_again(arguments)}"
            print(redacted(line), file=sys.stderr)
        sys.exit(128 + number)


def _speaks() -> bool:
    """Whether this process says what all of them would: one of several does."""
    return os.environ.get("RANK", "0") == "0"


def _again(arguments: Sequence[str]) -> str:
    """What to call to go on where it stopped."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "launch the same command again, without --fresh."
    return f"ssl-transfer {shlex.join(word for word in arguments if word != '--fresh')}"


def _print_completion(shell: str) -> None:
    """Print a shell's script from the flags of all commands."""
    from . import completion

    if shell not in completion.SHELLS:
        completion.script(shell, {})
    from ssl_transfer.engine.config import LIST_FLAGS, ListedFlags
    from ssl_transfer.methods import METHODS
    from ssl_transfer.objectives import ADAPTATIONS
    from ssl_transfer.stages.data import command as data
    from ssl_transfer.stages.demos import compare as demo

    subcommands: dict[str, Iterable[str]] = {
        "adapt": ADAPTATIONS,
        "data": data.COMMANDS,
        "demo": demo.DEMOS,
        "pretrain": METHODS,
    }
    flags: dict[str, completion.Flags] = {"": {}}
    for name, (module, _) in COMMANDS.items():
        flags[name] = {"--help": None}
        # Of these four, demo alone has flags without a subcommand.
        own = name == "demo" or name not in subcommands
        for word in [*([""] if own else []), *subcommands.get(name, ())]:
            try:
                importlib.import_module(module).main([*word.split(), LIST_FLAGS])
            except ListedFlags as listed:
                flags[f"{name} {word}".rstrip()] = completion.flags_of(listed)
    print(completion.script(shell, dict(sorted(flags.items()))), end="")
