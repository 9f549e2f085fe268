"""Demonstrate a comparison with the settings of `compare.yaml`, on images that need no download."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssl_transfer.data import sources
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.terminal import say
from ssl_transfer.stages.common.initialization import initial_backbone
from ssl_transfer.stages.compare import compare as comparing
from ssl_transfer.stages.compare.config import CompareConfig
from ssl_transfer.stages.transfer.config import TransferConfig

SETTINGS = Path(__file__).with_name("compare.yaml")
DEMOS = {"adapt": "adapt", "distill": "distill"}
"""Demos of other stages, `demo NAME`, and the file of each in this folder."""


def main(arguments: Sequence[str], program: str = "ssl-transfer demo") -> None:
    """Run `demo [flags of compare]`, or `demo NAME [flags]` of one in `DEMOS`.

    ImageNet joins the comparison where its weights are available. If the user requested it, missing weights are an
    error.
    """
    if arguments and arguments[0] in DEMOS:
        name, *rest = arguments
        importlib.import_module(f".{DEMOS[name]}", __package__).main(rest)
        return
    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"demo {arguments[0]}: there is demo alone, the comparison, and demo with {' or '.join(DEMOS)}."
            f"{did_you_mean(arguments[0], DEMOS)}"
        )
    settings, rest = configuration.take_config(arguments)
    settings = configuration.merge(configuration.read_yaml(SETTINGS), settings)
    config = configuration.parse(CompareConfig, settings, rest, program=program, default=CompareConfig())
    if "imagenet" not in config.arms and config.arms == tuple(configuration.read_yaml(SETTINGS)["arms"]):
        with_imagenet = replace(config, arms=(config.arms[0], "imagenet", *config.arms[1:]))
        try:
            trial = TransferConfig(
                data=config.data,
                image_size=config.image_size,
                init="imagenet",
                backbone=config.imagenet,
                imagenet_weights=config.imagenet_weights,
            )
            initial_backbone(
                trial, sources.load(config.data, image_size=config.image_size, config=config.loading), None
            )
            config = with_imagenet
        except InputError as error:
            if config.imagenet_weights is not None:
                raise
            say(f"without the imagenet arm: {error}")
    comparing.run(config)
