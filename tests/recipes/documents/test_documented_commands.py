"""Every command in README.md, CONTRIBUTING.md and docs/ is understood: a flag that is renamed is found here.

Each runs with the real parser, on images made here, up to where it would train, submit or send something; what only
looks (`data`, `evaluate`, `summary`, `report`) truly runs. Placeholders such as PATH and RUN become what is made here,
and so do ImageNet weights and data sets that would be fetched.
"""

import argparse
import importlib
import importlib.util
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torch.distributed.run import get_args_parser

from ssl_transfer.cli.main import COMMANDS, main
from ssl_transfer.engine.training import loop
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.spec import BackboneSpec

_SPEC = importlib.util.spec_from_file_location("documented", Path(__file__).with_name("documented.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
documented = importlib.util.module_from_spec(_SPEC)
sys.modules["documented"] = documented
_SPEC.loader.exec_module(documented)

FOUND = documented.commands()
ROOT = documented.ROOT
NETWORK = (
    *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
    *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)
TINY = ("--image-size", "16", "--epochs", "1", *NETWORK)
SHORT = ("--batch-size", "8", "--head-steps", "1", "--finetune-steps", "1", "--labels", "2")
BESIDE = {"compare": "comparison", "report": "comparison", "sync": "comparison", "predict": "pictures"}
"""Of a command, the run that its RUN is; of all others a classifier."""
PLAIN = {
    "N": "4",
    "R": "1e-3",
    "RATE": "1e-3",
    "T": "0.5",
    "SEED": "0",
    "METHOD": "simclr",
    "mine": "simclr",
    "BACKBONE": "resnet18",
    "FILE": "weights.safetensors",
    "IMAGES": "pictures",
    "PATH": "pictures/test/square",
    "photographs/": "photographs/test",
    "one.jpg": "pictures/test/square/square_patient30_0.png",
    "list.csv": "pictures/labels.csv",
}
"""What stands for a word that a reader replaces."""


class AcceptedError(BaseException):
    """The command would train, submit or send now."""


def accept(*arguments: Any, **settings: Any) -> None:
    raise AcceptedError


def without_weights(spec: BackboneSpec, *, weights: Path | None, name: str = "") -> Backbone:
    """Instead of weights from a hub: the architecture is built, and a name that there is not is still found."""
    return pretrained.scratch(spec, seed=0)


def pictures(folder: Path, seed: int, size: int = 20) -> None:
    """Squares and stripes on noise, named as photographs of patients are; as many as the largest batch in a page."""
    generator = np.random.default_rng(seed)
    for patients, (part, count) in enumerate({"train": 24, "val": 8, "test": 8, "unlabeled": 470}.items(), start=1):
        for kind in ("square", "stripes") if part != "unlabeled" else ("",):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
                pixels[5:15, slice(5, 15) if kind == "square" else slice(0, size, 3)] = 255
                Image.fromarray(pixels).save(
                    folder / part / kind / f"{kind}_patient{patients}{number % 8}_{number}.png"
                )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which every command runs, with images, a finished run of each kind, and the project's scripts."""
    place = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setenv("HOME", str(place / "home"))
        for seed, name in enumerate(("pictures", "studio", "street", "photographs")):
            pictures(place / name, seed, size=40 if name == "photographs" else 20)
        generator = np.random.default_rng(9)
        names = sorted(path.relative_to(place / "pictures") for path in (place / "pictures").rglob("*.png"))
        lines = [f"{name},{'ab'[i % 2]},{i % 8 * 10},{i // 8 * 10}" for i, name in enumerate(names)]
        (place / "pictures" / "labels.csv").write_text("\n".join(["path,label,x,y", *lines]) + "\n")
        bands = generator.integers(0, 4096, (256, 16, 16, 5), dtype=np.uint16)
        np.savez(place / "bands.npz", x_train=bands, y_train=np.arange(256) % 2)
        grey = generator.integers(0, 256, (256, 16, 16), dtype=np.uint8)
        np.savez(place / "grey.npz", x_train=grey, y_train=np.arange(256) % 10)
        (place / "weights.safetensors").touch()
        for name in ("recipes", "scripts", "tests"):
            (place / name).symlink_to(ROOT / name)
        for data, name in (("folder:pictures", "pictures"), ("npz:bands.npz", "bands"), ("digits", "digits")):
            main(["transfer", "--data", data, *TINY, *SHORT, "--output", f"made/{name}"])
            shutil.copytree(f"made/{name}", f"made/{name}-too")
        compare = ("--arms", "scratch", "--labels", "2", "--seeds", "0", "--output", "made/comparison")
        recipe = ("--transfer.epochs", "1", "--transfer.head-steps", "1", "--transfer.finetune-steps", "1")
        main(["compare", "--data", "folder:pictures", *TINY, *recipe, *compare])
        for module, name in (
            *(("stages.pretrain.pretrain", "train"), ("stages.transfer.phases", "train")),
            ("stages.transfer.phases", "find_learning_rate"),
            ("stages.compare.compare", "launcher"),
            *(("stages.demos.adapt", "workers"), ("stages.demos.distill", "workers")),
            *(("stages.sync", "sync"), ("stages.explain.explain", "explain"), ("stages.common.dry_run", "several")),
        ):
            patched.setattr(importlib.import_module(f"ssl_transfer.{module}"), name, accept)
        patched.setattr(importlib.import_module("ssl_transfer.engine.launch.slurm").shutil, "which", lambda name: name)
        patched.setattr(pretrained, "imagenet", without_weights)
        yield place


def filled(words: list[str]) -> list[str]:
    """The words of a command with something of `world` where its reader has to put something."""
    data = next((word for word in words if word.startswith(("npz:", "folder:"))), "digits")
    own = {"npz": "bands", "folder": "pictures"}.get(data.partition(":")[0], "digits")
    run = f"made/{BESIDE.get(words[1], own)}"
    out = []
    for before, word in zip(["", *words], words, strict=False):
        word = "dann" if (before, word) == ("adapt", "METHOD") else PLAIN.get(word, word)
        word = word.replace("RATE", "1e-3").replace("NAME_", "simclr_")
        word = re.sub(r"^(torchvision:\w+|folder:(PATH|\.\./shared/\S+?)(?=$|/labels))", "folder:pictures", word)
        word = word.replace("folder:STUDIO", "folder:studio").replace("folder:STREET", "folder:street")
        word = word.replace("npz:FILE", "npz:bands.npz").replace("npz:BLEND", "npz:grey.npz")
        word = re.sub(r"npz:(\S+/)?(mnist|usps)\.npz", "npz:grey.npz", word).replace("cats_vs_dogs", "photographs")
        if before == "--imagenet-weights":
            word = "weights.safetensors"
        if word == "RUN" or (before not in ("--output", "") and re.match(r"(\./)?runs/", word)):
            word = f"made/comparison/{Path(word).name}" if word.endswith(".yaml") else run
            word += "-too" if word in out else ""
        out.append(word)
    return out


def call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `ssl-transfer ...` or a script; it accepts, or ends well."""
    status: Any = 0
    try:
        if words[0] == "ssl-transfer":
            main(words[1:])
        else:
            if words[0].startswith("scripts/"):
                plain = argparse.ArgumentParser.parse_args

                def parsed(self: argparse.ArgumentParser, *arguments: Any) -> None:
                    plain(self, *arguments)
                    raise AcceptedError

                monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
            monkeypatch.setattr(sys, "argv", words)
            # As `python` does, so that a script imports its neighbours.
            monkeypatch.syspath_prepend(str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    except AcceptedError:
        pass
    except SystemExit as stop:
        status = stop.code or 0
    assert status == 0


def script_of(words: list[str]) -> list[str]:
    """Return the script that a launcher would start; the launcher's own parser reads its flags."""
    if words[0] == "accelerate":
        assert words[1] == "launch"
        parsed = launch_command_parser().parse_args(words[2:])
    elif words[1:3] == ["-m", "torch.distributed.run"]:
        parsed = get_args_parser().parse_args(words[3:])
    else:
        return words[1:]
    return [parsed.training_script, *parsed.training_script_args]


@pytest.mark.parametrize("command", FOUND, ids=lambda command: f"{command.page}: {command.text[:60]}")
def test_a_documented_command(
    command: Any, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    words = command.words
    if command.inline and len(words) == 2 and words[0] == "ssl-transfer" and words[1] != "demo":
        words = [*words, "--help"]
    words = filled(words)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "pytest":
        paths = [word for word in words[1:] if word.startswith("tests")]
        assert all((ROOT / path).exists() for path in paths)
    elif words[0] == "ssl-transfer":
        for place in world.glob("runs/*"):
            shutil.rmtree(place)
        call(words, monkeypatch)
    else:
        call(script_of(words), monkeypatch)
    assert "Traceback" not in capsys.readouterr().err


def test_commands_are_found() -> None:
    fenced = [one for one in FOUND if not one.inline]
    assert len(fenced) >= 80
    assert len(FOUND) >= 120
    pages = {one.page for one in fenced}
    assert {"README.md", "docs/index.md", "docs/tutorial.md", "docs/es.md", "docs/howto/cluster.md"} <= pages
    named = {one.words[1] for one in fenced if one.words[0] == "ssl-transfer"}
    assert named >= COMMANDS.keys()


def test_the_tutorials_last_section_truly_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrain, evaluate, transfer and evaluate, one after the other, only smaller."""
    for module in ("pretrain.pretrain", "transfer.phases"):
        monkeypatch.setattr(f"ssl_transfer.stages.{module}.train", loop.train)
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures", 0)
    page = [one.words for one in FOUND if one.page == "docs/tutorial.md" and not one.inline]
    steps = page[next(i for i, words in enumerate(page) if words[1] == "pretrain") :]
    assert [words[1] for words in steps] == ["pretrain", "evaluate", "transfer", "evaluate"]
    smaller: dict[str, tuple[str, ...]] = {"pretrain": (*TINY, "--batch-size", "8"), "transfer": (*SHORT[:-2],)}
    for words in steps:
        words = [word.replace("PATH", "pictures") for word in words[1:]]
        main([*words, *smaller.get(words[0], ()), "--loading.cache", "cache"])
