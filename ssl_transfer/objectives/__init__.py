"""What the transfer stage can train towards, beside the labels themselves."""

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
"""Ways to adapt to another domain. One more is a `Term` in a file of its own, and its line here."""
