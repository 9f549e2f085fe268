"""What a comparison compares: its settings, and the arms with their backbones that follow from them."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from ..engine.errors import InputError, did_you_mean
from ..engine.optim import OptimizerConfig
from ..evaluation.statistics import CONTINUED
from ..methods import METHODS
from ..models import backbones
from ..models.backbones import BackboneConfig
from . import pretrain as pretraining
from .initial import AUTO, named
from .plan import TransferRecipe
from .run import IMAGE_SIZE, RunConfig

BASELINES = ("scratch", "imagenet")
M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class ArmRecipe(Generic[M]):
    """How one method pretrains in a comparison; what is left open is taken from the settings for all methods."""

    method: M
    """The method's own settings."""
    backbone: BackboneConfig = BackboneConfig(name=AUTO)
    """What is pretrained. auto: --backbone where the method can use it, otherwise what the method suggests."""
    optimizer: OptimizerConfig
    """How it is stepped."""
    epochs: int | None = None
    """Passes over the pool. None: --epochs, or what the method suggests."""
    batch_size: int | None = None
    """Images per optimiser step. None: --batch-size, or what the method suggests."""
    evaluate_every: int = 10
    """Epochs between measurements of kNN accuracy."""


Recipes: Any = dataclasses.make_dataclass(
    "Recipes",
    [
        # Each method's settings as flags: --simclr.epochs, --mae.backbone.name, --moco.method.queue-size, ...
        (name, ArmRecipe[entry.config], field(default=ArmRecipe(method=entry.config(), optimizer=entry.optimizer)))  # type: ignore[name-defined]
        for name, entry in METHODS.items()
    ],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(RunConfig):
    """Compare ways to initialise a backbone: every arm gets the same transfer plan, labels, seeds and tuning."""

    image_size: int = IMAGE_SIZE
    """Pixels a side of what the models see."""
    arms: tuple[str, ...] = ("scratch", "simclr")
    """Any of scratch, imagenet, the methods, and imagenet+METHOD, which goes on from ImageNet weights. Scratch is added
    beside every backbone in use, imagenet beside that of every imagenet+METHOD."""
    labels: tuple[str, ...] = ("5", "20", "all")
    """Label budgets: images per class, a share of each class (0.1 or 10%), or all. Smaller ones lie in larger ones."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the transfer runs. One seed draws the same labelled images in every arm."""
    pretrain_seeds: int = 1
    """How many times each method pretrains, with other seeds; the transfer runs take turns with them."""
    epochs: int | None = None
    """Passes over the pool for every method that does not set its own (--simclr.epochs)."""
    batch_size: int | None = None
    """Images per step in pretraining, for every method that does not set its own (--simclr.batch-size)."""
    backbone: BackboneConfig = BackboneConfig(name=AUTO)
    """The backbone of every arm that does not set its own and can use it. auto: what each method suggests."""
    imagenet: BackboneConfig = BackboneConfig(name=AUTO)
    """The backbone of the imagenet arm, and of each imagenet+METHOD that can use it. auto: imagenet+METHOD has that of
    METHOD; imagenet the same as --backbone, or without one those of the imagenet+METHOD arms."""
    imagenet_weights: Path | None = None
    """A local file with ImageNet weights in timm's names, for imagenet and imagenet+METHOD."""
    tune: int = 1
    """Trials of the transfer plan in every run, the same for all arms: the plan as it stands, then others whose
    learning rates and weight decay are each within a factor of ten of its own. Each run chooses one on its own
    validation images and then reads the test images once. Transfer costs as many times as much; 1 tunes nothing."""
    jobs: int = 1
    """Runs at a time on this machine; the cores are divided among them."""
    transfer: TransferRecipe = TransferRecipe()
    """The transfer plan, the same for every arm."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = field(default_factory=Recipes)
    """How each method pretrains."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One initialisation of one backbone."""

    name: str
    init: str
    """Where its weights come from before any pretraining: scratch or imagenet."""
    backbone: BackboneConfig
    recipe: pretraining.Recipe[Any] | None
    """How it pretrains; None for scratch and imagenet."""
    label: str
    """The backbone as tables name it: timm's name, with its settings where two of that name are compared."""


def resolve_arms(config: CompareConfig) -> list[Arm]:
    """The arms with their backbones: those asked for, and the baselines beside every backbone among them."""
    for name in config.arms:
        _check_name(name)
    if len(set(config.arms)) < len(config.arms):
        raise InputError(f"--arms {' '.join(config.arms)}: each only once.")
    recipes = {name: _recipe_of(name, config) for name in config.arms if name not in BASELINES}
    continued = [recipe.backbone for name, recipe in recipes.items() if name.startswith(CONTINUED)]
    if config.imagenet_weights is not None and not continued and "imagenet" not in config.arms:
        raise InputError("--imagenet-weights would be ignored: add imagenet to --arms.")
    common = named(config.backbone, BackboneConfig())
    auto = BackboneConfig(name=AUTO)
    own = [] if continued and config.imagenet == config.backbone == auto else [named(config.imagenet, common)]
    imagenet = list(dict.fromkeys([*own, *continued] if "imagenet" in config.arms else continued))
    asked = [name for name in config.arms if name not in BASELINES]
    # Where imagenet was not asked for, it stands before all that goes on from it.
    order = [name for name in config.arms if name != "scratch"] if "imagenet" in config.arms else ["imagenet", *asked]
    chosen = [
        (name, backbone)
        for name in order
        for backbone in (imagenet if name == "imagenet" else [recipes[name].backbone])
    ]
    used = list(dict.fromkeys(backbone for _, backbone in chosen)) or [common]
    names = [backbone.name for backbone in used]
    labels = {
        backbone: backbone.name
        if names.count(backbone.name) == 1
        else " ".join([backbone.name, backbone.stem, *backbone.arguments])
        for backbone in used
    }
    return [
        Arm(
            name=name,
            init="imagenet" if name == "imagenet" or name.startswith(CONTINUED) else "scratch",
            backbone=backbone,
            recipe=recipes.get(name),
            label=labels[backbone],
        )
        for name, backbone in [*(("scratch", backbone) for backbone in used), *chosen]
    ]


def _check_name(name: str) -> None:
    """Raise InputError for a name that no arm has."""
    known = [*BASELINES, *METHODS]
    if name in known or (name.startswith(CONTINUED) and name.removeprefix(CONTINUED) in METHODS):
        return
    start, plus, method = name.partition("+")
    if plus and start == "scratch" and method in METHODS:
        raise InputError(f"--arms {name}: every method begins from scratch unless told otherwise. Write {method}.")
    near = did_you_mean(name, [*known, *(f"{CONTINUED}{method}" for method in METHODS)])
    raise InputError(f"--arms {name}: there are {', '.join(known)} and {CONTINUED}METHOD.{near}")


def _recipe_of(name: str, config: CompareConfig) -> pretraining.Recipe[Any]:
    """A method's recipe: its own settings win over those for all methods, which win over the method's defaults.

    `imagenet+METHOD` has METHOD's, but for the backbone where --imagenet names one that the method can use: there are
    ImageNet weights for few small ones.
    """
    method = name.removeprefix(CONTINUED)
    entry, own = METHODS[method], getattr(config.recipes, method)
    auto = BackboneConfig(name=AUTO)

    def usable(backbone: BackboneConfig) -> bool:
        return entry.backbones == "any" or backbones.is_vit_name(backbone.name)

    suggested, common = entry.backbone, named(config.backbone, BackboneConfig())
    if config.backbone != auto and usable(common):
        suggested = common
    backbone = named(own.backbone, suggested)
    if method != name and config.imagenet != auto and usable(named(config.imagenet, common)):
        backbone = named(config.imagenet, common)
    return pretraining.Recipe(
        method=own.method,
        backbone=backbone,
        optimizer=own.optimizer,
        epochs=next(value for value in (own.epochs, config.epochs, entry.epochs) if value is not None),
        batch_size=next(value for value in (own.batch_size, config.batch_size, entry.batch_size) if value is not None),
        evaluate_every=own.evaluate_every,
    )
