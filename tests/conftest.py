"""Provide shared fixtures: one thread, a runtime, tiny backbones, drawn images."""

import atexit
import functools
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from PIL import Image
from sklearn.manifold import _t_sne
from torch import Tensor
from tyro import _docstrings, _parsers, _strings, _unsafe_cache
from tyro._settings import _experimental_options

from ssl_transfer.data.dataset import Dataset, to_unit
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.io.ownership import own_folder
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.engine.training import loop, stepper
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.engine.training.training_settings import Monitor, Saving, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.evaluation.features import linear_probe, tsne
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig
from ssl_transfer.stages.compare import diagnostics

# The suite tries the same examples every time; `--hypothesis-profile long` tries others, and many more of them.
_PATIENT = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("suite", derandomize=True, max_examples=100, **_PATIENT)
settings.register_profile("long", max_examples=2000, **_PATIENT)
settings.load_profile("suite")

IMAGE_SIZE = 16
CONVOLUTIONAL = BackboneConfig(
    name="resnet10t",
    stem="standard",
    # The last norm of a block starts at one, so that a fresh block passes gradients on.
    arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
TRANSFORMER = BackboneConfig(
    name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=2", "num_heads=2")
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on many threads, and sums come out the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def what_lies_there_is_not_searched() -> None:
    """Every training collects garbage when it ends; among thousands of finished tests that takes longer than it."""
    gc.collect()
    gc.freeze()
    # Some libraries report what is still frozen at the end as leaks.
    atexit.register(gc.unfreeze)


class _NeverAgain:
    """Stands in for `sys` in tyro's cache, which under pytest computes every tenth value again to compare both."""

    modules = ()


@pytest.fixture(scope="session", autouse=True)
def settings_are_read_once() -> None:
    """Keep help and parsers of settings between commands: tyro makes them anew for each, and forgets them."""
    for name in ("get_field_docstring", "get_callable_description"):
        setattr(_docstrings, name, functools.cache(getattr(_docstrings, name).__wrapped__))
    _unsafe_cache.sys = _NeverAgain
    build, built = _parsers.ParserSpecification.from_callable_or_type, {}

    def build_once(f: Any, **settings: Any) -> _parsers.ParserSpecification:
        """Build the parser of a command once for each of its defaults; the one of a part is part of it."""
        default, colours = settings["default_instance"], _experimental_options["ansi_codes"]
        if settings["parent_classes"]:
            return build(f, **settings)
        key = (f, type(default), repr(default), colours)
        if key not in built:
            built[key] = build(f, **settings)
        return replace(built[key], description=_strings.remove_single_line_breaks(settings["description"]))

    _parsers.ParserSpecification.from_callable_or_type = staticmethod(build_once)


SAVE_DRAWN, MAKE_DRAWN, CLOSE_DRAWN = Figure.savefig, plt.subplots, plt.close
DRAWN = tuple(Path(__file__).parent / place for place in ("unit", "recipes/safety"))
"""Folders of tests in which every figure is drawn."""
RECIPES = Path(__file__).parent / "recipes"
"""Folder of the tests in which probes are rough: elsewhere processes without it are compared."""
SYNCED = tuple(
    Path(__file__).parent / place
    for place in ("unit/data/store", "unit/engine/io", "recipes/safety", "invariants/environment", "invariants/resume")
)
"""Folders of tests in which files are synced to the disk."""


class Undrawn:
    """Takes every call of a drawing and draws nothing."""

    def __getattr__(self, name: str) -> "Undrawn":
        # numpy and copy ask for protocols by names with underscores.
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "Undrawn":
        return self

    def __getitem__(self, _: Any) -> "Undrawn":
        return self

    def __iter__(self) -> Iterator["Undrawn"]:
        return iter((self, self))


class Blank(Undrawn):
    """A figure without anything in it."""

    def __init__(self, figsize: tuple[float, float]) -> None:
        self.size = figsize

    def get_size_inches(self) -> tuple[float, float]:
        return self.size

    def savefig(self, file: Any, **settings: Any) -> None:
        save_blank(self, file, **settings)


def make_blank(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **settings: Any) -> tuple[Blank, Any]:
    """Make a blank figure, and panels on which nothing is drawn, in the shape of `plt.subplots`."""
    panels = np.full((rows, columns), Undrawn(), dtype=object)
    shaped = panels if settings.get("squeeze") is False else panels.squeeze()
    return Blank(figsize), shaped if shaped.ndim else shaped.item()


def close_any(figure: Any) -> None:
    """Close a figure, if it is one."""
    if not isinstance(figure, Blank):
        CLOSE_DRAWN(figure)


def save_blank(figure: Figure | Blank, file: Any, *, dpi: float = 100.0, **_: Any) -> None:
    """Save a blank picture of the figure's size."""
    width, height = (max(1, int(length * dpi)) for length in figure.get_size_inches())
    Image.new("L", (width, height), 255).save(file, format="png")


def _descend_briefly(descend: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    return descend(*arguments, **settings | {"max_iter": 9})


@pytest.fixture(scope="module", autouse=True)
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave figures blank, but for tests marked `figures`, and maps and probes rough.

    These take half the time of a tiny run.
    """
    with pytest.MonkeyPatch.context() as patched:
        if not {*DRAWN} & {*request.path.parents} and request.node.get_closest_marker("figures") is None:
            patched.setattr(Figure, "savefig", save_blank)
            patched.setattr(plt, "subplots", make_blank)
            patched.setattr(plt, "close", close_any)
        if not {*DRAWN} & {*request.path.parents}:
            # The fewest that scikit-learn takes, and then fewer.
            patched.setattr(tsne, "_ITERATIONS", 250)
            few = functools.partial(_descend_briefly, _t_sne._gradient_descent)
            patched.setattr(_t_sne, "_gradient_descent", few)
        if RECIPES in request.path.parents:
            # Every fourth strength of the grid, with both its ends.
            patched.setitem(linear_probe.linear_probe.__kwdefaults__, "strengths", linear_probe.STRENGTHS[::4])
            patched.setattr(diagnostics, "STRENGTHS", diagnostics.STRENGTHS[::2])
        yield


@pytest.fixture(autouse=True)
def drawn_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures in a test that is marked `figures`."""
    if request.node.get_closest_marker("figures") is not None:
        monkeypatch.setattr(Figure, "savefig", SAVE_DRAWN)
        monkeypatch.setattr(plt, "subplots", MAKE_DRAWN)


@pytest.fixture(scope="session")
def drawing() -> Callable[[], AbstractContextManager[None]]:
    """Draw figures within `with drawing():`, for a fixture that several tests share."""

    @contextmanager
    def draw() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Figure, "savefig", SAVE_DRAWN)
            patched.setattr(plt, "subplots", MAKE_DRAWN)
            yield

    return draw


@pytest.fixture(scope="module", autouse=True)
def unsynced_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave files in the memory of the system, but in tests of failing disks; no other test can see the difference."""
    with pytest.MonkeyPatch.context() as patched:
        if not {*SYNCED} & {*request.path.parents}:
            patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def runtime() -> runtimes.Runtime:
    return runtimes.start()


@pytest.fixture(scope="session")
def convolutional() -> BackboneConfig:
    return CONVOLUTIONAL


@pytest.fixture(scope="session")
def transformer() -> BackboneConfig:
    return TRANSFORMER


@pytest.fixture
def make_backbone() -> Callable[..., Backbone]:
    """A tiny backbone for images of 16 px: `make_backbone("convolutional" or "transformer")`."""

    def make(kind: str = "convolutional", *, channels: int = 3, seed: int = 0, size: int = IMAGE_SIZE) -> Backbone:
        config = {"convolutional": CONVOLUTIONAL, "transformer": TRANSFORMER}[kind]
        spec = backbones.make_spec(
            config, in_chans=channels, image_size=size, mean=(0.5,) * channels, std=(0.25,) * channels
        )
        return pretrained.scratch(spec, seed=seed)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of random pixels: `make_batch(8)`. Every label is -1 unless given."""

    def make(
        count: int = 8, *, channels: int = 3, size: int = IMAGE_SIZE, labels: Tensor | None = None, seed: int = 0
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        # Blocks of 4 px, not single pixels: interpolation would average those away.
        coarse = torch.randint(0, 256, (count, channels, size // 4, size // 4), generator=generator)
        images = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).to(torch.float32) / 255.0
        keys = sample_keys(seed, 0, torch.arange(count))
        return Batch(images=images, labels=torch.full((count,), -1) if labels is None else labels, keys=keys)

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Random pixels in 3 classes, of each 8 training, 4 validation and 4 test images, and 12 unlabelled ones."""

    def make(*, channels: int = 3, size: int = IMAGE_SIZE, num_classes: int = 3, seed: int = 0) -> Dataset:
        counts = {"unlabeled": 12, "train": 8 * num_classes, "validation": 4 * num_classes, "test": 4 * num_classes}
        total = sum(counts.values())
        starts = dict(zip(counts, torch.tensor([0, *counts.values()]).cumsum(0).tolist(), strict=False))
        labels = torch.arange(total) % num_classes
        labels[: counts["unlabeled"]] = -1
        generator = torch.Generator().manual_seed(seed)
        return Dataset(
            source="random",
            pixels=torch.randint(0, 256, (total, channels, size, size), generator=generator).to(torch.uint8),
            labels=labels,
            names=tuple(f"random[{index}]" for index in range(total)),
            classes=tuple("abcdefghij"[:num_classes]),
            splits={name: torch.arange(starts[name], starts[name] + count) for name, count in counts.items()},
            fingerprint=f"random-{channels}-{size}-{num_classes}-{seed}",
        )

    return make


@pytest.fixture
def make_supervised(make_backbone) -> Callable[..., Supervised]:
    """A tiny supervised objective for the classes of `make_dataset`: `make_supervised("transformer")`."""

    def make(kind: str = "convolutional", *, trained: Any = "all", seed: int = 0) -> Supervised:
        backbone = make_backbone(kind, seed=seed)
        torch.manual_seed(seed)
        head = make_head(HeadConfig(), backbone, 3)
        objective = Supervised(backbone, head, SupervisedConfig(), num_classes=3)
        objective.set_trained(trained)
        return objective

    return make


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """Give `tmp_path` the record that a run's folder has, so that files there may be written again."""
    own_folder(tmp_path)
    return tmp_path


@pytest.fixture
def train_phase(runtime, make_dataset, owned) -> Callable[..., loop.Summary]:
    """`train_phase(objective, OptimizerConfig(...), epochs=4)`: the loop on `make_dataset`, two steps an epoch.

    Validation metrics are computed after every epoch, unless `evaluate` is given. Further settings are those of
    `Validation`. `folder` holds `metrics.jsonl` and, with `saved`, `state.pt`.
    """

    def call(
        objective: Supervised,
        optimizer: OptimizerConfig,
        *,
        epochs: int = 4,
        batch_size: int = 12,
        layer_decay: float = 1.0,
        phase: str = "phase",
        folder: Path = owned,
        saved: bool = False,
        evaluate: Callable[[], dict[str, float]] | None = None,
        monitor: Monitor | None = None,
        **validation: Any,
    ) -> loop.Summary:
        dataset = make_dataset()
        train, held = dataset.splits["train"], dataset.splits["validation"]
        images = to_unit(dataset.pixels[held], dataset.value_range)

        @torch.no_grad()
        def measure() -> dict[str, float]:
            return classification(objective.logits(images), dataset.labels[held])

        folder.mkdir(parents=True, exist_ok=True)
        metrics = folder / "metrics.jsonl"
        return loop.train(
            objective,
            parameter_groups(
                objective,
                learning_rate=optimizer.learning_rate,
                weight_decay=optimizer.weight_decay,
                layers={f"backbone.{name}": depth for name, depth in objective.backbone.layers().items()},
                layer_decay=layer_decay,
            ),
            Loader(dataset, train, batch_size=batch_size, seed=0, runtime=runtime, labelled=True),
            plan=TrainingPlan(phase=phase, epochs=epochs, seed=0, optimizer=optimizer),
            saving=Saving(
                tracker=Tracker(metrics, TrackingConfig(), runtime, settings={}, group="", job_type=""),
                metrics_path=metrics,
                states=StateFiles(folder=folder, name=phase, best=f"{phase}.best") if saved else None,
            ),
            runtime=runtime,
            validation=Validation(evaluate=evaluate or measure, **validation),
            monitor=monitor,
        )

    return call


@pytest.fixture
def traced_optimizers(monkeypatch) -> list[torch.optim.Optimizer]:
    """The optimisers that trainings build from now on, in order."""
    made: list[torch.optim.Optimizer] = []
    plain = stepper.make_optimizer

    def traced(*arguments: Any) -> torch.optim.Optimizer:
        made.append(plain(*arguments))
        return made[-1]

    monkeypatch.setattr(stepper, "make_optimizer", traced)
    return made


@pytest.fixture
def before_steps(monkeypatch) -> Callable[[Callable[[torch.optim.Optimizer], None]], None]:
    """`before_steps(look)`: `look(optimizer)` is called before every optimiser step of a training."""

    def arrange(look: Callable[[torch.optim.Optimizer], None]) -> None:
        plain = stepper.make_optimizer

        def traced(*arguments: Any) -> torch.optim.Optimizer:
            made = plain(*arguments)
            made.register_step_pre_hook(lambda optimizer, *_: look(optimizer))
            return made

        monkeypatch.setattr(stepper, "make_optimizer", traced)

    return arrange
