"""Parse the lines of a plan. Each is a phase: the trained layers, then settings that differ from the recipe's."""

from collections.abc import Sequence

from ssl_transfer.engine.errors import InputError, did_you_mean

PROBE = "probe"
"""Phase that fits the head by a logistic regression."""
AVERAGE = "average"
"""Phase that takes the mean of the weights of the two phases before it."""
PLANS = {
    "feature-extraction": "the head on the frozen backbone, nothing else",
    PROBE: "a logistic regression on the frozen backbone's features, its strength chosen by validation",
    "fine-tune": "the head, then everything at a tenth of its rate",
    "fine-tune-frozen": "as fine-tune; BatchNorm keeps its statistics",
    "fine-tune-moving": "as fine-tune; the batches move BatchNorm's statistics",
    "partial": "the head, then also the last blocks: partial, partial last:3 or partial from:NAME",
    "gradual": "the head, then one more block from behind in each phase: gradual, or gradual 4 (Howard and Ruder 2018)",
    "full": "everything at once",
    "full-fast": "everything at once at a high rate, equal in all layers, as random weights need it",
    "low-level": "the first blocks, the others dropped, and a new head: low-level 3 (few images, unlike the source)",
    "surgical": "the head, then also the first blocks: surgical, or surgical first:2 (Lee et al. 2023)",
}
WORDS = (PROBE, "head", "last:N", "first:N", "from:NAME", "all", AVERAGE)
AUTO = "auto"
PORTFOLIO = ("feature-extraction", "probe", "fine-tune-frozen", "fine-tune-moving", "full-fast")
"""Plans of `--plans auto`, the same for every arm."""
WITH_BLOCKS = ("partial", "gradual", "low-level", "surgical")
"""Plans that depend on the blocks of a backbone."""
HEADS = (PROBE, "head")
"""Phases of the head alone."""
SETTINGS = {
    "rate": "a number above 0",
    "epochs": "a whole number from 1",
    "decay": "above 0, at most 1",
    "norm": "train or frozen",
}
"""Settings of a phase, with their values."""
_LAST, _SURGICAL, _GRADUAL = "last:2", "first:1", 3


def lines_of(plan: Sequence[str]) -> tuple[str, ...]:
    """Parse the lines of a plan into phases; a named plan is written out.

    Raises:
        InputError: an unknown plan, phase or setting; a plan without a phase.
    """
    if not plan or not plan[0].strip():
        raise InputError(f"--plan trains nothing: name one of {', '.join(PLANS)}, or phases such as head all.")
    name, *arguments = plan
    # `probe` is a plan, and a phase that others may follow.
    is_named = name in PLANS and not (name == PROBE and arguments)
    lines = _written_out(name, arguments) if is_named else tuple(plan)
    for line in lines:
        _check(line)
    words = [line.split()[0] for line in lines]
    for number, word in enumerate(words):
        if word == AVERAGE and (number < 2 or AVERAGE in words[number - 2 : number] or words[0] not in HEADS):
            raise InputError(
                f"--plan {' '.join(lines)}: average takes the mean of the two phases before it, the first of which "
                "trains the head, as in: head all average."
            )
    return lines


def _written_out(name: str, arguments: Sequence[str]) -> tuple[str, ...]:
    takes = name in WITH_BLOCKS
    if len(arguments) > (1 if takes else 0):
        raise InputError(f"--plan {name} {' '.join(arguments)}: it takes {'one word' if takes else 'no word'} more.")
    if name == "low-level" and not arguments:
        raise InputError("--plan low-level: how many of the first blocks are kept? As in `low-level 3`.")
    if name == "gradual":
        count = count_of(name, arguments[0]) if arguments else _GRADUAL
        return ("head", *(f"last:{number}" for number in range(1, count + 1)))
    if name == "low-level":
        count_of(name, arguments[0])
        return ("head",)
    if name in ("partial", "surgical"):
        default, kinds = (_LAST, ("last", "from")) if name == "partial" else (_SURGICAL, ("first",))
        line = arguments[0] if arguments else default
        _check(line)
        if line.split()[0].partition(":")[0] not in kinds:
            allowed = "last:N or from:NAME" if name == "partial" else "first:N"
            raise InputError(f"--plan {name} {line}: {allowed}, or another plan.")
        return ("head", line)
    return {
        "feature-extraction": ("head",),
        PROBE: (PROBE,),
        "fine-tune": ("head", "all"),
        "fine-tune-frozen": ("head", "all norm=frozen"),
        "fine-tune-moving": ("head", "all norm=train"),
        "full": ("all",),
        "full-fast": ("all rate=3e-3 decay=1 norm=train",),
    }[name]


def count_of(name: str, text: str) -> int:
    """Parse the number of blocks of a plan."""
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--plan {name} {text}: a number of blocks, 1 or more.")
    return int(text)


def _check(line: str) -> None:
    """Refuse a line that is no phase. Names of layers are looked up in the backbone later."""
    trained, *settings = line.split() or [""]
    kind, colon, rest = trained.partition(":")
    known = trained in (*HEADS, "all", AVERAGE) or (colon and rest and kind in ("last", "first", "from"))
    if not known or (kind in ("last", "first") and not (rest.isdecimal() and int(rest))):
        raise InputError(
            f"--plan {line!r}: neither a plan ({', '.join(PLANS)}) nor a phase ({', '.join(WORDS)}, N from 1)."
            f"{did_you_mean(trained, [*PLANS, *WORDS])}"
        )
    for setting in settings:
        name, _, text = setting.partition("=")
        if trained in (PROBE, AVERAGE):
            raise InputError(f"--plan {line!r}: {trained} has no settings.")
        if name not in SETTINGS:
            raise InputError(
                f"--plan {line!r}: {setting!r} is no setting of a phase; there are {', '.join(SETTINGS)}, as in "
                "rate=1e-3."
            )
        if not _is_value(name, text):
            raise InputError(f"--plan {line!r}: {setting!r} must be {SETTINGS[name]}.")


def _is_value(name: str, text: str) -> bool:
    if name == "norm":
        return text in ("train", "frozen")
    try:
        value = float(text)
    except ValueError:
        return False
    return value > 0.0 and (name != "epochs" or text.isdecimal()) and (name != "decay" or value <= 1.0)
