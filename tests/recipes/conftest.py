"""Running commands in this process, on tiny backbones, in a folder of the test's own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ssl_transfer.cli.main import main
from ssl_transfer.engine.io.json_files import line_of, read_lines
from ssl_transfer.engine.runs.seal import write_result
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.objectives.supervised import Supervised

CONVOLUTIONAL_FLAGS = (
    *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
    *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
TRANSFORMER_FLAGS = (
    *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=16", "depth=2", "num_heads=2"),
)


@dataclass(frozen=True)
class Answer:
    """Hold the output of a command, each stream as one line, and its exit status."""

    status: int
    out: str
    err: str


def call(*arguments: object) -> int:
    """Run `ssl-transfer ARGUMENTS` here; the exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default outputs (`runs/...`) land in the test's folder, and no launcher's variable reaches it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`run("pretrain", "simclr", ...)` runs the command in this process and returns what it answered."""

    def run_command(*arguments: object) -> Answer:
        capsys.readouterr()
        status = call(*arguments)
        printed = capsys.readouterr()
        return Answer(status=status, out=printed.out, err=printed.err)

    return run_command


@pytest.fixture
def killed_in_step(run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`killed_in_step(6, "transfer", ..., output=FOLDER)`: ended before its sixth step on labelled images.

    Every step saved its state. As after `kill -9`, the log has lines that the next start writes again.
    """

    def run_and_kill(number: int, *arguments: object, output: Path) -> None:
        steps, plain = 0, Supervised.after_step

        def after_step(self: Supervised, progress: float) -> None:
            nonlocal steps
            steps += 1
            if steps == number:
                raise KeyboardInterrupt
            plain(self, progress)

        with monkeypatch.context() as patched:
            patched.setattr(State, "due", True)
            patched.setattr(Supervised, "after_step", after_step)
            assert run(*arguments, "--output", output).status == 130
        path = output / "metrics.jsonl"
        last = read_lines(path)[-1]
        with open(path, "a", encoding="utf-8") as file:
            file.write(line_of({**last, "step": last["step"] + 1, "loss": 7.0}))
            file.write(line_of({"phase": "chosen", "split": "test", "accuracy": 7.0}))

    return run_and_kill


@pytest.fixture(scope="session")
def tiny() -> dict[str, tuple[str, ...]]:
    """Flags that make a command take about a second: by stage, and by kind of backbone."""
    size = ("--image-size", "16")
    return {
        "convolutional": CONVOLUTIONAL_FLAGS,
        "transformer": TRANSFORMER_FLAGS,
        "mae": ("--method.decoder-width", "16", "--method.decoder-depth", "1", "--method.decoder-heads", "2"),
        "byol": ("--method.hidden-width", "64", "--method.output-width", "32"),
        "dino": ("--method.local-crops", "2", "--method.output-width", "64"),
        "pretrain": (*size, "--epochs", "2", "--batch-size", "256"),
        "transfer": (*size, "--labels", "2", "--epochs", "1", "--head-steps", "4", "--finetune-steps", "4"),
        "compare": (
            *(*size, "--epochs", "1", "--batch-size", "256"),
            *("--transfer.epochs", "1", "--transfer.head-steps", "4", "--transfer.finetune-steps", "4"),
        ),
    }


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, tuple[str, ...]]) -> Path:
    """A finished pretraining run (SimCLR on the digits, a tiny convolutional network). Read only: copy it to change."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    assert call("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", folder) == 0
    return folder


def draw_shape(shape: str, generator: np.random.Generator) -> Image.Image:
    """A coloured disc, square or cross on noise, 28 x 20 pixels."""
    image = Image.fromarray(generator.integers(0, 60, (20, 28, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    colour = tuple(int(value) for value in generator.integers(120, 256, 3))
    left, top = (int(value) for value in generator.integers(4, 10, 2))
    box = (left, top - 3, left + 11, top + 8)
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.line(box, fill=colour, width=3)
        pen.line((box[0], box[3], box[2], box[1]), fill=colour, width=3)
    return image


@pytest.fixture
def draw_images() -> Callable[..., Path]:
    """`draw_images(folder, disc=20, square=20)` fills `folder/<class>/` with PNG and JPEG files."""

    def fill(folder: Path, seed: int = 0, **counts: int) -> Path:
        generator = np.random.default_rng(seed)
        for shape, count in counts.items():
            (folder / shape).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                suffix = "png" if number % 2 else "jpg"
                draw_shape(shape, generator).save(folder / shape / f"{number:03}.{suffix}")
        return folder

    return fill


@pytest.fixture
def seal_again() -> Callable[[Path], None]:
    """Seal the changed files of a run, as if the run itself had written them."""

    def seal(folder: Path) -> None:
        content = json.loads((folder / "result.json").read_text())
        content.pop("seal", None)
        write_result(folder, content)

    return seal


@pytest.fixture
def unseal() -> Callable[[Path], None]:
    """Remove the seals of all runs in a folder, as version 0.1 wrote none."""

    def remove(folder: Path) -> None:
        for path in folder.rglob("seal.json"):
            path.unlink()
            result = path.with_name("result.json")
            content = json.loads(result.read_text())
            del content["seal"]
            result.write_text(json.dumps(content))

    return remove
