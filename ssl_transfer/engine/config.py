"""Parse YAML and flags into frozen dataclasses, and write these back as YAML.

tyro is the only parser. The settings of a YAML file become flags before the user's own. So a flag wins over the file,
both have one error path, and a field's docstring is its `--help`.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from .errors import InputError, reason_of
from .printable import one_line
from .redaction import redacted_all
from .terminal import say

T = TypeVar("T")
MOST_VALUES = 100_000
"""Largest number of values in a YAML file."""
LARGEST = 2**63 - 1
"""Largest integer of torch and numpy."""
_SHALLOW = 200
"""Nesting that Python's own parser has no trouble with either."""
INLINE = tyro.conf.arg(name="")
"""Annotates a field whose own name is no part of its flags."""
LIST_FLAGS = "--\0"
"""Argument at which `parse` raises ListedFlags. No shell can pass it: it holds NUL."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Describe a flag that is no field: it is taken off the command line before `parse`."""

    flag: str
    values: tuple[str, ...] = ()
    """All that it takes; empty for a path."""
    help: str


CONFIG = Extra(flag="--config", help="--config FILE.yaml sets any of these; flags win over the file.")


@dataclass(frozen=True)
class Words:
    """Name the values of a setting that its type does not list; it takes others too."""

    words: tuple[str, ...]


class ListedFlags(Exception):  # noqa: N818  (no error: the answer to LIST_FLAGS)
    """Carry a command's default configuration and extra flags to the shells' completion."""

    def __init__(self, default: Any, extra: Sequence[Extra]) -> None:
        super().__init__()
        self.default, self.extra = default, extra


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file; all values stay strings, so that `3e-4` and `no` stay verbatim."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--config {path}: there is no such file. Give the path of a YAML file of settings.")
    try:
        # BaseLoader builds only strings, lists and mappings: nothing in a file can run code.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: not readable as YAML: {reason_of(error)}") from error
    if content is None or content == "":
        return {}
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: expected `name: value` lines, found {type(content).__name__}.")
    waiting: list[Any] = [content]
    for _ in range(MOST_VALUES):
        if not waiting:
            return content
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    # Aliases of aliases expand to billions of values; a cyclic alias expands without end.
    raise InputError(f"--config {path}: holds more than {MOST_VALUES:,} values, its aliases (`*name`) written out.")


def flags_of(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Convert nested settings to flags: `{"backbone": {"name": "resnet18"}}` -> `["--backbone.name", "resnet18"]`."""
    flags: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            flags += flags_of(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flags += [f"--{name}", *(str(item) for item in value)]
        elif value in ("true", "false") or isinstance(value, bool):
            flags.append(f"--{name}" if value in ("true", True) else negated(f"--{name}"))
        else:
            flags += [f"--{name}", "None" if value in ("", "null", "~") else str(value)]
    return flags


def negated(flag: str) -> str:
    """Return the flag that turns a boolean off: `--a.b` -> `--a.no-b`."""
    head, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{last}"


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings name by name; those of `above` win."""
    merged = dict(below)
    for name, value in above.items():
        held = merged.get(name)
        merged[name] = merge(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def take_flag(arguments: Sequence[str], flag: str, missing: str) -> tuple[str | None, list[str]]:
    """Take `FLAG VALUE` or `FLAG=VALUE` out of the arguments: the value, or None, and the other arguments.

    Raises:
        InputError: the flag has no value; `missing` is the message.
    """
    rest = list(arguments)
    for position, argument in enumerate(rest):
        name, equals, value = argument.partition("=")
        if name == flag:
            end = position + (1 if equals else 2)
            if end > len(rest):
                raise InputError(missing)
            return value if equals else rest[position + 1], rest[:position] + rest[end:]
    return None, rest


def take_config(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take `--config FILE` out of the arguments: the file's settings (empty without one) and the other arguments."""
    path, rest = take_flag(arguments, CONFIG.flag, "--config needs the path of a YAML file.")
    return {} if path is None else read_yaml(path), rest


def parse(
    config_type: type[T],
    settings: dict[str, Any],
    arguments: Sequence[str],
    *,
    program: str,
    default: T,
    note: str = "",
    extra: Sequence[Extra] = (),
) -> T:
    """Parse the settings of a file and the user's arguments, which win.

    `note` is a sentence below the description in `--help`; `extra` are the flags, beside --config, that are no fields.

    Raises:
        SystemExit: 2, after a message with near misses, for a name or value that does not exist.
        ListedFlags: the arguments ask for the flags.
    """
    if list(arguments) == [LIST_FLAGS]:
        raise ListedFlags(default, (CONFIG, *extra))
    from_file = flags_of(settings)
    words = [*from_file, *arguments]
    plain = all(one_line(word) == word for word in words)
    # tyro does not read NO_COLOR (https://no-color.org). Beside a word with codes, tyro writes none of its own.
    tyro._experimental_options["ansi_codes"] = plain and not os.environ.get("NO_COLOR")
    head = [str(type(default).__doc__), CONFIG.help, note, *(one.help for one in extra)]
    try:
        with contextlib.nullcontext() if plain else _escaped_errors():
            config = tyro.cli(
                config_type,
                prog=program,
                description="\n\n".join(part for part in head if part),
                args=words,
                default=default,
            )
    except SystemExit as stop:
        if stop.code and from_file:
            names = [flag for flag in from_file if flag.startswith("--")]
            say(f"(read from the --config file: {' '.join(names)})", error=True)
        raise
    _refuse_strange_values(to_dict(config))
    return config


@contextlib.contextmanager
def _escaped_errors() -> Iterator[None]:
    """Escape the control characters of the errors that tyro prints in the `with` block: it repeats the words."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            yield
    finally:
        say(*held.getvalue().splitlines(), error=True)


def positional(name: str) -> tuple[object, object]:
    """Annotate a field as a positional argument, `name` in the help: `Annotated[str, *positional("RUN")]`.

    The help omits the empty default: the command refuses it with a message of its own.
    """
    return tyro.conf.Positional, tyro.conf.arg(metavar=name, help_behavior_hint="")


def words(known: Sequence[str], others: str) -> tuple[object, object]:
    """Annotate a field with known values, beside others that `others` describes, for help and completion."""
    return tyro.conf.arg(metavar=f"{{{','.join(known)}}}|{others}"), Words(tuple(known))


def _refuse_strange_values(settings: dict[str, Any]) -> None:
    """Raise InputError for NaN, infinity, integers of more than 64 bits and NUL: they would pass most range checks."""
    for name, held in flatten(settings).items():
        for value in held if isinstance(held, list) else [held]:
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{flag} {value}: a finite number.")
            if isinstance(value, int) and abs(value) > LARGEST:
                raise InputError(f"{flag} {value}: at most {LARGEST} either way.")
            if isinstance(value, str) and "\0" in value:
                raise InputError(f"{flag} {value!r}: a text without the character NUL.")


def to_dict(config: Any) -> Any:
    """Convert a configuration to plain dicts, lists, strings and numbers, without credentials, as runs keep it."""
    return redacted_all(_plain(config))


def _plain(config: Any) -> Any:
    """Convert a configuration to plain dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    return str(config) if isinstance(config, (str, Path)) else config


def shallow(config: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, one level deep."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def dump(settings: dict[str, Any]) -> str:
    """Write settings as YAML that `read_yaml` and `parse` accept again."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def load(text: str) -> Any:
    """Parse the settings of a run as `dump` wrote them; errors are those of `yaml.safe_load`.

    libyaml parses ten times as fast, but crashes on deep nesting. No text is nested deeper than its brackets and its
    longest line allow.
    """
    deepest = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if yaml.__with_libyaml__ and deepest < _SHALLOW:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.load(text, Loader=yaml.CSafeLoader)
    return yaml.safe_load(text)


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    if not isinstance(settings, dict):
        return {prefix.removesuffix("."): settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def fingerprint(settings: Any) -> str:
    """Hash settings to sixteen hexadecimal digits."""
    text = json.dumps(to_dict(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
