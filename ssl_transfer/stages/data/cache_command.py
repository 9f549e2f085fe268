"""List the decoded pixels on disk, verify them, and remove them on request: `ssl-transfer data cache`."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.cache_admin import Entry, entries, evict, evict_hashes, strangers
from ssl_transfer.data.store.cache_folder import FLAG, RECORD, stranger
from ssl_transfer.data.store.cache_integrity import damaged_rows, intact
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import console, counted, file_size, words
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.errors import FailedRunsError, InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.terminal import say

DAY = 86400.0
_SHORT = 8
"""Characters of a key in the list; any unique prefix selects an entry."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """Location of the cache."""

    cache: Path = LoadingConfig().cache
    """Folder for decoded pixels, as in the other commands."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """List the decoded pixels on disk, verify or remove them. Removed pixels are decoded again when needed."""

    verify: bool = False
    """Read every stored image and compare it with its hash; exit status 1 if one differs."""
    evict: tuple[str, ...] = ()
    """Entries to remove: keys from the list, or all."""
    older_than: float | None = None
    """Remove entries that no run has opened for this many days."""
    loading: CacheFolder = field(default_factory=CacheFolder)
    """Location of the cache."""


def manage(config: CacheConfig) -> None:
    """List the entries, verify all, or remove some and print the freed space.

    Raises:
        FailedRunsError: `verify` found damage.
    """
    if bool(config.evict) + (config.older_than is not None) + config.verify > 1:
        raise InputError("Give one of --verify, --evict and --older-than, not both.")
    if config.older_than is not None and not config.older_than >= 0:
        raise InputError(f"--older-than {config.older_than:g}: days, 0 or more.")
    folder = expanded(config.loading.cache, flag=FLAG)
    found = entries(folder)
    if config.verify:
        _verify(config.loading.cache, found)
        return
    if not config.evict and config.older_than is None:
        _list(folder, found)
        return
    if config.older_than is not None:
        chosen = [one for one in found if one.last_used < time.time() - config.older_than * DAY]
    else:
        chosen = _named(found, config.evict)
    freed = 0
    for one in chosen:
        reason = evict(one)
        if reason:
            say(f"kept {one.key[:_SHORT]}: {reason}")
        else:
            freed += one.size
            say(f"removed {one.key[:_SHORT]} ({_what(one)}): {file_size(one.size)}")
    if config.older_than is not None:
        freed += evict_hashes(folder, before=time.time() - config.older_than * DAY)
    elif ALL in config.evict:
        freed += evict_hashes(folder, before=float("inf"))
    say(f"{file_size(freed)} freed in {folder}")
    _print_strangers(folder)


def _named(found: Sequence[Entry], wanted: Sequence[str]) -> list[Entry]:
    """Select the entries that the user names."""
    if ALL in wanted:
        return list(found)
    chosen = {}
    for name in wanted:
        fitting = [one for one in found if name and one.key.startswith(name)]
        if len(fitting) != 1:
            keys = [one.key[:_SHORT] for one in found]
            several = f"fits {len(fitting)} entries: give more of the key" if fitting else "no such entry"
            raise InputError(f"--evict {name}: {several}.{did_you_mean(name, keys)} There are all, {', '.join(keys)}.")
        chosen[fitting[0].key] = fitting[0]
    return list(chosen.values())


def _verify(cache: Path, found: Sequence[Entry]) -> None:
    """Print a line for each entry, and raise FailedRunsError with the damaged ones."""
    damaged = []
    for one in found:
        label = f"{one.key[:_SHORT]} ({_what(one)})"
        if one.busy or not (one.place / RECORD).is_file():
            # No run reads it as it is: the next one decodes the images.
            say(f"{label}: not verified")
            continue
        damage = _damage_of(one)
        say(f"{label}: {damage or counted(one.num_images, 'image') + ' verified'}")
        if damage:
            flags = "" if cache == LoadingConfig().cache else f" {FLAG} {shlex.quote(str(cache))}"
            remedy = f"ssl-transfer data cache --evict {one.key[:_SHORT]}{flags}"
            held = stranger(one.place)
            first = f"Move {held} away, then `" if held else "`"
            damaged.append(f"  {label}: {damage}. {first}{remedy}` removes the entry; the next run decodes its images.")
    if damaged:
        raise FailedRunsError(f"{counted(len(damaged), 'entry', 'entries')} damaged:", *damaged)
    if not found:
        say("no decoded pixels")


def _damage_of(one: Entry) -> str:
    """Read all of an entry and describe its damage; empty if there is none."""
    try:
        intact(one.place)
        with bar(f"verifying {one.key[:_SHORT]}", one.num_images) as progress:
            rows = damaged_rows(one.place, lambda done: progress.update(done, ""))
    except Exception as error:  # Of damaged bytes anything can be raised.
        return f"damaged ({error})"
    if not rows:
        return ""
    return f"damaged ({counted(len(rows), 'row')} of pixels.npy differ from their hash, the first is row {rows[0]})"


def _print_strangers(folder: Path) -> None:
    found = strangers(folder)
    if found:
        say(f"without a record of ssl_transfer, so they stay: {', '.join(found)}")


def _list(folder: Path, found: Sequence[Entry]) -> None:
    if not found:
        say(f"{folder}: no decoded pixels")
        _print_strangers(folder)
        return
    table = Table(title=words(f"Decoded pixels in {folder}"), title_justify="left")
    table.add_column("key", no_wrap=True)
    table.add_column("images of", overflow="fold")
    for column in ("images", "size", "last used"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        images = f"{one.num_images:,}" if one.complete else ""
        table.add_row(one.key[:_SHORT], words(_what(one)), images, file_size(one.size), _ago(one.last_used))
    console().print(table)
    say(
        f"{file_size(sum(one.size for one in found))} in all; --evict KEY or all removes, --older-than DAYS what is "
        "unused; --verify reads all"
    )
    _print_strangers(folder)


def _what(one: Entry) -> str:
    if one.complete:
        return f"{one.source}, {one.kind}"
    return "being decoded" if one.busy else "left by a killed run or an earlier version"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", DAY), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def main(arguments: Sequence[str], program: str = "ssl-transfer data cache") -> None:
    """Run `data cache [--verify] [--evict all|KEY ...] [--older-than DAYS]`."""
    settings, rest = configuration.take_config(arguments)
    manage(configuration.parse(CacheConfig, settings, rest, program=program, default=CacheConfig()))
