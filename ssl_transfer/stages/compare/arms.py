"""Resolve the arms of a comparison from its settings: names, backbones, initial weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.init_names import BASELINES, CONTINUED, RUN, TIMM, is_continued, is_timm
from ssl_transfer.stages.common.initialization import AUTO, named
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.pretrain import config as pretraining

from . import finished_arms
from .config import Arm, CompareConfig


def resolve_arms(config: CompareConfig) -> list[Arm]:
    """Resolve the requested arms with their backbones, and add the baselines of every backbone."""
    runs = {name: Run(Path(name)) for name in config.arms if finished_arms.is_folder(name)}
    for name in config.arms:
        _check_name(name, runs)
    for run in runs.values():
        finished_arms.check_finished(run)
    if len(set(config.arms)) < len(config.arms):
        raise InputError(f"--arms {' '.join(config.arms)}: each only once.")
    methods = [name for name in config.arms if name not in BASELINES and not finished_arms.has_weights(name)]
    weights = [name for name in config.arms if finished_arms.has_weights(name)]
    common = _common(config)
    recipes = {(name, recipe.backbone): recipe for name in methods for recipe in _recipes_of(name, common, config)}
    in_use = list(dict.fromkeys([*common, *(backbone for _, backbone in recipes)]))
    on = {name: [backbone for arm, backbone in recipes if arm == name] for name in methods}
    on |= {name: [finished_arms.backbone_of(name, runs.get(name), config.image_size, in_use)] for name in weights}
    on["imagenet"] = _beside_imagenet(config, common, on)
    _check_weights(config, needed=bool(on["imagenet"]), others=[name for name in weights if is_timm(name)])
    asked = [name for name in config.arms if name not in BASELINES]
    # Where imagenet was not requested, it stands before all arms that continue from it.
    order = [name for name in config.arms if name != "scratch"] if "imagenet" in config.arms else ["imagenet", *asked]
    chosen = [(name, backbone) for name in order for backbone in on[name]]
    used = list(dict.fromkeys(backbone for _, backbone in chosen)) or common
    if unused := [backbone.name for backbone in common if config.backbones and backbone not in used]:
        raise InputError(f"--backbones {' '.join(unused)} would be ignored: no arm can use it. Leave it out.")
    labels, called = _labels(used), finished_arms.table_names(runs)
    starts = {name: name for name in weights} | {"imagenet": "imagenet"}
    inits = [starts.get(name, "imagenet" if is_continued(name) else "scratch") for name, _ in chosen]
    return [
        *(
            Arm(name="scratch", init="scratch", backbone=backbone, recipe=None, label=labels[backbone])
            for backbone in used
        ),
        *(
            Arm(
                name=called.get(name, name),
                init=init,
                backbone=backbone,
                recipe=recipes.get((name, backbone)),
                label=labels[backbone],
                weights=config.imagenet_weights
                if init == "imagenet" or (is_timm(init) and not on["imagenet"])
                else None,
                run=runs.get(name),
            )
            for (name, backbone), init in zip(chosen, inits, strict=True)
        ),
    ]


def _common(config: CompareConfig) -> list[BackboneConfig]:
    """Return the backbones of arms that do not set their own.

    Raises:
        InputError: --backbones beside a flag for the same setting.
    """
    auto, named_twice = BackboneConfig(name=AUTO), " ".join(config.backbones)
    if not config.backbones:
        return [named(config.backbone, BackboneConfig())]
    if len(set(config.backbones)) < len(config.backbones):
        raise InputError(f"--backbones {named_twice}: each only once.")
    if config.backbone.name != AUTO:
        raise InputError(f"--backbone.name {config.backbone.name} and --backbones {named_twice}: give one of them.")
    if config.imagenet != auto:
        raise InputError(
            f"--imagenet.* would be ignored: with --backbones {named_twice} imagenet stands beside each of them. "
            "Leave it out, or give one --backbone.name."
        )
    return [replace(config.backbone, name=name) for name in config.backbones]


def _beside_imagenet(
    config: CompareConfig, common: list[BackboneConfig], on: dict[str, list[BackboneConfig]]
) -> list[BackboneConfig]:
    """Return the backbones that imagenet stands beside; `on` are those of the requested arms."""
    continued = [backbone for name, found in on.items() if is_continued(name) for backbone in found]
    if "imagenet" not in config.arms:
        return list(dict.fromkeys(continued))
    plain = [backbone for name, found in on.items() if name in METHODS for backbone in found]
    runs = [backbone for name, found in on.items() if finished_arms.is_folder(name) for backbone in found]
    if config.backbones:
        return list(dict.fromkeys([*common, *plain, *continued, *runs]))
    is_open = config.imagenet == config.backbone == BackboneConfig(name=AUTO)
    own = [] if is_open and (continued or (runs and not plain)) else [named(config.imagenet, common[0])]
    return list(dict.fromkeys([*own, *continued, *runs]))


def _check_weights(config: CompareConfig, *, needed: bool, others: list[str]) -> None:
    """Raise InputError for a file of weights that no arm, or more than one timm:NAME, would use."""
    if config.imagenet_weights is None or needed or len(others) == 1:
        return
    if others:
        raise InputError(
            f"--imagenet-weights {config.imagenet_weights}: one file, and {', '.join(others)}. Name one of "
            "them, or let timm's hub supply them."
        )
    raise InputError("--imagenet-weights would be ignored: add imagenet to --arms.")


def _labels(used: list[BackboneConfig]) -> dict[BackboneConfig, str]:
    """Name each backbone for the tables."""
    names = [backbone.name for backbone in used]
    return {
        backbone: backbone.name
        if names.count(backbone.name) == 1
        else " ".join([backbone.name, backbone.stem, *backbone.arguments])
        for backbone in used
    }


def _check_name(name: str, runs: Mapping[str, Run]) -> None:
    """Raise InputError for an unknown arm."""
    known = [*BASELINES, *METHODS]
    if name in known or (is_continued(name) and name.removeprefix(CONTINUED) in METHODS):
        return
    if is_timm(name):
        pretrained.pretrained_name(name.removeprefix(TIMM))
        return
    if name in runs:
        _ = runs[name].spec
        return
    if name.startswith(RUN):
        raise InputError(f"--arms {name}: that is what tables call it. Give the run's folder, as in runs/NAME.")
    if Path(name).is_dir():
        raise InputError(f"--arms {name}: no such method. The folder of that name is written ./{name}.")
    start, plus, method = name.partition("+")
    if plus and start == "scratch" and method in METHODS:
        raise InputError(f"--arms {name}: every method begins from scratch unless told otherwise. Write {method}.")
    near = did_you_mean(name, [*known, *(f"{CONTINUED}{method}" for method in METHODS)])
    raise InputError(
        f"--arms {name}: there are {', '.join(known)} and {CONTINUED}METHOD, {TIMM}NAME, or the folder of a run, as "
        f"in runs/NAME.{near}"
    )


def _recipes_of(name: str, common: list[BackboneConfig], config: CompareConfig) -> list[pretraining.Recipe[Any]]:
    """Return the recipe of a method on each of its backbones.

    Its own settings win over those for all methods, which win over its defaults. `imagenet+METHOD` has the settings of
    METHOD. Its backbone is that of --imagenet where the method can use it, as few small ones have ImageNet weights.
    """
    method = name.removeprefix(CONTINUED)
    entry, own = METHODS[method], getattr(config.recipes, method)
    auto = BackboneConfig(name=AUTO)

    def usable(backbone: BackboneConfig) -> bool:
        return entry.backbones == "any" or backbones.is_vit_name(backbone.name)

    given = common if config.backbones or config.backbone != auto else []
    suggested = [backbone for backbone in given if usable(backbone)] or [entry.backbone]
    found = [named(own.backbone, backbone) for backbone in suggested]
    if method != name and config.imagenet != auto and usable(named(config.imagenet, common[0])):
        found = [named(config.imagenet, common[0])]
    return [
        pretraining.Recipe(
            method=own.method,
            backbone=backbone,
            optimizer=own.optimizer,
            epochs=next(value for value in (own.epochs, config.epochs, entry.epochs) if value is not None),
            batch_size=next(
                value for value in (own.batch_size, config.batch_size, entry.batch_size) if value is not None
            ),
            evaluate_every=own.evaluate_every,
        )
        for backbone in dict.fromkeys(found)
    ]
