"""Train a transfer phase on labels, between domains or from a teacher; list all ways to adapt in `ADAPTATIONS`."""

from . import baselines, dann, mmd_coral, self_training
from .domain_adaptation import Adaptation

ADAPTATIONS: dict[str, Adaptation] = {
    "source-only": baselines.SOURCE_ONLY,
    "adabn": baselines.ADABN,
    "dann": dann.DANN_ADAPTATION,
    "cdan": dann.CDAN_ADAPTATION,
    "mmd": mmd_coral.MMD_ADAPTATION,
    "coral": mmd_coral.CORAL_ADAPTATION,
    "self-training": self_training.SELF_TRAINING_ADAPTATION,
    "target": baselines.TARGET,
}
"""Ways to adapt to another domain. To add one, write a `Term` in a file of its own, and its line here."""
