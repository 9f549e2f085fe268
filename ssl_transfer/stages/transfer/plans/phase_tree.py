"""Describe a phase of a plan, and join the phases of several plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["steps", "fit", "average"]
FIRST = ""
"""Value of `Phase.after`: the first weights of the run."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a plan: trained layers, learning rate, length."""

    name: str
    trained: str
    learning_rate: float
    layer_decay: float
    epochs: int
    batch_norm: Literal["train", "frozen"] = "train"
    """Statistics of trained BatchNorm layers: moved by the batches, or kept."""
    kind: Kind = "steps"
    """steps: the loop trains it. fit: logistic regression of the head (`probe.py`). average: mean of the weights of the
    two phases before it (`average.py`)."""
    after: str | None = None
    """Phase from whose weights it starts; FIRST: the first weights of the run; None: the phase before it."""


def starts_of(phases: Sequence[Phase]) -> dict[str, str]:
    """Return the phase from whose weights each phase starts, by name; FIRST for the first weights of the run."""
    starts, before = {}, FIRST
    for phase in phases:
        starts[phase.name] = before if phase.after is None else phase.after
        before = phase.name
    return starts


def path_to(phases: Sequence[Phase], name: str) -> list[str]:
    """Return the names of the phases that lead from the first weights to a phase, which is the last of them."""
    starts, path = starts_of(phases), [name]
    while starts[path[0]] != FIRST:
        path.insert(0, starts[path[0]])
    return path


def named(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Number the names that occur more than once: finetune-1, finetune-2."""
    numbered = []
    for name in {phase.name: None for phase in phases}:
        same = [phase for phase in phases if phase.name == name]
        numbered += [
            (phase, replace(phase, name=f"{name}-{number}") if len(same) > 1 else phase)
            for number, phase in enumerate(same, start=1)
        ]
    return tuple(next(new for old, new in numbered if old is phase) for phase in phases)


def merged(plans: Mapping[str, Sequence[Phase]]) -> tuple[Phase, ...]:
    """Join plans into one list of phases, in which equal beginnings are trained once.

    Each phase names the one from whose weights it starts (`Phase.after`). The last phase of a plan has the plan's name,
    except a phase of the head, which keeps its own.

    Args:
        plans: phases of each plan, by its name.
    """
    found: dict[tuple[str, Phase], Phase] = {}
    for plan, phases in plans.items():
        after = FIRST
        for phase in phases:
            # Names differ between equal phases of two plans.
            key = (after, replace(phase, name=""))
            if key not in found:
                taken = {one.name for one in found.values()}
                name = phase.name if phase.trained == "head" and phase.name not in taken else plan
                name = f"{plan}-{phase.name}" if name in taken else name
                found[key] = replace(phase, name=name, after=after)
            after = found[key].name
    return tuple(found.values())
