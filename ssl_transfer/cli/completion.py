"""Write the completion script of a shell from the configurations of all commands.

The script holds no Python: a shell completes in milliseconds. tyro's own script starts Python at every Tab (0.46 s
against 0.02 s), covers one command, and needs shtab for tcsh.
"""

import importlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import tyro

from ssl_transfer.engine.config import INLINE, LIST_FLAGS, ListedFlags, Words, negated
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.stages.data import command as data
from ssl_transfer.stages.demos import compare as demo

PROGRAM = "ssl-transfer"
_NAME = PROGRAM.replace("-", "_")
_MORE = "..."
"""Follows the values of a flag that takes several, in a script."""
_BASH = """\
# Completion of {program} for {shell}: eval "$({program} --print-completion {shell})"
{before}_{name}_words() {{
    case "$1" in
{flags}
    esac
}}
_{name}_values() {{
    case "$1" in
{values}
    esac
}}
_{name}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" place="" flag="" word words=""
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        case "$word" in -*) flag="$word" ;; esac
        if [ -z "$flag" ] && [ -n "$(_{name}_words "$place${{place:+ }}$word")" ]; then
            place="$place${{place:+ }}$word"
        fi
    done
    if [ -n "$flag" ]; then
        words="$(_{name}_values "$place $flag")"
        [ -n "$words" ] || words="$(_{name}_values "$flag")"
    fi
    if [[ "$current" != -* && ("$previous" == -* || "$words" == *" {more}") ]]; then
        words="${{words% {more}}}"
    else
        words="$(_{name}_words "$place")"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
# Fall back to file names.
complete -o default -F _{name} {program}
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
"""
_FISH_AFTER = f"""\
function __{_NAME}_after --description 'whether --FLAG is the last flag before the cursor'
    set -l flags (string match -- '--*' (commandline -opc))
    test (count $flags) -gt 0; and test "$flags[-1]" = "--$argv[1]"
end"""


class Values(NamedTuple):
    """List the known values of a flag."""

    words: tuple[str, ...]
    several: bool = False
    """It takes more than one."""
    closed: bool = False
    """It takes no other value."""


Flags = Mapping[str, Values | None]
"""Flags, each with its values; None where these are not listed."""


def all_flags(commands: Mapping[str, tuple[str, str]]) -> dict[str, Flags]:
    """List the flags of every command and subcommand, sorted by name.

    Args:
        commands: module and summary by name.
    """
    below: dict[str, Iterable[str]] = {
        "adapt": ADAPTATIONS,
        "data": data.COMMANDS,
        "demo": ("", *demo.DEMOS),
        "pretrain": METHODS,
    }
    found: dict[str, Flags] = {"": {}}
    for name, (module, _) in commands.items():
        found[name] = {"--help": None}
        for word in below.get(name, ("",)):
            try:
                importlib.import_module(module).main([*word.split(), LIST_FLAGS])
            except ListedFlags as answer:
                extra = {one.flag: Values(one.values, closed=True) if one.values else None for one in answer.extra}
                fields_of = dict(_fields(answer.default, "--"))
                found[f"{name} {word}".rstrip()] = {"--help": None, **extra, **fields_of}
    return dict(sorted(found.items()))


def _fields(config: Any, prefix: str) -> Iterator[tuple[str, Values | None]]:
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
        flag = prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            yield from _fields(value, prefix if INLINE in marks else f"{flag}.")
        elif tyro.conf.Positional in marks:
            continue
        elif isinstance(value, bool):
            yield from ((flag, None), (negated(flag), None))
        else:
            yield flag, _values(hint, marks)


def _values(hint: Any, marks: tuple[Any, ...]) -> Values | None:
    """Read the values of a field from its type: a `Literal`, a tuple of one, or what `Words` names."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        known = [mark.words for mark in marks if isinstance(mark, Words)]
        return Values(known[0], several=typing.get_origin(inside[0]) is tuple) if known else _values(inside[0], ())
    if origin is tuple and typing.get_origin(inside[0]) is typing.Literal:
        return Values(typing.get_args(inside[0]), several=True, closed=True)
    return Values(inside, closed=True) if origin is typing.Literal else None


def check_shell(shell: str) -> None:
    """Raise InputError unless the shell is in `SHELLS`."""
    if shell not in SHELLS:
        near = did_you_mean(shell, SHELLS)
        raise InputError(f"--print-completion {shell or 'SHELL'}: for {', '.join(SHELLS)}.{near}")


def script(shell: str, commands: Mapping[str, Flags]) -> str:
    """Write the completion script of a shell.

    Args:
        shell: a name in `SHELLS`.
        commands: flags by command, such as `data check`; the command `""` is the program.
    """
    words = {name: [*_below(name, commands), *flags] for name, flags in commands.items()}
    values = {name: {flag: ones for flag, ones in flags.items() if ones} for name, flags in commands.items()}
    if shell == "fish":
        return _fish(words, values)
    return _tcsh(words) if shell == "tcsh" else _bash(shell, words, values)


def _below(name: str, commands: Mapping[str, Flags]) -> list[str]:
    """List the commands directly below one."""
    return [other.rpartition(" ")[2] for other in commands if other != "" and other.rpartition(" ")[0] == name]


def _bash(shell: str, words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, Values]]) -> str:
    flags = [f'    "{name}") echo "{" ".join(found)}" ;;' for name, found in words.items()]
    shared: dict[str, set[str]] = {}
    listed = {
        name: {flag: " ".join(ones.words) + f" {_MORE}" * ones.several for flag, ones in found.items()}
        for name, found in values.items()
    }
    for found in listed.values():
        for flag, one in found.items():
            shared.setdefault(flag, set()).add(one)
    # Most flags take the same words in every command.
    lines = [f'    "{flag}") echo "{next(iter(ones))}" ;;' for flag, ones in shared.items() if len(ones) == 1]
    lines += [
        f'    "{name} {flag}") echo "{one}" ;;'
        for name, found in listed.items()
        for flag, one in found.items()
        if len(shared[flag]) > 1
    ]
    before = _ZSH if shell == "zsh" else ""
    return _BASH.format(
        program=PROGRAM,
        shell=shell,
        name=_NAME,
        more=_MORE,
        before=before,
        flags="\n".join(flags),
        values="\n".join(lines),
    )


def _fish(words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, Values]]) -> str:
    lines = [f"# Completion of {PROGRAM} for fish: {PROGRAM} --print-completion fish | source", _FISH_AFTER]
    for name, found in words.items():
        seen = " ".join(name.split())
        below = [word for word in found if not word.startswith("-")]
        conditions = [f"__fish_seen_subcommand_from {word}" for word in seen.split()]
        conditions += [f"not __fish_seen_subcommand_from {' '.join(below)}"] if below else []
        condition = _fish_condition(conditions)
        if below:
            lines.append(f"complete -c {PROGRAM} -f {condition}-a '{' '.join(below)}'")
        for flag in (word[2:] for word in found if word.startswith("--")):
            one = values[name].get(f"--{flag}")
            value = f" {'-x' if one.closed else '-r'} -a '{' '.join(one.words)}'" if one else ""
            lines.append(f"complete -c {PROGRAM} {condition}-l {flag}{value}")
            if one and one.several:
                after = _fish_condition([*conditions, f"__{_NAME}_after {flag}"])
                lines.append(f"complete -c {PROGRAM} {'-f ' if one.closed else ''}{after}-a '{' '.join(one.words)}'")
    return "\n".join(lines) + "\n"


def _fish_condition(conditions: list[str]) -> str:
    return f"-n '{'; and '.join(conditions)}' " if conditions else ""


def _tcsh(words: Mapping[str, list[str]]) -> str:
    # A rule of tcsh sees the previous word alone: one rule for each command name, and one for the flags of all.
    rules = [
        f"'n/{name.split()[-1]}/({' '.join(below)})/'"
        for name, found in words.items()
        if name and (below := _plain(found))
    ]
    first = f"'p/1/({' '.join(_plain(words['']))})/'"
    flags = " ".join(sorted({word[2:] for found in words.values() for word in found if word.startswith("--")}))
    return f"# Completion of {PROGRAM} for tcsh\ncomplete {PROGRAM} {first} {' '.join(rules)} 'c/--/({flags})/'\n"


def _plain(found: list[str]) -> list[str]:
    return [word for word in found if not word.startswith("-")]


SHELLS = ("bash", "zsh", "fish", "tcsh")
