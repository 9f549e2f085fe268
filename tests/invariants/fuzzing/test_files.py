"""Read damaged files of runs: the content is as written, or the message names the file.

Bits are flipped, bytes overwritten, ends cut off and added. A hundred examples of each test in the suite, two thousand
with `--hypothesis-profile long`.
"""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources import load
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.io.ownership import own_folder
from ssl_transfer.engine.launch import jobs
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.runs.seal import held_result
from ssl_transfer.engine.tracking.tracker import drop_after
from ssl_transfer.stages.common.run import Run

COUNTER = itertools.count()
Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A way to change the content of a file; places are shares of its length."""
    kind, place = draw(st.sampled_from(("flip", "byte", "cut", "add", "zeros", "all"))), draw(st.floats(0, 1))
    value, extra = draw(st.integers(0, 255)), draw(st.binary(min_size=1, max_size=40))

    def damage(content: bytes) -> bytes:
        held, at = bytearray(content), int(place * max(0, len(content) - 1))
        if kind == "flip":
            held[at] ^= 1 << value % 8
        elif kind == "byte":
            held[at] = value
        elif kind == "cut":
            del held[at:]
        elif kind == "add":
            held += extra
        elif kind == "zeros":
            held[at : at + 64] = bytes(len(held[at : at + 64]))
        else:
            held[:] = extra
        return bytes(held)

    return damage


def refusal_of(read: Callable[[], object]) -> str:
    """The message with which reading was refused; empty where it was not."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def contents(folder: Path) -> dict[Path, bytes]:
    """Read all files below a folder, by relative path."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def tensors_of(value: object, place: str = "") -> dict[str, object]:
    """Every value in nested containers, by its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        return {place: value}
    return {name: one for key, item in items for name, one in tensors_of(item, f"{place}/{key}").items()}


def same(first: object, second: object) -> bool:
    ours, theirs = tensors_of(first), tensors_of(second)
    return ours.keys() == theirs.keys() and all(
        torch.equal(one, theirs[name]) if isinstance(one, Tensor) else one == theirs[name] for name, one in ours.items()
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run: Callable, flags: dict) -> Path:
    """A finished pretraining. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    short = ("--image-size", 16, "--epochs", 1, "--batch-size", 512, *flags["convolutional"])
    assert run("pretrain", "simclr", *short, "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Callable[..., Path]:
    """`copied("checkpoints/last.pt", damage)`: a file of the run alone in a folder, damaged."""

    def copy(name: str, damage: Damage) -> Path:
        path = tmp_path_factory.getbasetemp() / f"damaged{next(COUNTER)}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(damage((finished / name).read_bytes()))
        return path

    return copy


@given(damage=damages())
def test_states(damage: Damage, copied: Callable, finished: Path) -> None:
    """A damaged state is noticed, and the one before it is used, loudly; alone, it is refused."""
    whole = finished / "checkpoints" / "last.pt"
    path = copied("checkpoints/last.pt", damage)
    states = StateFiles(folder=path.parent, name="last", best="best")
    said: list[str] = []
    expected = StateFiles(folder=whole.parent, name="last", best="best").load(said.append)
    found: list[Any] = []
    refused = refusal_of(lambda: found.append(states.load(said.append)))
    if refused:
        assert str(path) in refused
        assert "--fresh" in refused
        shutil.copy(whole, path.parent / "last.pt.1")
        found.append(states.load(said.append))
        assert "Going on from the one before" in said[0]
    assert len(said) == bool(refused)
    assert same(found[0][0], expected[0])
    shutil.rmtree(path.parents[1])


@given(damage=damages(), name=st.sampled_from(("backbone.safetensors", "backbone.json")))
def test_exports(damage: Damage, name: str, copied: Callable, finished: Path) -> None:
    """Of an exported backbone every bit counts, of its weights as of its description."""
    path = copied(f"backbone/{name}", damage)
    other = {"backbone.json": "backbone.safetensors", "backbone.safetensors": "backbone.json"}[name]
    shutil.copy(finished / "backbone" / other, path.parent / other)
    original = Run(finished)
    expected, before = original.load_backbone(), original.provenance

    def read() -> None:
        run = Run(path.parent)
        found, provenance = run.load_backbone(), run.provenance
        assert same(found.state_dict(), expected.state_dict())
        assert (found.spec, provenance) == (expected.spec, before)

    refused = refusal_of(read)
    assert not refused or (str(path.parent) in refused and "Take another copy" in refused), refused
    shutil.rmtree(path.parents[1])


@given(damage=damages(), name=st.sampled_from(("config.yaml", "environment.json")))
def test_what_a_run_belongs_to(damage: Damage, name: str, copied: Callable, finished: Path, runtime) -> None:
    """A run goes on with its own settings and images, or is refused by the folder's name and nothing there changes."""
    path = copied(name, damage)
    for other in {"config.yaml", "environment.json", "result.json"} - {name}:
        shutil.copy(finished / other, path.parent / other)
    before = contents(path.parent)
    settings = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    identity = json.loads((finished / "environment.json").read_text(encoding="utf-8"))["identity"]
    refused = refusal_of(lambda: RunFolder(path.parent, settings, runtime, identity=identity, fresh=False))
    after = contents(path.parent)
    if refused:
        assert str(path.parent) in refused
        assert after == before
    else:
        assert yaml.safe_load(after[Path("config.yaml")]) == settings
    shutil.rmtree(path.parent)


@given(damage=damages(), name=st.sampled_from(("result.json", "metrics.jsonl")))
def test_records(damage: Damage, name: str, copied: Callable, finished: Path) -> None:
    """Results and logs that are no JSON are refused by the file's name; a result is whole, or refused by its seal."""
    path = copied(name, damage)
    own_folder(path.parent, adopted=[path])
    if name == "result.json":
        shutil.copy(finished / "seal.json", path.parent)
    refused = refusal_of(lambda: held_result(path.parent) if name == "result.json" else read_lines(path))
    assert not refused or (str(path) in refused and "--fresh" in refused), refused
    if name == "result.json":
        assert bool(refused) == (path.read_bytes() != (finished / name).read_bytes())
    if name == "metrics.jsonl":
        drop_after(path, "simclr", 10**9)
        assert all(isinstance(json.loads(line), dict) for line in path.read_text(encoding="utf-8").splitlines())
    shutil.rmtree(path.parent)


class _Job:
    """A run that failed before."""

    after = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, result: dict[str, Any]) -> None:
        """Accept any result."""


@given(damage=damages())
def test_records_of_failures(damage: Damage, runtime, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / f"failed{next(COUNTER)}"
    jobs.record_failure(folder, jobs.Failure(lines=("out of luck", "for ever")))
    file = folder / jobs.RECORD
    file.write_bytes(damage(file.read_bytes()))
    found: list[object] = []
    refused = refusal_of(lambda: found.extend(jobs.failed_before([_Job(folder)], runtime, retry=False).values()))
    assert [isinstance(one, jobs.Failure) for one in found] == ([] if refused else [True])
    assert not refused or str(file) in refused


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[list[object], Path]]:
    """Loads 16 images through a cache: all that is known of them, and the entry."""
    place = tmp_path_factory.mktemp("stored")
    generator = np.random.default_rng(0)
    for number in range(16):
        (place / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "images" / "ab"[number % 2] / f"{number}.png")

    def call() -> tuple[list[object], Path]:
        config = LoadingConfig(cache=place / "cache", workers=1)
        data = load(f"folder:{place / 'images'}", image_size=12, config=config)
        # By value, as the columns are mapped from the files that are damaged.
        known = [data.fingerprint, data.pixels[torch.arange(16)], data.statistics(), np.array(data.contents).tolist()]
        return known, next((place / "cache").glob("*/record.json")).parent

    return call


@given(damage=damages(), number=st.integers(0, 11))
def test_caches(damage: Damage, number: int, stored: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged entry of the cache is noticed, and the images are decoded again: so few that each is looked at."""
    known, entry = stored()
    files = sorted(path for path in entry.iterdir() if path.is_file())
    assert len(files) == 12
    whole = files[number].read_bytes()
    changed = damage(whole)
    files[number].write_bytes(changed)
    capsys.readouterr()
    again, _ = stored()
    assert same(again, known)
    # Spaces of a record may change.
    assert changed == whole or files[number].suffix == ".json" or "decoded again" in capsys.readouterr().out
