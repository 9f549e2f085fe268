"""Completion for shells: a script without any Python in it, made of what every command's help says."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ssl_transfer.engine.errors import InputError, did_you_mean

PROGRAM = "ssl-transfer"
_NAME = PROGRAM.replace("-", "_")
_LINE = re.compile(r"^\W*?((?:-h, )?--[a-z0-9].*?)(?:  .*)?$", re.MULTILINE)
_FOLDED = re.compile(r"[ │]*\n[ │] (?=[^\s│-])")
"""Between two lines of a flag's values: what is said of the flag is further in."""
_FLAG = re.compile(r"--[a-z0-9][\w.-]*")
_CHOICES = re.compile(r"\{([\w.+-]+(?:,[\w.+-]+)+)\}")
_MORE = "..."
"""In the help, and behind a flag's values in a script: it takes several."""
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
# Where nothing fits, a file may.
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


class _Values(NamedTuple):
    """What the help lists for a flag."""

    words: str
    several: bool
    closed: bool
    """Whether there is nothing else that it takes."""


def script(shell: str, commands: Mapping[str, str]) -> str:
    """The completion of one shell.

    Args:
        shell: a name in `SHELLS`.
        commands: for each command, as `""` or `data check`, what its `--help` prints.

    Raises:
        InputError: a shell that there is no script for.
    """
    if shell not in SHELLS:
        near = did_you_mean(shell, SHELLS)
        raise InputError(f"--print-completion {shell or 'SHELL'}: for {', '.join(SHELLS)}.{near}")
    words = {name: _words(name, text, commands) for name, text in commands.items()}
    values = {name: {flag: ones for flag, ones in _flags(text) if ones} for name, text in commands.items()}
    if shell == "fish":
        return _fish(words, values)
    return _tcsh(words) if shell == "tcsh" else _bash(shell, words, values)


def _words(name: str, text: str, commands: Mapping[str, str]) -> list[str]:
    """What may follow a command: the commands below it, then its flags."""
    depth = len(name.split())
    below = [other.split()[-1] for other in commands if other.split()[:depth] == name.split() and other != name]
    direct = [word for word in dict.fromkeys(below) if f"{name} {word}".strip() in commands]
    return [*direct, *dict.fromkeys(flag for flag, _ in _flags(text))]


def _flags(text: str) -> list[tuple[str, _Values | None]]:
    """The flags that a help describes, each with the values that it takes, or None where they are not listed."""
    found: list[tuple[str, _Values | None]] = []
    for head in _LINE.findall(_FOLDED.sub("", text)):
        choices = _CHOICES.search(head)
        ones = choices and _Values(choices[1].replace(",", " "), _MORE in head, "|" not in head)
        found += [(flag, ones) for flag in _FLAG.findall(head)]
    return found


def _bash(shell: str, words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, _Values]]) -> str:
    flags = [f'    "{name}") echo "{" ".join(found)}" ;;' for name, found in words.items()]
    shared: dict[str, set[str]] = {}
    listed = {
        name: {flag: ones.words + f" {_MORE}" * ones.several for flag, ones in found.items()}
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


def _fish(words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, _Values]]) -> str:
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
            value = f" {'-x' if one.closed else '-r'} -a '{one.words}'" if one else ""
            lines.append(f"complete -c {PROGRAM} {condition}-l {flag}{value}")
            if one and one.several:
                after = _fish_condition([*conditions, f"__{_NAME}_after {flag}"])
                lines.append(f"complete -c {PROGRAM} {'-f ' if one.closed else ''}{after}-a '{one.words}'")
    return "\n".join(lines) + "\n"


def _fish_condition(conditions: list[str]) -> str:
    return f"-n '{'; and '.join(conditions)}' " if conditions else ""


def _tcsh(words: Mapping[str, list[str]]) -> str:
    """Tcsh's rules know little of where they stand: each command's words behind its name, and flags of all commands."""
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
