"""Resolve the images that a user names, and read them one by one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data.loaders.user_images import Given, given, read_as
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.decode import Layout
from ssl_transfer.engine.errors import InputError

GREY = Layout(channels=1, dtype="uint8", side=8, background=255)


def named(text: str, column: str | None = None) -> list[str]:
    return [str(name) for name in given(text, column=column, image_size=16, loading=LoadingConfig()).names]


def read_one(item: object, layout: Layout, *, to_grey: bool = False) -> tuple[np.ndarray | None, str]:
    images = [Given(["one"], lambda _: item)]
    ((found,),) = read_as(images, layout, to_grey=to_grey, batch_size=4, workers=1)
    return found.pixels, found.problem


def test_only_a_few_batches_are_held() -> None:
    """However slow the reader is, no more than two batches are decoded ahead of it."""
    asked: list[int] = []

    def item(index: int) -> np.ndarray:
        asked.append(index)
        return np.full((8, 8), index % 256, np.uint8)

    images = [Given([str(index) for index in range(600)], item), Given(["600", "601"], lambda i: item(600 + i))]
    seen = 0
    for number, batch in enumerate(read_as(images, GREY, to_grey=False, batch_size=10, workers=2)):
        assert [int(one.name) for one in batch] == list(range(602))[10 * number : 10 * number + 10]
        assert [int(one.pixels[0, 0, 0]) for one in batch] == [int(one.name) % 256 for one in batch]
        seen += len(batch)
        assert len(asked) <= seen + 21
    assert seen == 602


def test_a_folder_with_the_name_of_data_is_written_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits/below").mkdir(parents=True)
    for name in ("digits/b.png", "digits/below/a.PNG"):
        Image.new("L", (9, 9)).save(name)
    Path("digits/notes.txt").write_text("no image")
    assert len(named("digits")) == 1797
    assert named("./digits") == ["./digits/b.png", "./digits/below/a.PNG"]


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_tables(tmp_path: Path, name: str) -> None:
    between = "," if name.endswith("csv") else "\t"
    table = tmp_path / name
    table.write_text(f"\ufefffile{between}other\na.png{between}b.png\n/c.png{between}\n", encoding="utf-8")
    assert named(str(table)) == ["a.png", "/c.png"]
    assert named(str(table), "other") == ["b.png", ""]
    found = given(str(table), column=None, image_size=16, loading=LoadingConfig())
    assert [found.item(index) for index in range(2)] == [tmp_path / "a.png", Path("/c.png")]
    with pytest.raises(InputError, match="no column othr; there are file, other"):
        named(str(table), "othr")
    table.write_bytes(b"path\n\xff\xfe")
    with pytest.raises(InputError, match="not a readable table in UTF-8"):
        named(str(table))
    table.write_text("path\n")
    with pytest.raises(InputError, match="no rows"):
        named(str(table))


def test_nothing_becomes_something_else_in_silence() -> None:
    colour = np.zeros((8, 8, 3), np.uint8)
    assert "has colours" in read_one(colour, GREY)[1]
    pixels, _ = read_one(colour, GREY, to_grey=True)
    assert pixels is not None
    assert pixels.shape == (1, 8, 8)
    rgb = Layout(channels=3, dtype="uint8", side=8, background=255)
    pixels, problem = read_one(np.arange(64, dtype=np.uint8).reshape(8, 8), rgb)
    assert problem == ""
    assert pixels is not None
    assert (pixels[0] == pixels[2]).all()
    assert "has 5 channels; the images of the run have 3" in read_one(np.zeros((8, 8, 5), np.uint8), rgb)[1]
    assert "has uint16 values" in read_one(np.zeros((8, 8, 3), np.uint16), rgb)[1]
    bands = Layout(channels=5, dtype="uint16", side=8, background=None)
    assert "has 3 channels" in read_one(np.zeros((8, 8, 3), np.uint16), bands)[1]
    assert read_one(np.zeros((8, 8, 5), np.uint16), bands)[1] == ""
    assert "not finite" in read_one(np.full((8, 8), np.nan, np.float32), Layout(1, "float32", 8, None))[1]
