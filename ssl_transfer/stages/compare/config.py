"""Define the settings of a comparison and its arms."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.launch.slurm import SlurmConfig
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.evaluation.comparison.results import WORTHWHILE
from ssl_transfer.methods import METHODS
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.stages.common.initialization import AUTO, WORDS
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.run_config import IMAGE_SIZE, RunConfig
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

from . import finished_arms

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class ArmRecipe(Generic[M]):
    """Pretraining settings of one method in a comparison; unset fields come from the settings for all methods."""

    method: M
    """The method's own settings."""
    backbone: BackboneConfig = BackboneConfig(name=AUTO)
    """Backbone to pretrain. auto: --backbone where the method can use it, otherwise the method's default."""
    optimizer: OptimizerConfig
    """Optimiser settings."""
    epochs: int | None = None
    """Passes over the pool. None: --epochs, or the method's default."""
    batch_size: int | None = None
    """Images per optimiser step. None: --batch-size, or the method's default."""
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
    """Pixels a side of the model's input."""
    arms: Annotated[tuple[str, ...], *configuration.words((*WORDS, *METHODS), "imagenet+METHOD|RUN|timm:NAME ...")] = (
        "scratch",
        "simclr",
    )
    """Any of: scratch; imagenet; a method; imagenet+METHOD, which continues from ImageNet weights; the folder of a run
    (runs/mine); timm:NAME, any weights of timm (timm:resnet18.a1_in1k). Scratch is added beside every backbone in use,
    imagenet beside that of every imagenet+METHOD."""
    labels: tuple[str, ...] = ("5", "20", "all")
    """Label budgets: images per class, a share of each class (0.1 or 10%), or all. Smaller ones are subsets of larger
    ones."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the transfer runs. One seed draws the same labelled images in every arm."""
    pretrain_seeds: int | None = None
    """Number of pretrainings of each method. Seed s uses pretraining s modulo this number. None: one for each seed; the
    intervals then cover the pretraining. 1: cheapest; the answer is about this network alone."""
    worthwhile: float = WORTHWHILE
    """Least gain that matters, in points of accuracy. The answer is no only if every interval lies below it."""
    epochs: int | None = None
    """Passes over the pool for every method that does not set its own (--simclr.epochs)."""
    batch_size: int | None = None
    """Images per step in pretraining, for every method that does not set its own (--simclr.batch-size)."""
    backbone: BackboneConfig = BackboneConfig(name=AUTO)
    """Backbone of every arm that does not set its own and can use it. auto: the method's default."""
    backbones: tuple[str, ...] = ()
    """Several names instead of --backbone.name. Every method runs on each that it can use, with --backbone.stem and
    --backbone.arguments. imagenet, where requested, is added beside every backbone in use."""
    imagenet: BackboneConfig = BackboneConfig(name=AUTO)
    """Backbone of the imagenet arm, and of each imagenet+METHOD that can use it. auto: imagenet+METHOD has that of
    METHOD; imagenet has that of --backbone, or without one those of the imagenet+METHOD arms. Where requested, imagenet
    is also added beside every arm that is a run."""
    imagenet_weights: Path | None = None
    """Local file with ImageNet weights in timm's names, for imagenet and imagenet+METHOD; without these arms, for the
    one timm:NAME."""
    tune: int = 1
    """Trials of the transfer plan in every run, the same for all arms: the plan itself, then variants whose learning
    rates and weight decay are each within a factor of ten. Each run chooses one on its own validation images and then
    reads the test images once. Transfer costs this many times as much; 1 disables tuning."""
    jobs: int = 1
    """Concurrent runs on this machine. The cores are divided among them, and each has its own GPU where there are
    enough. With one thread a run (OMP_NUM_THREADS=1) the numbers do not depend on it; with more threads rounding
    differs."""
    retry: bool = False
    """Repeat runs that failed at an earlier start. Interrupted runs resume without this flag."""
    launcher: Literal["local", "slurm"] = "local"
    """Location of the runs: this machine, or a Slurm cluster that shares the output folder with it."""
    slurm: SlurmConfig = SlurmConfig()
    """Resources of each run on a cluster."""
    transfer: TransferRecipe = TransferRecipe()
    """The transfer plan, the same for every arm."""
    recipes: Annotated[Recipes, configuration.INLINE] = field(default_factory=Recipes)
    """Pretraining settings of each method."""


def pretraining_of(seed: int, pretrain_seeds: int | None) -> int:
    """Return the seed of the pretraining that a transfer run with this seed starts from."""
    return seed if pretrain_seeds is None else seed % pretrain_seeds


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One initialisation of one backbone."""

    name: str
    init: str
    """Initial weights before any pretraining: scratch, imagenet, timm:NAME, or the folder of a run."""
    backbone: BackboneConfig
    recipe: pretraining.Recipe[Any] | None
    """Pretraining settings; None for arms without pretraining."""
    label: str
    """Name of the backbone in tables: timm's name, with its settings where two of that name are compared."""
    weights: Path | None = None
    """Local file with the weights that `init` names, instead of a hub."""
    run: Run | None = field(default=None, compare=False)
    """Run that `init` names."""

    @property
    def start(self) -> dict[str, Any]:
        """Return the settings of `Initial` before any pretraining."""
        if self.run is not None:
            return {"init": self.init}
        return {"init": self.init, "backbone": self.backbone, "imagenet_weights": self.weights}

    @property
    def place(self) -> str:
        """Return the name of its folders."""
        if self.run is not None:
            return finished_arms.place_of(self.run, self.backbone.name)
        names = [text.replace("/", "-").replace(":", "-") for text in (self.name, self.backbone.name)]
        return "-".join([*names, configuration.fingerprint(self.backbone)[:6]])
