"""The cache of pixels through the real commands: changed images, copies, damage, and files that are not ours."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data.store import cache_admin, cache_build, content_key
from ssl_transfer.engine.io import ownership

SIZE = ("--image-size", "16", "--loading.cache", "cache")
COUNT = 12
GREY = 128


def picture(value: int) -> np.ndarray:
    pixels = np.random.default_rng(value).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels[0, 0] = value
    return pixels


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """12 files of 2 classes, of equal size, as uncompressed as BMP is."""
    for number in range(COUNT):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(file)
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that are decoded, one a chunk. Files are trusted at once, not after two seconds."""
    counts: list[int] = []
    plain = cache_build.store_squares

    def counted(items: list, *arguments: object) -> list:
        counts.append(len(items))
        return plain(items, *arguments)

    monkeypatch.setattr(cache_build, "store_squares", counted)
    monkeypatch.setattr(content_key, "SETTLED", 0)
    return counts


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose content is read for the key."""
    paths: list[Path] = []
    plain = content_key.file_hash

    def noted(path: Path) -> int:
        paths.append(path)
        return plain(path)

    monkeypatch.setattr(content_key, "file_hash", noted)
    return paths


@pytest.fixture
def try_check(run: Callable) -> Callable:
    """`try_check(folder)` runs `data check` on it, each time into another folder."""
    numbers = itertools.count()
    return lambda folder: run("data", "check", f"folder:{folder}", *SIZE, "--output", f"checked/{next(numbers)}")


@pytest.fixture
def check(try_check: Callable) -> Callable[[Path], str]:
    """`check(folder)` runs `data check` on it without an error; returns the fingerprint of the data."""

    def call(folder: Path) -> str:
        answer = try_check(folder)
        assert answer.status == 0, answer.err
        newest = max(Path("checked").iterdir(), key=lambda one: int(one.name))
        return json.loads((newest / "findings.json").read_text())["fingerprint"]

    return call


def replace_file(file: Path, pixels: np.ndarray) -> None:
    """As `rsync -t` does: another inode, the same size and modification time."""
    Image.fromarray(pixels).save(file.with_suffix(".new.bmp"))
    shutil.copystat(file, file.with_suffix(".new.bmp"))
    os.replace(file.with_suffix(".new.bmp"), file)


def rewrite_file(file: Path, pixels: np.ndarray) -> None:
    """As `cp -p` does: the same inode, size and modification time."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=times)


@pytest.mark.parametrize("change", [replace_file, rewrite_file])
def test_a_changed_image_of_the_same_size_and_time(
    change: Callable, check: Callable, images: Path, decoded: list, read: list
) -> None:
    first = check(images)
    assert sum(decoded) == COUNT
    file = images / "a" / "4.bmp"
    before = file.stat()
    pixels = picture(4)
    # Neither in the first nor in the last bytes.
    pixels[8, 8] = GREY
    change(file, pixels)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    read.clear()
    assert check(images) != first
    assert sum(decoded) == 2 * COUNT
    assert read[0].name == "4.bmp"
    change(file, picture(4))
    assert check(images) == first
    # The entry of the first images is there still.
    assert sum(decoded) == 2 * COUNT


def test_a_run_sees_the_new_pixels(run: Callable, tiny: dict, images: Path, decoded: list) -> None:
    data = ("--data", f"folder:{images}", "--loading.cache", "cache", "--loading.near-duplicates", "free")
    command = ("transfer", "--init", "scratch", *tiny["transfer"], *data, *tiny["convolutional"])
    command = (*command, "--labels", "1")
    assert run(*command, "--output", "run").status == 0
    for number in range(COUNT):
        rewrite_file(images / "ab"[number % 2] / f"{number}.bmp", picture(100 + number))
    answer = run(*command, "--output", "run")
    assert answer.status == 2
    assert "holds a run with another data (fingerprint" in answer.err
    assert run(*command, "--output", "other").status == 0
    assert sum(decoded) == 2 * COUNT
    first, second = (json.loads(Path(folder, "result.json").read_text()) for folder in ("run", "other"))
    assert first != second


def test_harmless_changes_decode_nothing(check: Callable, images: Path, decoded: list, read: list) -> None:
    first = check(images)
    assert len(read) == COUNT
    read.clear()
    assert check(images) == first
    assert read == []
    for number, file in enumerate(sorted(images.rglob("*.bmp"))):
        if number % 2:
            file.chmod(0o600)
        else:
            os.utime(file)
    (images / "a" / "0.bmp").with_suffix(".link").hardlink_to(images / "a" / "0.bmp")
    assert check(images) == first
    assert len(read) == COUNT
    for place in (shutil.copytree(images, "copied"), images.rename("moved")):
        assert check(Path(place)) == first
    assert sum(decoded) == COUNT


def test_a_file_that_has_just_changed_is_read_again(check: Callable, images: Path, read: list) -> None:
    """A clock may be too coarse to tell two changes apart."""
    check(images)
    read.clear()
    check(images)
    assert len(read) == COUNT


def test_images_that_change_while_they_are_decoded(
    try_check: Callable, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cache_build.store_squares

    def changing(*arguments: object) -> list:
        answers = plain(*arguments)
        rewrite_file(images / "a" / "0.bmp", picture(77))
        return answers

    with monkeypatch.context() as patched:
        patched.setattr(cache_build, "store_squares", changing)
        answer = try_check(images)
    assert answer.status == 2
    assert "images changed while they were decoded. Start again." in answer.err
    assert cache_admin.entries(Path("cache")) == []
    assert try_check(images).status == 0


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "offset", "named"),
    [
        ("pixels.npy", -1, "damaged (1 row of pixels.npy differ from their hash, the first is row 39)"),
        ("pixels.npy", 128 + 768, "damaged (1 row of pixels.npy"),
        ("means.npy", -1, "damaged (means.npy does not have its checksum)"),
        ("record.json", 30, "damaged ("),
    ],
)
def test_verify_finds_a_flipped_bit(
    name: str, offset: int, named: str, run: Callable, check: Callable, tmp_path: Path
) -> None:
    """In any of 40 rows, of which a start looks at 16."""
    for number in range(40):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number:02}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(file)
    check(tmp_path / "images")
    verify = ("data", "cache", "--verify", "--loading.cache", "cache")
    answer = run(*verify)
    assert (answer.status, answer.err) == (0, "")
    assert "40 images verified" in answer.out
    (entry,) = cache_admin.entries(Path("cache"))
    flip(entry.place / name, offset)
    answer = run(*verify)
    assert answer.status == 1
    assert "1 entry damaged:" in answer.err
    if "row 39" not in named:
        assert named in answer.err
    # The remedy as it is printed.
    words = answer.err.split("`")[1].split()
    assert words[0] == "ssl-transfer"
    assert "removed" in run(*words[1:]).out
    check(tmp_path / "images")
    assert run(*verify).status == 0


def test_a_damaged_record_does_not_stay_in_the_way(check: Callable, images: Path, decoded: list) -> None:
    first = check(images)
    (entry,) = cache_admin.entries(Path("cache"))
    flip(entry.place / "record.json", 30)
    assert check(images) == first
    assert sum(decoded) == 2 * COUNT
    (entry,) = cache_admin.entries(Path("cache"))
    assert entry.complete


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_of_others_stay(
    run: Callable, check: Callable, try_check: Callable, images: Path, tmp_path: Path
) -> None:
    """Also with the names of entries, of what is left of them and of locks."""
    check(images)
    (entry,) = cache_admin.entries(Path("cache"))
    key = entry.key
    assert run("data", "cache", "--loading.cache", "cache", "--evict", "all").status == 0
    theirs = tmp_path / "theirs"
    ownership.own_folder(theirs)
    (theirs / "thesis.txt").write_text("years of work")
    ownership.claim(theirs / "record.json")
    (theirs / "record.json").write_text("{}")
    cache = tmp_path / "cache"
    for name in ("a" * 32, f"{'b' * 32}.partial", f"{key}.partial", "photographs", "help"):
        (cache / name).mkdir()
        (cache / name / "record.json").write_text('{"source": "mine"}')
        (cache / name / "pixels.npy").write_bytes(b"mine")
    for name in ("c" * 32, f"{'a' * 32}.lock", f"{key}.lock", f"{'d' * 32}.npy", "notes.txt"):
        (cache / name).write_text("mine")
    (cache / ("e" * 32)).symlink_to(theirs)
    before = contents(cache) | contents(theirs)
    for arguments in (("--evict", "all"), ("--older-than", "0"), ("--verify",), ()):
        answer = run("data", "cache", "--loading.cache", "cache", *arguments)
        assert answer.status == 0, answer.err
        if arguments != ("--verify",):
            assert "without a record of ssl_transfer, so they stay: " in answer.out
            assert f"{key}.partial" in answer.out
    answer = try_check(images)
    assert answer.status == 2
    assert f"{key}.partial has no record of ssl_transfer, so it is not replaced" in answer.err
    shutil.move(cache / f"{key}.partial", cache / key)
    answer = try_check(images)
    assert answer.status == 2
    assert f"{key} has no record of ssl_transfer, so it is not replaced" in answer.err
    shutil.move(cache / key, cache / f"{key}.partial")
    assert {path: content for path, content in contents(cache).items() if path in before} == {
        path: content for path, content in before.items() if not path.startswith(str(theirs))
    }
    assert contents(theirs) == {path: content for path, content in before.items() if path.startswith(str(theirs))}
    # The remedy as it is printed.
    shutil.move(cache / f"{key}.partial", tmp_path / "away")
    check(images)


def test_a_file_of_others_in_an_entry_stays(run: Callable, check: Callable, try_check: Callable, images: Path) -> None:
    check(images)
    (entry,) = cache_admin.entries(Path("cache"))
    (entry.place / "notes.txt").write_text("mine")
    answer = run("data", "cache", "--loading.cache", "cache", "--evict", "all")
    assert answer.status == 0
    assert "notes.txt is not in its record" in answer.out
    assert (entry.place / "notes.txt").read_text() == "mine"
    # The entry is kept as a whole.
    assert try_check(images).status == 0
    (entry.place / "means.npy").write_bytes(b"")
    answer = try_check(images)
    assert answer.status == 2
    assert "notes.txt is not in the record of its folder, so the folder is not replaced. Move it away" in answer.err
    (entry.place / "notes.txt").unlink()
    check(images)


def test_an_entry_of_the_last_format_can_be_removed(run: Callable, check: Callable, images: Path) -> None:
    """It has no other record than its own, which is sealed."""
    check(images)
    (entry,) = cache_admin.entries(Path("cache"))
    old = Path("cache", "f" * 32)
    shutil.copytree(entry.place, old, ignore=shutil.ignore_patterns(ownership.MARKER))
    assert len(cache_admin.entries(Path("cache"))) == 2
    assert run("data", "cache", "--loading.cache", "cache", "--evict", "ffff").status == 0
    assert not old.exists()
    shutil.copytree(entry.place, old, ignore=shutil.ignore_patterns(ownership.MARKER))
    flip(old / "record.json", 30)
    assert f"so they stay: {old.name}" in run("data", "cache", "--loading.cache", "cache", "--evict", "all").out
    assert old.is_dir()
