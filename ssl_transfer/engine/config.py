"""Configuration: YAML and flags into frozen dataclasses, and back into YAML.

There is one parser, tyro. A YAML file is turned into flags that stand before the user's own, so a flag wins over the
file, a mistake in either has one error path, and a field's docstring is its `--help`.
"""

import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from .errors import InputError
from .redaction import redacted

T = TypeVar("T")
MOST_VALUES = 100_000
"""In a file of settings."""
LARGEST = 2**63 - 1
"""Whole numbers beyond it are none for torch and numpy."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, all values as the strings that stand there (so `3e-4` and `no` stay verbatim)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--config {path}: there is no such file. Give the path of a YAML file of settings.")
    try:
        # BaseLoader builds only strings, lists and mappings: nothing in a file can run code.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: not readable as YAML: {error}") from error
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
    # A few aliases of aliases make billions, one of itself makes them without end.
    raise InputError(f"--config {path}: holds more than {MOST_VALUES:,} values, its aliases (`*name`) written out.")


def flags_of(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as flags: `{"backbone": {"name": "resnet18"}}` -> `["--backbone.name", "resnet18"]`."""
    flags: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            flags += flags_of(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flags += [f"--{name}", *(str(item) for item in value)]
        elif value in ("true", "false") or isinstance(value, bool):
            head, _, last = name.rpartition(".")
            off = f"{head}.no-{last}" if head else f"no-{last}"
            flags.append(f"--{name}" if value in ("true", True) else f"--{off}")
        else:
            flags += [f"--{name}", "None" if value in ("", "null", "~") else str(value)]
    return flags


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested settings in which those of `above` win, name by name."""
    merged = dict(below)
    for name, value in above.items():
        held = merged.get(name)
        merged[name] = merge(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def take_config(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take `--config FILE` out of the arguments: the file's settings (empty without one) and the other arguments."""
    rest = list(arguments)
    for position, argument in enumerate(rest):
        if argument == "--config" and position + 1 < len(rest):
            return read_yaml(rest[position + 1]), rest[:position] + rest[position + 2 :]
        if argument.startswith("--config="):
            return read_yaml(argument.partition("=")[2]), rest[:position] + rest[position + 1 :]
        if argument == "--config":
            raise InputError("--config needs the path of a YAML file.")
    return {}, rest


def parse(
    config_type: type[T],
    settings: dict[str, Any],
    arguments: Sequence[str],
    *,
    program: str,
    default: T,
    note: str = "",
) -> T:
    """A configuration from the settings of a file and the user's arguments, which win; `note` ends the help's head.

    Raises SystemExit(2), after a message with near misses, for a name or value that does not exist.
    """
    from_file = flags_of(settings)
    # https://no-color.org, which tyro does not know.
    tyro._experimental_options["ansi_codes"] = not os.environ.get("NO_COLOR")
    try:
        config = tyro.cli(
            config_type,
            prog=program,
            description=f"{type(default).__doc__}\n\n--config FILE.yaml sets any of these; flags win over the file."
            + (f"\n\n{note}" if note else ""),
            args=[*from_file, *arguments],
            default=default,
        )
    except SystemExit as stop:
        if stop.code and from_file:
            names = [flag for flag in from_file if flag.startswith("--")]
            print(f"(read from the --config file: {' '.join(names)})", file=sys.stderr)
        raise
    _refuse_strange_values(to_dict(config))
    return config


def positional(name: str) -> tuple[object, object]:
    """What makes a field a word behind the command: `Annotated[str, *positional("RUN")]`; the help calls it `name`.

    That it is empty by default is not told: the command then asks for it.
    """
    return tyro.conf.Positional, tyro.conf.arg(metavar=name, help_behavior_hint="")


def _refuse_strange_values(settings: dict[str, Any]) -> None:
    """Raise InputError for what would pass most comparisons: NaN, infinity, whole numbers of more than 64 bits, NUL."""
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
    """A configuration as plain dicts, lists, strings and numbers, without credentials: this is what runs keep of it."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return redacted(str(config)) if isinstance(config, (str, Path)) else config


def shallow(config: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, one level deep: what a component's constructor takes."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def dump(settings: dict[str, Any]) -> str:
    """Settings as YAML that `read_yaml` and `parse` accept again."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    if not isinstance(settings, dict):
        return {prefix.removesuffix("."): settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def fingerprint(settings: Any) -> str:
    """Sixteen hexadecimal digits that change when any setting does."""
    text = json.dumps(to_dict(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
