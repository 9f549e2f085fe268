"""Images and a checkpoint that do not go together, and what is left of the images that it was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneConfig, make_spec
from ssl_transfer.stages.common.checkpoint_data import matched, own_images
from ssl_transfer.stages.common.run import Run


@pytest.fixture
def images() -> Dataset:
    """Twelve images of one channel: four of them for training, four for validation, four for the test."""
    parts = {"unlabeled": [], "train": [0, 1, 2, 3], "validation": [4, 5, 6, 7], "test": [8, 9, 10, 11]}
    return Dataset(
        source="folder:images",
        pixels=torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8),
        labels=torch.arange(12) % 2,
        names=[f"{index}.png" for index in range(12)],
        classes=("ant", "bee"),
        splits={name: torch.tensor(indices, dtype=torch.int64) for name, indices in parts.items()},
        fingerprint="",
        contents=np.arange(100, 112, dtype=np.uint64),
    )


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(seen, value_range)`: a run with an exported backbone."""

    def call(seen=(), value_range=(0.0, 255.0)):
        config = BackboneConfig(name="resnet10t")
        spec = make_spec(config, in_chans=1, image_size=16, mean=(0.5,), std=(0.2,), value_range=value_range)
        backbone = pretrained.scratch(spec, seed=0)
        seen = None if seen is None else np.array(seen, dtype=np.uint64)
        pretrained.export(backbone, tmp_path / "run" / "backbone", {}, seen=seen)
        return Run(tmp_path / "run")

    return call


def test_what_goes_together_stays_as_it_is(images, checkpoint):
    found = matched(images, checkpoint(seen=[100, 103, 7]), LoadingConfig())
    assert found == images


def test_images_that_were_trained_on_are_not_tested(images, checkpoint):
    with pytest.raises(InputError, match=r"trained on 1 image for validation and 2 images for test .*4\.png"):
        matched(images, checkpoint(seen=[100, 104, 109, 111]), LoadingConfig())


def test_images_that_were_trained_on_can_be_left_out(images, checkpoint):
    found = matched(images, checkpoint(seen=[100, 104, 109, 111]), LoadingConfig(leakage="drop"))
    assert {name: indices.tolist() for name, indices in found.splits.items()} == {
        "unlabeled": [],
        "train": [0, 1, 2, 3],
        "validation": [5, 6, 7],
        "test": [8, 10],
    }
    assert "left out" in found.notes[-1]


def test_images_that_were_trained_on_can_be_allowed(images, checkpoint):
    found = matched(images, checkpoint(seen=[104]), LoadingConfig(leakage="allow"))
    assert found.splits == images.splits
    assert found.notes[-1].startswith("warning: ")


def test_a_checkpoint_that_does_not_say_what_it_saw(images, checkpoint):
    assert "not known which images" in matched(images, checkpoint(seen=None), LoadingConfig()).notes[-1]


def test_other_channels(images, checkpoint):
    run = checkpoint()
    run.spec = replace(run.spec, in_chans=3)
    with pytest.raises(InputError, match="takes images of 3 channels; folder:images has 1"):
        matched(images, run, LoadingConfig())


def test_values_of_another_depth(images, checkpoint):
    run = checkpoint(value_range=(0.0, 65535.0))
    with pytest.raises(InputError, match=r"are 0 to 255, and .* was trained on 0 to 65535: they are of another depth"):
        matched(images, run, LoadingConfig())
    # Who says what the values mean is believed.
    given = matched(images, run, LoadingConfig(value_range=(0.0, 255.0)))
    assert given.value_range == (0.0, 255.0)


@pytest.mark.parametrize(("high", "warns"), [(300.0, False), (1000.0, True)])
def test_values_of_nearly_the_same_range_are_read_as_the_checkpoints(images, checkpoint, high, warns):
    found = matched(images, checkpoint(value_range=(0.0, high)), LoadingConfig())
    assert found.value_range == (0.0, high)
    assert bool(found.notes) == warns


def test_a_checkpoint_keeps_what_every_training_saw(tmp_path: Path, checkpoint):
    run = checkpoint(seen=[9, 5, 5])
    assert run.seen.tolist() == [5, 9]
    assert Run(run.path / "backbone").seen.tolist() == [5, 9]


def settings_in(folder: Path, **held: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(held))
    return folder


def test_a_runs_own_images_are_read_as_it_read_them(tmp_path):
    loading = {"channels": "grey", "split_seed": 3}
    run = settings_in(tmp_path / "run", data="folder:images", loading=loading)
    expected = ("folder:images", LoadingConfig(channels="grey", split_seed=4))
    assert own_images(Run(run), "", LoadingConfig(split_seed=4)) == expected
    assert own_images(Run(run / "backbone"), "", LoadingConfig(split_seed=4)) == expected
    assert own_images(Run(run), "digits", LoadingConfig()) == ("digits", LoadingConfig())
    adapted = settings_in(tmp_path / "adapted", source="folder:images", target="digits", loading={})
    assert own_images(Run(adapted), "", LoadingConfig()) == ("digits", LoadingConfig())


def test_a_stream_and_a_folder_without_settings_name_no_images(tmp_path):
    run = settings_in(tmp_path / "run", data="hf:photographs", loading={"streaming": True})
    assert own_images(Run(run), "", LoadingConfig())[0] == ""
    assert own_images(Run(tmp_path), "", LoadingConfig())[0] == ""


def test_an_adaptation_that_saw_grey_as_colour_sees_it_so_again(images, checkpoint):
    run = checkpoint()
    run.spec = spec = replace(run.spec, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(InputError, match="takes images of 3 channels"):
        matched(images, run, LoadingConfig())
    run = Run(settings_in(run.path, source="folder:colours", target="folder:images"))
    run.spec = spec
    found = matched(images, run, LoadingConfig())
    assert found.num_channels == 3
    assert torch.equal(found.pixels[:, 2], images.pixels[:, 0])
