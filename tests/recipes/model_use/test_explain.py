"""Explain: every kind of picture of a trained run, an encoder, several runs, own files, bands; and what is refused."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.explain import subject
from ssl_transfer.stages.explain.config import names_of, parts_of

FEW = (
    # Of a model that has hardly learnt any weight of the variation would outweigh the scores.
    *("--num-images", "2", "--steps", "5", "--tv", "0", "--pgd-steps", "2"),
    *("--attack-images", "40", "--channels", "2"),
)


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, tiny: dict) -> Path:
    """A transfer run with its head, at the end of a path as comparisons have it. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("transferred") / "simclr" / "seed0"
    main(["transfer", "--init", str(pretrained), *tiny["transfer"], "--output", str(folder)])
    return folder


def rows_of(path: str | Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def size_of(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.figures
def test_all_of_a_run(run: Callable, transferred: Path) -> None:
    answer = run("explain", transferred, *FEW, "--output", "out")
    assert answer.status == 0, answer.err
    assert [line for line in answer.out.splitlines() if line.startswith("simclr/seed0: ")] == [
        f"simclr/seed0: {part}" for part in ("maps", "grad-cam", "neighbours", "ideal", "attacks")
    ]
    maps = rows_of("out/maps.csv")
    assert len(maps) == 2 * 3 * 2
    assert len({row["block"] for row in maps}) == 3
    cam = rows_of("out/grad_cam.csv")
    assert [row["role"] for row in cam][::2] == ["said", "said"]
    assert {row["role"] for row in cam} <= {"said", "next", "true"}
    near = rows_of("out/neighbours.csv")
    assert [row["rank"] for row in near] == ["1", "2", "3", "4", "5"] * 2
    cosines = [float(row["cosine"]) for row in near[:5]]
    assert cosines == sorted(cosines, reverse=True)
    ideal = rows_of("out/ideal.csv")
    assert [row["class"] for row in ideal] == [str(digit) for digit in range(10)]
    assert sum(float(row["score"]) - float(row["grey_score"]) for row in ideal) > 0
    assert size_of("out/ideal/3.png") == (16, 16)
    table = rows_of("out/attacks.csv")
    assert len(table) == 1 + 4 * 3
    assert {row["num_images"] for row in table} == {"40"}
    assert [row["epsilon"] for row in table[1:4]] == ["0.05", "0.1", "0.2"]
    examples = rows_of("out/attacks_examples.csv")
    assert all(float(row["largest_change"]) <= 0.2 + 1e-6 for row in examples)
    pictures = ("maps/001.png", "maps/002.png", "grad_cam.png", "neighbours.png", "ideal.png", "attacks.png")
    for name in (*pictures, "attacks_examples.png"):
        assert min(size_of(f"out/{name}")) > 200, name
    page = Path("out/explain.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 7
    assert "<script" not in page
    assert "Accuracy under attack" in page
    text = Path("out/attacks.md").read_text(encoding="utf-8")
    assert "| attack | epsilon | simclr |" in text


def test_the_same_numbers_each_time(run: Callable, transferred: Path) -> None:
    for name in ("one", "two"):
        flags = ("--what", "ideal", "attacks", "--output", name)
        assert run("explain", transferred, *FEW, *flags).status == 0
    for file in ("ideal.csv", "attacks.csv", "attacks_runs.csv", "attacks_examples.csv", "ideal/7.png"):
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes(), file


def test_an_encoder_shows_maps_and_neighbours(run: Callable, pretrained: Path) -> None:
    answer = run("explain", pretrained, *FEW, "--output", "out")
    assert answer.status == 0, answer.err
    assert Path("out/neighbours.png").is_file()
    assert Path("out/maps/001.png").is_file()
    assert not Path("out/attacks.csv").exists()
    answer = run("explain", pretrained, "--what", "grad-cam", "maps", "--output", "out")
    assert answer.status == 2
    assert "--what grad-cam" in answer.err
    assert "holds no classifier" in answer.err


def test_runs_side_by_side(run: Callable, transferred: Path, pretrained: Path, tiny: dict) -> None:
    for seed in (0, 1):
        flags = (*tiny["transfer"], *tiny["convolutional"], "--seed", seed, "--output", f"runs/scratch/seed{seed}")
        assert run("transfer", "--init", "scratch", *flags).status == 0
    other = Path("runs/simclr/seed0")
    other.parent.mkdir()
    other.symlink_to(transferred)
    runs = ("runs/scratch/seed0", "runs/scratch/seed1", transferred)
    answer = run("explain", *runs, *FEW, "--what", "attacks", "--epsilons", "8/255", "--output", "out")
    assert answer.status == 0, answer.err
    table = rows_of("out/attacks.csv")
    arms = list(dict.fromkeys(row["arm"] for row in table))
    assert len(arms) == 2
    assert arms[0].endswith("scratch")
    assert arms[1].endswith("simclr")
    assert [row["num_seeds"] for row in table[:2]] == ["2", "1"]
    assert [bool(row["difference"]) for row in table[:2]] == [False, True]
    assert len(rows_of("out/attacks_runs.csv")) == 3 * (1 + 4)
    assert len(list(Path("out").rglob("attacks_examples.png"))) == 3


def test_names_of_runs() -> None:
    def names(*runs: str) -> list[str]:
        return [run.name for run in names_of(runs)]

    assert names("/a/b/mine") == ["mine"]
    assert names("/a/mine/seed0") == ["mine/seed0"]
    assert names("/a/b/x/seed0", "/a/b/y/seed0") == ["x/seed0", "y/seed0"]
    assert names("/a/x/seed0", "/a/x/seed1") == ["x/seed0", "x/seed1"]


@pytest.mark.parametrize(
    ("run", "arm", "seed"),
    [("scratch/seed3", "scratch", 3), ("mine-seed1", "mine", 1), ("mine_seed_12", "mine", 12), ("mine", "mine", 0)],
)
def test_runs_that_differ_in_their_seed_are_one_arm(run: str, arm: str, seed: int) -> None:
    (found,) = names_of([f"/a/{run}"])
    assert (found.arm, found.seed) == (arm, seed)


def test_a_transformer(run: Callable, tiny: dict) -> None:
    flags = (*tiny["transfer"], *tiny["transformer"], "--output", "runs/vit")
    assert run("transfer", "--init", "scratch", *flags).status == 0
    answer = run("explain", "runs/vit", *FEW, "--what", "maps", "grad-cam", "--output", "out")
    assert answer.status == 0, answer.err
    assert {row["block"] for row in rows_of("out/maps.csv")} == {"stem", "blocks.0", "blocks.1"}
    assert {row["block"] for row in rows_of("out/grad_cam.csv")} == {"blocks.1"}
    answer = run("explain", "runs/vit", *FEW, "--what", "maps", "grad-cam", "--blocks", "blocks.0", "--output", "one")
    assert answer.status == 0, answer.err
    assert {row["block"] for name in ("maps", "grad_cam") for row in rows_of(f"one/{name}.csv")} == {"blocks.0"}


def test_files_of_ones_own(run: Callable, transferred: Path, draw_images: Callable) -> None:
    draw_images(Path("mine"), disc=2, cross=1)
    answer = run("explain", transferred, *FEW, "--images", "mine", "--what", "maps", "grad-cam", "neighbours")
    assert answer.status == 0, answer.err
    out = Path("runs/explain-simclr-seed0")
    # Sorted, in colour though the run is of grey images, and of no known class.
    assert [row["image"] for row in rows_of(out / "grad_cam.csv")][::2] == [
        *("mine/cross/000.jpg", "mine/disc/000.jpg", "mine/disc/001.png"),
    ]
    assert {row["true_class"] for row in rows_of(out / "neighbours.csv")} == {""}
    Path("mine/disc/001.png").write_bytes(b"no image")
    answer = run("explain", transferred, "--images", "mine", "--what", "maps")
    assert answer.status == 2
    assert "mine/disc/001.png: not an image" in answer.err


@pytest.mark.parametrize("command", [("transfer", "--init", "scratch"), ("pretrain", "simclr")])
def test_files_are_seen_as_the_run_saw_them(
    command: tuple, run: Callable, tiny: dict, draw_images: Callable, runtime: Runtime
) -> None:
    """Larger than stored, cut from a store that is larger than the view: other pixels than a file alone would give."""
    draw_images(Path("images"), disc=24, square=24)
    data = ("--data", "folder:images", "--loading.cache", "cache", "--loading.stored-size", 19, "--batch-size", 16)
    flags = (*tiny[command[0]], *tiny["convolutional"], *data, "--output", "run")
    assert run(*command, *flags).status == 0
    loading = Run(Path("run")).loading
    own = subject.load(
        Run(Path("run")), "run", runtime, data="folder:images", loading=loading, files=(), split="test", count=4
    )
    files = [f"images/{name}" for name in own.shown.names]
    found = subject.load(Run(Path("run")), "run", runtime, data="", loading=loading, files=files, split="test", count=4)
    assert torch.equal(found.shown.views, own.shown.views)


def test_many_bands(run: Callable, tiny: dict) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = (
        generator.integers(0, 60, (48, 16, 16, 5), dtype=np.uint8)
        + (labels * 120).astype(np.uint8)[:, None, None, None]
    )
    np.savez("bands.npz", x_train=images, y_train=labels)
    flags = (*tiny["transfer"], *tiny["convolutional"], "--loading.cache", "cache", "--output", "runs/bands")
    assert run("transfer", "--init", "scratch", "--data", "npz:bands.npz", *flags).status == 0
    answer = run("explain", "runs/bands", *FEW, "--output", "out")
    assert answer.status == 0, answer.err
    assert "Of 5 bands pictures show the first three" in Path("out/explain.html").read_text(encoding="utf-8")
    assert [row["epsilon"] for row in rows_of("out/attacks.csv")[1:4]] == [str(step / 255) for step in (2, 4, 8)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epsilons", "8/0"), "--epsilons 8/0: numbers such as 8/255 or 0.03"),
        (("--epsilons", "0", "0.1"), "above 0 and at most 1"),
        (("--epsilons", "8"), "above 0 and at most 1"),
        (("--blocks", "layer9", "--what", "maps"), "--blocks layer9: the blocks with places are stem, layer1.0"),
        (("--target", "eleven", "--what", "attacks"), "--target eleven: the classes are 0, 1, 2"),
        (("--num-images", "0"), "0"),
        (("--num-images", "101"), "--num-images 101: at most 100"),
        (("--tv", "-1"), "--tv -1.0: 0 or more"),
        (("--images", "nowhere"), "nowhere: no such file or folder"),
        (("--data", "nothing"), "--data nothing: not a known source"),
    ],
)
def test_mistakes_are_named(run: Callable, transferred: Path, flags: tuple, message: str) -> None:
    answer = run("explain", transferred, *flags, "--output", "out")
    assert answer.status == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_runs_that_are_none(run: Callable, transferred: Path) -> None:
    assert "Which run?" in run("explain").err
    assert run("explain", "nowhere").status == 2
    assert "twice" in run("explain", transferred, transferred).err
    answer = run("explain", transferred, "--output", transferred)
    assert "holds a run" in answer.err


def test_without_captum_it_is_said_what_to_install(
    run: Callable, transferred: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "captum" else found(name, *rest)
    )
    answer = run("explain", transferred, *FEW, "--what", "maps", "grad-cam", "--output", "out")
    assert answer.status == 2
    assert 'pip install "ssl_transfer[explain]"' in answer.err
    # Before anything is computed.
    assert not Path("out").exists()
    # Of all that there is, the others do without it.
    assert "grad-cam" not in parts_of(("all",), Run(transferred))
    answer = run("explain", transferred, *FEW, "--attack-images", "2", "--output", "out")
    assert answer.status == 0, answer.err
    assert 'left out: grad-cam needs captum. Install it with: pip install "ssl_transfer[explain]"' in answer.out
    assert Path("out/attacks.csv").is_file()
    assert not Path("out/grad_cam.csv").exists()
