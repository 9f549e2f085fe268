"""Run the `ssl-transfer` command, one subcommand a stage; a stage is imported when it is called."""

import errno
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from ssl_transfer import __version__
from ssl_transfer.engine.console import signals, streams
from ssl_transfer.engine.errors import FailedRunsError, InputError, RehearsedError, StoppedError, did_you_mean
from ssl_transfer.engine.terminal import say

from . import help_cache

COMMANDS = {
    "demo": ("ssl_transfer.stages.demos.compare", "compare on the embedded digits, in minutes; demo adapt|distill"),
    "data": ("ssl_transfer.stages.data.command", "check images, preview their augmentation, list the cache of pixels"),
    "pretrain": ("ssl_transfer.stages.pretrain.pretrain", "pretrain a backbone on images without labels"),
    "transfer": ("ssl_transfer.stages.transfer.transfer", "train a head, then everything, on labelled images"),
    "adapt": ("ssl_transfer.stages.adapt.adapt", "train on labelled images of one domain for another without labels"),
    "distill": ("ssl_transfer.stages.distill.distill", "train a small student from the model of a run"),
    "predict": ("ssl_transfer.stages.predict.predict", "predict images with a run's model: a table of probabilities"),
    "export": ("ssl_transfer.stages.export.export", "export a model for timm, torchvision, ONNX, torch.export, hub"),
    "evaluate": ("ssl_transfer.stages.evaluate", "kNN, linear probe and head of a run, on clean or corrupted images"),
    "compare": ("ssl_transfer.stages.compare.compare", "pretraining against scratch and ImageNet, at several budgets"),
    "summary": ("ssl_transfer.stages.summary", "list a backbone's blocks, and what each phase would train of them"),
    "sync": ("ssl_transfer.stages.sync", "show the logs of a run, or of all runs below a folder, in wandb"),
    "explain": ("ssl_transfer.stages.explain.explain", "explain a model: maps, Grad-CAM, neighbours, ideals, attacks"),
    "report": ("ssl_transfer.reports.comparison.report", "draw a comparison's report again from its results"),
    "doctor": ("ssl_transfer.cli.doctor", "check versions, devices, disk and logins of this machine"),
}
"""Module and summary of each command."""
USER_ERROR = 2
STATUSES = """\
exit status: 0 done; 1 a run failed, the disk is full, memory is too small; 2 a mistake in the command;
128 + N stopped by signal N (130 Ctrl-C, 143 SIGTERM), the state saved: the same command resumes;
141 broken pipe."""


def usage() -> str:
    """List the subcommands and exit statuses."""
    lines = "\n".join(f"  {name:10} {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        f"usage: ssl-transfer COMMAND [--help] [flags]\n\n{lines}\n\n"
        "Every command that trains takes --data, --output, --epochs, --batch-size, --config FILE.yaml and --fresh;\n"
        "started again with the same settings it goes on where it stopped. With --dry-run it says what it would do.\n\n"
        f"{STATUSES}\n\n"
        "ssl-transfer --version; ssl-transfer --print-completion bash|zsh|fish|tcsh, for the shell's start-up file."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; end with one message and the exit status in `STATUSES`."""
    with streams.printing():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(*usage().split("\n"))
        sys.exit(0 if arguments else USER_ERROR)
    if arguments == ["--version"]:
        say(f"ssl-transfer {__version__}")
        sys.exit(0)
    name, *rest = arguments
    try:
        if name == "--print-completion":
            from . import completion

            completion.check_shell(" ".join(rest))
            sys.stdout.write(completion.script(rest[0], completion.all_flags(COMMANDS)))
            return
        if name not in COMMANDS:
            raise InputError(f"{name!r} is not a command.{did_you_mean(name, COMMANDS)}", "", *usage().split("\n"))
        with signals.raised():
            help_cache.shown(arguments, lambda: importlib.import_module(COMMANDS[name][0]).main(rest))
    except RehearsedError as rehearsed:
        if _speaks():
            say(*rehearsed.args)
    except (InputError, FailedRunsError) as error:
        first, *others = error.args
        say(f"error: {first}", *others, error=True)
        sys.exit(USER_ERROR if isinstance(error, InputError) else 1)
    except (OSError, MemoryError, RuntimeError) as error:
        message = streams.explained(error)
        if not message:
            raise
        say(f"error: {message}", error=True)
        # A name that is too long for the file system is a user's error.
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        sys.exit(USER_ERROR if too_long else 1)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, StoppedError) else signal.SIGINT
        if _speaks():
            say("", f"stopped by {signal.Signals(number).name}. To go on: {_again(arguments)}", error=True)
        sys.exit(128 + number)


def _speaks() -> bool:
    """Check for rank 0, which alone prints."""
    return os.environ.get("RANK", "0") == "0"


def _again(arguments: Sequence[str]) -> str:
    """Return the command that resumes the run."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "launch the same command again, without --fresh."
    return f"ssl-transfer {shlex.join(word for word in arguments if word != '--fresh')}"
