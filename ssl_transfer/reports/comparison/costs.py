"""The report's table of what each arm cost."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_transfer.evaluation.comparison.estimates import Row

_KINDS = {
    "pretrain_seconds": ("pretraining", "{:,.0f} s"),
    "transfer_seconds": ("one transfer run", "{:,.1f} s"),
    "images_seen": ("images seen in pretraining", "{:,.0f}"),
    "peak_memory_mb": ("peak memory", "{:,.0f} MB"),
    "num_parameters": ("backbone parameters", "{:,.0f}"),
}
_SENSED = {
    "pretrain_joules": ("energy of pretraining", "{:,.0f} J"),
    "transfer_joules": ("energy of one transfer run", "{:,.0f} J"),
}
"""Costs that not every machine can measure."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Means over all of an arm's runs."""

    columns: Sequence[str]
    """After arm and backbone; last the phases, whose seconds they are."""
    lines: Sequence[tuple[str, str, Sequence[str]]]
    """Arm, backbone and a text for each column."""
    sensed: bool
    """Whether energy is among them."""


def table_of(rows: Sequence[Row], pairs: Sequence[tuple[str, str]], phases: Sequence[str]) -> CostTable:
    """Energy is left out unless it was measured in every run, and the phases in results of older versions."""
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    runs: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)
    for row in rows:
        runs[row.arm, row.backbone].add((row.labels, row.seed))
        if row.split == "train":
            found[row.arm, row.backbone, row.phase, row.metric].append(row.value)
    means = {key: sum(values) / len(values) for key, values in found.items()}
    sensed = all(
        len(found.get((*pair, "chosen", metric), [])) == len(runs[pair]) for pair in pairs for metric in _SENSED
    )
    kinds = {**_KINDS, **(_SENSED if sensed else {})}
    timed = [phase for phase in phases if any(key[2:] == (phase, "seconds") for key in means)]
    lines = []
    for arm, backbone in pairs:
        texts = [form.format(means[arm, backbone, "chosen", metric]) for metric, (_, form) in kinds.items()]
        seconds = [means.get((arm, backbone, phase, "seconds")) for phase in timed]
        lines.append((arm, backbone, [*texts, *("-" if one is None else f"{one:,.1f} s" for one in seconds)]))
    return CostTable(columns=[*(name for name, _ in kinds.values()), *timed], lines=lines, sensed=sensed)
