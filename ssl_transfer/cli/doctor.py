"""Examine this machine for the other commands: what is installed, what would fail, and the fixes.

Nothing is sent or fetched. Of a login only its existence is shown.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from rich.table import Table

from ssl_transfer import __version__
from ssl_transfer.data.store.cache_admin import entries
from ssl_transfer.data.store.cache_folder import FLAG
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted, file_size, words
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.io import hub
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.terminal import say
from ssl_transfer.engine.tracking import wandb_run
from ssl_transfer.stages.data.cache_command import CacheFolder

LEAST_DISK = 10**9
"""Bytes for a run's checkpoints and the pixels of a small data set."""
LEAST_MEMORY = 2 * 10**9
PACKAGE = "ssl_transfer"
EXTRAS = {
    "table": "tables of labels in parquet",
    "hf": "hf: data",
    "medmnist": "medmnist: data",
    "slurm": "--launcher slurm",
    "export": "export --format onnx",
    "explain": "explain --what grad-cam",
    "tensorboard": "--tracking.also tensorboard",
    "mlflow": "--tracking.also mlflow",
    "dashboard": "wandb_dashboard.py",
    "notebooks": "notebooks",
}
"""Optional extras of the package for users, with the use of each."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check versions, devices, cache, disk and logins of this machine; exit status 1 if something would fail."""

    loading: CacheFolder = field(default_factory=CacheFolder)
    """Cache of pixels to check."""
    output: Path = Path("runs")
    """Folder of future runs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Describe one finding, a line of the table."""

    group: str
    name: str
    found: str
    problem: str = ""
    """Failure and its fix; empty if there is none."""
    lacking: str = ""
    """Name of the extra that installs a missing package."""


def examine(config: DoctorConfig) -> list[Finding]:
    """Examine versions, extras, devices, folders and logins."""
    return [*_versions(), *_extras(), *_devices(), *_folders(config), *_logins()]


def _versions() -> Iterator[Finding]:
    own = f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    yield Finding(group="versions", name=PACKAGE, found=own)
    for requirement in _requirements():
        if requirement.marker is None:
            yield _installed(requirement, "versions")


def _extras() -> Iterator[Finding]:
    for extra, what in EXTRAS.items():
        for requirement in _requirements():
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
                yield _installed(requirement, what, extra=extra)


def _requirements() -> list[Requirement]:
    """List the requirements of the installed package; empty for a copy that was never installed."""
    try:
        return [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return []


def _installed(requirement: Requirement, group: str, *, extra: str = "") -> Finding:
    """Check a package that every command needs, or that an extra installs."""
    name, wanted = requirement.name, str(requirement.specifier)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        problem = "" if extra else f"{name} is missing: pip install {name!r}"
        return Finding(group=group, name=name, found="not installed", problem=problem, lacking=extra)
    fits = requirement.specifier.contains(version, prereleases=True)
    problem = "" if fits else f"{name} {version}, where {wanted} is needed: pip install '{name}{wanted}'"
    return Finding(group=group, name=name, found=version, problem=problem)


def _devices() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = counted(torch.get_num_threads(), "thread")
    yield Finding(group="devices", name="CPU", found=f"{counted(usable, 'core')}, torch uses {threads}")
    memory = _memory()
    little = f"{file_size(memory)} of memory: take small images and batches" if 0 < memory < LEAST_MEMORY else ""
    yield Finding(group="devices", name="memory", found=file_size(memory) if memory else "not known", problem=little)
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        precisions = "bf16 and fp16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        found = f"{properties.name}, {file_size(properties.total_memory)}, --mixed-precision {precisions}"
        yield Finding(group="devices", name=f"GPU {number}", found=found)
    if not torch.cuda.device_count():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding(group="devices", name="GPU", found=f"none that torch sees; {built}")


def _memory() -> int:
    """Return the machine's memory in bytes; 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _folders(config: DoctorConfig) -> Iterator[Finding]:
    try:
        cache = expanded(config.loading.cache, flag=FLAG)
    except InputError as error:
        yield Finding(group="folders", name="cache", found="no home folder", problem=str(error))
    else:
        held = entries(cache)
        used = f"{counted(len(held), 'entry', 'entries')}, {file_size(sum(one.size for one in held))}"
        yield _folder("cache", cache, used, FLAG)
    yield _folder("runs", config.output, "", "--output")


def _folder(name: str, folder: Path, note: str, flag: str) -> Finding:
    """Check the free space and write access of a folder, or of its nearest existing parent."""
    problem, free = "", 0
    try:
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x" * 4096)
            file.flush()
        if free < LEAST_DISK:
            problem = f"{folder}: {file_size(free)} free. Make room, or give another {flag}"
    except OSError as error:
        problem = f"{folder}: cannot be written ({error.strerror}). Give another {flag}"
    parts = [str(folder), note, f"{file_size(free)} free"]
    return Finding(group="folders", name=name, found=", ".join(part for part in parts if part), problem=problem)


def _logins() -> Iterator[Finding]:
    for name, there, use in (
        ("wandb", wandb_run.has_login(), "--tracking.wandb auto is online"),
        ("Hugging Face hub", hub.has_login(), "private data and weights"),
    ):
        yield Finding(group="logins", name=name, found=f"found ({use})" if there else "none")
    yield Finding(group="cluster", name="Slurm", found="sbatch found" if shutil.which("sbatch") else "not here")


def show(findings: Sequence[Finding]) -> None:
    """Print the table."""
    table = Table(title=f"{PACKAGE} on this machine", title_justify="left")
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    last = ""
    for one in findings:
        if last and one.group != last:
            table.add_section()
        mark = words(one.found, style="bold red" if one.problem else "")
        table.add_row(words(one.group if one.group != last else "", style="bold"), words(one.name), mark)
        last = one.group
    console().print(table)


def main(arguments: Sequence[str], program: str = "ssl-transfer doctor") -> None:
    """`doctor [flags]`.

    Raises:
        FailedRunsError: something would fail.
    """
    settings, rest = configuration.take_config(arguments)
    findings = examine(configuration.parse(DoctorConfig, settings, rest, program=program, default=DoctorConfig()))
    show(findings)
    problems = [one.problem for one in findings if one.problem]
    if problems:
        raise FailedRunsError(f"{counted(len(problems), 'thing')} would fail here:", *(f"  {one}" for one in problems))
    say("All that every command needs is here.")
    lacking = [extra for extra in EXTRAS if any(one.lacking == extra for one in findings)]
    if lacking:
        say("Without an extra of this package these are refused:", *(f"  {_refused(one)}" for one in lacking))


def _refused(extra: str) -> str:
    return f'{EXTRAS[extra]}: pip install "{PACKAGE}[{extra}]"'
