"""The runs that `demo adapt` makes of its settings: each method has its own, all have the recipe."""

from pathlib import Path

import pytest

from ssl_transfer.engine import config as configuration
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.dann import DANNConfig
from ssl_transfer.objectives.self_training import SelfTrainingConfig
from ssl_transfer.stages.demos.adapt import AdaptDemoConfig, _job
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_a_run_has_the_recipe_of_all_and_the_settings_of_its_method(name):
    recipe = TransferRecipe(plan=("full",), batch_size=48, label_smoothing=0.1)
    demo = AdaptDemoConfig(
        recipe=recipe,
        choose="density",
        dann=DANNConfig(strength=0.25),
        self_training=SelfTrainingConfig(confidence=0.75),
        output=Path("there"),
    )
    job = _job(demo, name, 7)
    assert job.folder == job.config.output == Path("there") / "runs" / name / "seed7"
    assert configuration.shallow(recipe).items() <= configuration.shallow(job.config).items()
    assert (job.config.seed, job.config.choose, job.config.oracle) == (7, "density", True)
    assert (job.config.source, job.config.target) == ("digits", "blended-digits")
    assert type(job.config.method) is ADAPTATIONS[name].config
    own = {"dann": DANNConfig(strength=0.25), "self-training": SelfTrainingConfig(confidence=0.75)}
    assert job.config.method == own.get(name, ADAPTATIONS[name].config())
