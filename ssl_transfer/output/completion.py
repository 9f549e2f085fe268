"""Completion for shells: a script without any Python in it, made of what every command's help says."""

import re
from collections.abc import Mapping

from ..engine.errors import InputError, did_you_mean

PROGRAM = "ssl-transfer"
_LINE = re.compile(r"^\W*?((?:-h, )?--[a-z0-9].*?)(?:  .*)?$", re.MULTILINE)
_FLAG = re.compile(r"--[a-z0-9][\w.-]*")
_CHOICES = re.compile(r"\{([\w.+-]+(?:,[\w.+-]+)+)\}")
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
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" place="" word words
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in -*) break ;; esac
        [ -n "$(_{name}_words "$place${{place:+ }}$word")" ] || break
        place="$place${{place:+ }}$word"
    done
    words="$(_{name}_values "$place $previous")"
    if [ -z "$words" ]; then
        words="$(_{name}_values "$previous")"
    fi
    if [ -z "$words" ]; then
        case "$previous:$current" in
        -*:-*) words="$(_{name}_words "$place")" ;;
        -*:*) words="" ;;
        *) words="$(_{name}_words "$place")" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    # Nothing fits: a file may.
    [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _{name} {program}
"""


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
    values = {name: {flag: one for flag, one in _flags(text) if one} for name, text in commands.items()}
    if shell == "fish":
        return _fish(words, values)
    return _tcsh(words) if shell == "tcsh" else _bash(shell, words, values)


def _words(name: str, text: str, commands: Mapping[str, str]) -> list[str]:
    """What may follow a command: the commands below it, then its flags."""
    depth = len(name.split())
    below = [other.split()[-1] for other in commands if other.split()[:depth] == name.split() and other != name]
    direct = [word for word in dict.fromkeys(below) if f"{name} {word}".strip() in commands]
    return [*direct, *dict.fromkeys(flag for flag, _ in _flags(text))]


def _flags(text: str) -> list[tuple[str, str]]:
    """The flags that a help describes, each with the values that it takes, or nothing where they are not listed."""
    found = []
    for head in _LINE.findall(text):
        choices = _CHOICES.search(head)
        found += [(flag, choices[1] if choices else "") for flag in _FLAG.findall(head)]
    return found


def _bash(shell: str, words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, str]]) -> str:
    flags = [f'    "{name}") echo "{" ".join(found)}" ;;' for name, found in words.items()]
    shared: dict[str, set[str]] = {}
    for found in values.values():
        for flag, one in found.items():
            shared.setdefault(flag, set()).add(one)
    # Most flags take the same words in every command.
    lines = [
        f'    "{flag}") echo "{next(iter(ones)).replace(",", " ")}" ;;'
        for flag, ones in shared.items()
        if len(ones) == 1
    ]
    lines += [
        f'    "{name} {flag}") echo "{one.replace(",", " ")}" ;;'
        for name, found in values.items()
        for flag, one in found.items()
        if len(shared[flag]) > 1
    ]
    before = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _BASH.format(
        program=PROGRAM,
        shell=shell,
        name=PROGRAM.replace("-", "_"),
        before=before,
        flags="\n".join(flags),
        values="\n".join(lines),
    )


def _fish(words: Mapping[str, list[str]], values: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f"# Completion of {PROGRAM} for fish: {PROGRAM} --print-completion fish | source"]
    for name, found in words.items():
        seen = " ".join(name.split())
        below = [word for word in found if not word.startswith("-")]
        conditions = [f"__fish_seen_subcommand_from {word}" for word in seen.split()]
        conditions += [f"not __fish_seen_subcommand_from {' '.join(below)}"] if below else []
        condition = f"-n '{'; and '.join(conditions)}' " if conditions else ""
        if below:
            lines.append(f"complete -c {PROGRAM} -f {condition}-a '{' '.join(below)}'")
        for flag in found:
            if flag.startswith("--"):
                one = values[name].get(flag, "").replace(",", " ")
                lines.append(f"complete -c {PROGRAM} {condition}-l {flag[2:]}" + (f" -x -a '{one}'" if one else ""))
    return "\n".join(lines) + "\n"


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
