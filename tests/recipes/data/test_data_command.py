"""`ssl-transfer data`: the commands on folders with everything wrong, as a user would have them."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data.store import cache_admin
from ssl_transfer.engine.io import ownership
from ssl_transfer.methods import METHODS

SIZE = ("--image-size", "16", "--loading.cache", "cache")
SCRIPT = "<script>alert(1)<"
"""As a file's name; a slash cannot stand in one."""


def paint(folder: Path, seed: int = 0, **counts: int) -> Path:
    """Fill `folder/<class>/` with clouds of colour, 56 x 40 pixels, no two of which look alike."""
    generator = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            clouds = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            file = folder / name / f"{number:03}.{'png' if number % 2 else 'jpg'}"
            clouds.resize((56, 40), Image.Resampling.BICUBIC).save(file)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Nothing wrong: classes of 40 images, parts of their own."""
    for seed, (part, count) in enumerate({"train": 40, "val": 10, "test": 10}.items()):
        paint(tmp_path / "whole" / part, seed=seed, disc=count, square=count)
    return tmp_path / "whole"


@pytest.fixture
def spoiled(whole: Path, tmp_path: Path) -> Path:
    """One of everything that is wrong."""
    folder = shutil.copytree(whole, tmp_path / "spoiled")
    disc, square = folder / "train" / "disc", folder / "train" / "square"
    shutil.copy(disc / "001.png", folder / "test" / "disc" / "copy.png")
    shutil.copy(disc / "003.png", square / "wrong.png")
    shutil.copy(disc / "005.png", disc / "twice.png")
    Image.open(disc / "007.png").save(folder / "val" / "disc" / "near.jpg", quality=90)
    (disc / "000.jpg").write_bytes((disc / "000.jpg").read_bytes()[:700])
    (disc / "notes.png").write_text("no image")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(disc / "deep.png")
    Image.new("RGB", (60, 20), (9, 9, 90)).save(disc / f"{SCRIPT}.png")
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(square / "logo [red].png")
    Image.open(disc / "009.png").resize((8, 8)).save(disc / "tiny.png")
    (folder / "train" / "cross").mkdir()
    return folder


def findings(folder: str) -> tuple[dict, dict[str, dict]]:
    content = json.loads(Path(folder, "findings.json").read_text())
    return content, {one["topic"]: one for one in content["findings"]}


def test_the_three_commands_are_listed(run: Callable) -> None:
    for arguments, status in ((), 2), (("--help",), 0):
        answer = run("data", *arguments)
        assert answer.status == status
        assert all(f"  {name} " in answer.out for name in ("check", "preview", "cache"))
    for name in ("check", "preview", "cache"):
        answer = run("data", name, "--help")
        assert answer.status == 0
        assert f"usage: ssl-transfer data {name}" in answer.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chek",), ("'chek' is not a command of data", "Did you mean check")),
        (("check",), ("Which images?", "data check folder:PATH")),
        (("check", "digits", "--data", "digits"), ("Which images?",)),
        (("check", "digit"), ("digit", "Did you mean digits")),
        (("check", "folder:absent", *SIZE), ("folder:absent", "no such folder")),
        (("check", "digits", "--output", "file"), ("--output file: is not a folder",)),
        (("preview", "--method", "simcrl"), ("--method simcrl", "Did you mean simclr")),
        (("preview", "--augmentation", "digit"), ("--augmentation digit", "Did you mean digits")),
        (("preview", "--images", "0"), ("--images 0",)),
        (("cache", "--evict", "abc", "--loading.cache", "cache"), ("--evict abc: no such entry",)),
        (("cache", "--evict", "all", "--older-than", "3"), ("not both",)),
        (("cache", "--evict", "all", "--verify"), ("--verify", "not both")),
        (("cache", "--older-than", "-1"), ("--older-than -1",)),
    ],
)
def test_mistakes_end_with_status_2_and_a_remedy(arguments: tuple, words: tuple, run: Callable) -> None:
    Path("file").write_text("")
    answer = run("data", *arguments)
    assert answer.status == 2
    assert all(word in answer.err for word in words), answer.err


@pytest.mark.figures
def test_check_of_good_images_is_fine(run: Callable, whole: Path) -> None:
    answer = run("data", "check", f"folder:{whole}", *SIZE)
    assert answer.status == 0, answer.err
    content, found = findings("runs/check-whole")
    assert not {one["topic"] for one in found.values() if one["severity"] == "problem"}
    assert content["counts"]["disc"] == {"train": 40, "validation": 10, "test": 10}
    assert "runs/check-whole/check.html" in answer.out
    assert "\x1b" not in answer.out


@pytest.mark.figures
def test_check_reports_everything_that_is_wrong_and_stops_at_nothing(run: Callable, spoiled: Path) -> None:
    answer = run("data", "check", f"folder:{spoiled}", *SIZE, "--output", "out")
    assert answer.status == 1, answer.err
    content, found = findings("out")
    assert found["images of several kinds"]["details"] == ["train/disc/deep.png: uint16, 1 channel"]
    unreadable = {line.split(":")[0] for line in found["unreadable images"]["details"]}
    assert unreadable == {"train/disc/notes.png", "train/disc/000.jpg"}
    assert found["exact copies across parts"]["images"] == [["test/disc/copy.png", "train/disc/001.png"]]
    assert found["exact copies with different labels"]["images"] == [["train/disc/003.png", "train/square/wrong.png"]]
    assert ["train/disc/005.png", "train/disc/twice.png"] in found["exact copies within a part"]["images"]
    assert ["train/disc/007.png", "val/disc/near.jpg"] in found["near duplicates across parts"]["images"]
    assert found["shapes"]["images"] == [[f"train/disc/{SCRIPT}.png"]]
    assert set(found["blank images"]["images"][0] + found["blank images"]["images"][1]) == {
        f"train/disc/{SCRIPT}.png",
        "train/square/logo [red].png",
    }
    assert found["empty folders"]["details"] == ["train/cross"]
    assert found["sizes"]["images"] == [["train/disc/tiny.png"]]
    severities = [one["severity"] for one in content["findings"]]
    assert severities == sorted(severities, key=["problem", "warning", "fine"].index)
    # What is said at the end is in the page, and the page is one file that runs nothing.
    page = Path("out/check.html").read_text()
    assert content["verdict"] in page
    assert content["verdict"] in answer.out
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;.png" in page
    assert 'src="http' not in page
    for topic in found:
        assert topic in page
    # Every image that a finding names has its picture.
    shown = sum(len(group) for one in content["findings"] for group in one["images"])
    assert page.count("<figure>") == shown


def test_check_divides_as_training_does_and_says_so(run: Callable, tmp_path: Path) -> None:
    paint(tmp_path / "bare", disc=30, square=30)
    answer = run("data", "check", "--data", f"folder:{tmp_path / 'bare'}", *SIZE)
    assert answer.status == 0, answer.out
    content, _ = findings("runs/check-bare")
    assert content["divided"] == ["validation", "test"]
    assert "test (by seed)" in answer.out


def test_check_of_a_class_too_small_to_divide(run: Callable, tmp_path: Path) -> None:
    paint(tmp_path / "bare", disc=30, square=1)
    answer = run("data", "check", f"folder:{tmp_path / 'bare'}", *SIZE)
    assert answer.status == 1
    _, found = findings("runs/check-bare")
    assert "'square' has 1 image" in found["division"]["sentence"]
    assert "square (1)" in found["small classes"]["sentence"]


def test_a_bad_grouping_is_the_commands_mistake(run: Callable, whole: Path) -> None:
    answer = run("data", "check", f"folder:{whole}", *SIZE, "--loading.group-by", "(patient[0-9]+)")
    assert answer.status == 2
    assert "--loading.group-by" in answer.err


def test_check_of_deep_images_of_many_bands(run: Callable, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    stack = generator.integers(0, 4000, (40, 20, 20, 5)).astype(np.uint16)
    np.savez(tmp_path / "bands.npz", images=stack, labels=np.arange(40) % 2)
    answer = run("data", "check", f"npz:{tmp_path / 'bands.npz'}", *SIZE)
    assert answer.status == 0, answer.out + answer.err
    content, found = findings("runs/check-bands.npz")
    assert "5 channels of uint16" in found["channels"]["sentence"]
    assert len(content["channels"][0]["mean"]) == 5


def test_check_of_images_without_labels(run: Callable, tmp_path: Path) -> None:
    paint(tmp_path / "pool" / "unlabeled", disc=12)
    answer = run("data", "check", f"folder:{tmp_path / 'pool'}", *SIZE)
    assert answer.status == 0, answer.err
    content, _ = findings("runs/check-pool")
    assert content["counts"] == {"without a label": {"unlabeled": 12}, "all": {"unlabeled": 12}}


def test_preview_draws_a_sheet_for_every_method(run: Callable) -> None:
    answer = run("data", "preview", "--data", "digits", "--image-size", "16", "--images", "3", "--epochs", "2")
    assert answer.status == 0, answer.err
    drawn = {path.stem: Image.open(path) for path in Path("runs/preview-digits").glob("*.png")}
    assert set(drawn) == {*METHODS, "transfer"}
    # Pairs of views are twice as many as single ones; MAE has what it sees beside each.
    assert drawn["simclr"].size == drawn["mae"].size
    assert drawn["transfer"].size[0] < drawn["simclr"].size[0]


def test_preview_shows_the_settings_that_were_given(run: Callable) -> None:
    common = ("data", "preview", "--image-size", "16", "--images", "3", "--method", "simclr")
    for name, flags in {
        "plain": (),
        "again": (),
        "digits": ("--augmentation", "digits"),
        "turned": ("--augmentation", "digits", "--simclr.method.augment.rotation", "90"),
    }.items():
        assert run(*common, *flags, "--output", f"{name}.png").status == 0
    content = {name: Path(f"{name}.png").read_bytes() for name in ("plain", "again", "digits", "turned")}
    assert content["plain"] == content["again"]
    assert len(set(content.values())) == 3


def test_preview_shows_every_view_in_its_own_way(run: Callable) -> None:
    """DINO's two global crops and its local ones; BYOL's second view by settings of its own."""
    common = ("data", "preview", "--image-size", "16", "--images", "2", "--epochs", "1")
    assert run(*common, "--method", "byol", "dino", "--output", "a.png").status == 0
    assert Image.open("a-dino.png").size[0] > 1.5 * Image.open("a-byol.png").size[0]
    second = ("--byol.method.second-augment.flip", "1.0", "--byol.method.second-augment.rotation", "90")
    assert run(*common, "--method", "byol", *second, "--output", "b.png").status == 0
    assert Path("a-byol.png").read_bytes() != Path("b.png").read_bytes()


def test_preview_of_several_methods_into_named_files(run: Callable) -> None:
    corrupt = ("--autoencoder.method.noise", "0.5", "--autoencoder.method.mask-ratio", "0.5")
    answer = run(
        *("data", "preview", "--image-size", "16", "--images", "2", "--output", "a.png"),
        *("--method", "mae", "autoencoder", *corrupt),
    )
    assert answer.status == 0, answer.err
    # What the autoencoder sees has a column of its own now.
    assert Image.open("a-mae.png").size == Image.open("a-autoencoder.png").size


def test_preview_shows_what_a_run_saw(run: Callable, pretrained: Path) -> None:
    answer = run("data", "preview", "--config", pretrained / "config.yaml", "--images", "2", "--output", "sheets")
    assert answer.status == 0, answer.err
    assert [path.name for path in Path("sheets").glob("*.png")] == ["simclr.png"]


@pytest.mark.parametrize(
    ("content", "drawn"),
    [
        ("init: scratch\naugment: {flip: 0.25}\nepochs: 3\n", {"transfer"}),
        ("arms: [scratch, moco]\nmoco: {epochs: 3, method: {augment: {flip: 0.25}}}\n", {"moco", "transfer"}),
        ("method: [mae]\nimages: 3\n", {"mae"}),
    ],
)
def test_preview_reads_files_of_settings_of_every_kind(content: str, drawn: set, run: Callable) -> None:
    Path("settings.yaml").write_text(f"image_size: 16\n{content}")
    answer = run("data", "preview", "--config", "settings.yaml", "--images", "2", "--output", "sheets")
    assert answer.status == 0, answer.err
    assert {path.stem for path in Path("sheets").glob("*.png")} == drawn


def fill_cache(run: Callable, folder: Path) -> None:
    assert run("data", "check", f"folder:{folder}", *SIZE).status == 0


def test_cache_lists_what_lies_there(run: Callable, whole: Path) -> None:
    assert "no decoded pixels" in run("data", "cache", "--loading.cache", "cache").out
    fill_cache(run, whole)
    (entry,) = cache_admin.entries(Path("cache"))
    assert (entry.source, entry.num_images, entry.complete) == (f"folder:{whole}", 120, True)
    assert entry.size > 120 * 3 * 18 * 18
    answer = run("data", "cache", "--loading.cache", "cache")
    assert answer.status == 0
    assert entry.key[:8] in answer.out
    assert "just now" in answer.out


def test_cache_evicts_by_key_and_by_age_and_touches_nothing_else(run: Callable, whole: Path) -> None:
    fill_cache(run, whole)
    (entry,) = cache_admin.entries(Path("cache"))
    for path in ("downloads/data.npz", f"{'e' * 32}.partial/pixels.npy", "mine/record.json"):
        Path("cache", path).parent.mkdir()
        Path("cache", path).write_text("{}")
    Path("cache", f"{'f' * 32}.lock").write_text("")
    old = time.time() - 10 * 86400
    os.utime(Path("cache", entry.key), (old, old))
    assert "0 B freed" in run("data", "cache", "--loading.cache", "cache", "--older-than", "11").out
    assert "10 days ago" in run("data", "cache", "--loading.cache", "cache").out
    answer = run("data", "cache", "--loading.cache", "cache", "--older-than", "9")
    assert f"removed {entry.key[:8]}" in answer.out
    assert not list(Path("cache").glob(f"{entry.key}*"))
    assert run("data", "cache", "--loading.cache", "cache", "--evict", "eeee").status == 2
    assert run("data", "cache", "--loading.cache", "cache", "--evict", "all").status == 0
    left = [f"{'e' * 32}.partial", f"{'f' * 32}.lock", "downloads", "index", "mine"]
    assert sorted(path.name for path in Path("cache").iterdir()) == sorted(left)
    assert [path.name for path in Path("cache/index").iterdir()] == [ownership.MARKER]


def test_cache_keeps_what_a_run_is_decoding_into(run: Callable, whole: Path) -> None:
    fill_cache(run, whole)
    (entry,) = cache_admin.entries(Path("cache"))
    with filelock.FileLock(Path("cache", "index", f"{entry.key}.lock")):
        answer = run("data", "cache", "--loading.cache", "cache", "--evict", "all")
        assert answer.status == 0
        assert f"kept {entry.key[:8]}" in answer.out
    assert Path("cache", entry.key, "record.json").is_file()
    assert "removed" in run("data", "cache", "--loading.cache", "cache", "--evict", entry.key).out


def test_what_was_evicted_is_decoded_again(run: Callable, whole: Path) -> None:
    fill_cache(run, whole)
    first = Path("runs/check-whole/check.html").read_bytes()
    assert run("data", "cache", "--loading.cache", "cache", "--evict", "all").status == 0
    fill_cache(run, whole)
    assert Path("runs/check-whole/check.html").read_bytes() == first
