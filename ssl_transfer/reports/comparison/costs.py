"""Tabulate the costs of each arm: seconds, images, memory, parameters, energy."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.metric_properties import METRICS

_TITLES = {
    "pretrain_seconds": "pretraining",
    "transfer_seconds": "one transfer run",
    "images_seen": "images seen in pretraining",
    "peak_memory_mb": "peak memory",
    "num_parameters": "backbone parameters",
}
_SENSED = {"pretrain_joules": "energy of pretraining", "transfer_joules": "energy of one transfer run"}
"""Costs that only some machines can measure."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Means over all runs of an arm."""

    columns: Sequence[str]
    """Titles after arm and backbone; the last are the phases, with their seconds."""
    lines: Sequence[tuple[str, str, Sequence[str]]]
    """Arm, backbone and a text for each column."""
    sensed: bool
    """Energy is among the columns."""


def table_of(results: Results) -> CostTable:
    """Average the costs of each arm; without energy unless every run has it, and without phases of older versions."""
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    runs: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)
    for row in results.rows:
        runs[row.arm, row.backbone].add((row.labels, row.seed))
        if row.split == "train":
            found[row.arm, row.backbone, row.phase, row.metric].append(row.value)
    means = {key: sum(values) / len(values) for key, values in found.items()}
    sensed = all(
        len(found.get((*pair, "chosen", metric), [])) == len(runs[pair]) for pair in results.pairs for metric in _SENSED
    )
    titles = _TITLES | (_SENSED if sensed else {})
    timed = [phase for phase in results.phases if any(key[2:] == (phase, "seconds") for key in means)]
    lines = []
    for arm, backbone in results.pairs:
        texts = [METRICS[metric].text(means[arm, backbone, "chosen", metric]) for metric in titles]
        seconds = [means.get((arm, backbone, phase, "seconds")) for phase in timed]
        texts += ["-" if one is None else METRICS["seconds"].text(one) for one in seconds]
        lines.append((arm, backbone, texts))
    return CostTable(columns=[*titles.values(), *timed], lines=lines, sensed=sensed)
