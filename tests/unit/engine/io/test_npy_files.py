import numpy as np
import pytest
import torch

from ssl_transfer.engine.errors import InputError

RANDOM = np.random.default_rng(0)


def images(count: int, *shape: int, dtype=np.uint8) -> np.ndarray:
    return RANDOM.integers(0, 200, (count, *(shape or (16, 16)))).astype(dtype)


@pytest.fixture
def save(tmp_path):
    def call(**arrays) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return f"npz:{tmp_path / 'data.npz'}"

    return call


def counts(data) -> dict[str, int]:
    return {name: len(index) for name, index in data.splits.items()}


def test_x_and_y(save, load):
    x, y = images(20), np.arange(20) % 2 + 5
    data = load(save(x_train=x, y_train=y, x_test=images(4), y_test=np.array([5, 6, 5, 6])))
    assert counts(data) == {"unlabeled": 0, "train": 16, "validation": 4, "test": 4}
    assert data.classes == ("5", "6")
    assert data.names[3] == "train[3]"
    assert np.array_equal(data.pixels[torch.arange(20)][:, 0].numpy(), x)
    assert data.labels[:20].tolist() == (y - 5).tolist()


@pytest.mark.parametrize(("shape", "kept"), [((16, 16, 3), 3), ((16, 16), 1), ((16, 16, 1), 1)])
@pytest.mark.parametrize("channels", ["auto", "grey", "rgb", "rgba"])
def test_eight_bits_become_what_files_become(save, load, shape, kept, channels):
    x = images(20, *shape)
    data = load(save(x_train=x, y_train=np.arange(20) % 2), channels=channels)
    assert data.num_channels == {"auto": kept, "grey": 1, "rgb": 3, "rgba": 4}[channels]
    if data.num_channels == kept:
        assert np.array_equal(data.pixels[torch.arange(20)].numpy(), x.reshape(20, 16, 16, -1).transpose(0, 3, 1, 2))


def test_medmnist_form_with_an_unlabelled_part(save, load):
    data = load(
        save(
            train_images=images(8, 16, 16, 3),
            train_labels=np.arange(8)[:, None] % 2,
            val_images=images(2, 16, 16, 3),
            val_labels=np.array([[0], [1]]),
            test_images=images(2, 16, 16, 3),
            test_labels=np.array([[0], [1]]),
            x_unlabeled=images(5, 16, 16, 3),
        )
    )
    assert counts(data) == {"unlabeled": 5, "train": 8, "validation": 2, "test": 2}
    assert data.num_channels == 3


def test_encoded_files_end_to_end(save, load, scatter, tmp_path):
    files = [scatter(tmp_path / "source" / f"{index}.jpg", index).read_bytes() for index in range(8)]
    offsets = np.cumsum([0, *map(len, files)])
    blob = np.frombuffer(b"".join(files), np.uint8)
    data = load(
        save(
            blob=blob,
            offsets=offsets,
            labels=np.arange(8) % 2,
            split=np.array(["train"] * 6 + ["test"] * 2),
            classes=np.array(["cat", "dog"]),
        )
    )
    assert data.classes == ("cat", "dog")
    assert counts(data)["test"] == 2
    root = tmp_path / "source"
    (root / "cat").mkdir()
    (root / "dog").mkdir()
    for index in range(8):
        (root / f"{index}.jpg").rename(root / ("cat", "dog")[index % 2] / f"{index}.jpg")
    folder = load(f"folder:{root}")
    position = list(folder.names).index("dog/3.jpg")
    assert torch.equal(folder.pixels[torch.tensor([position])], data.pixels[torch.tensor([3])])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_deep_and_float_arrays_are_kept(save, load, dtype):
    x = (images(12, 16, 16, 5) * 100.0 - (8000 if dtype != np.uint16 else 0)).astype(dtype)
    data = load(save(images=x, labels=np.array(["a", "b"] * 6)))
    assert data.num_channels == 5
    found = data.pixels[torch.arange(12)].numpy()
    assert found.dtype == (np.float32 if dtype == np.float64 else dtype)
    assert np.array_equal(found, x.transpose(0, 3, 1, 2))
    low, high = data.value_range
    assert x.min() <= low < high <= x.max()
    unit = next(data.batches([data.pool], torch.device("cpu")))
    assert 0.99 < float(unit.max()) < 1.01


def test_texts_beside_an_unlabelled_part(save, load):
    """-1 does not become the name of a class."""
    data = load(save(x_train=images(20), y_train=np.array(["bee", "ant"] * 10), x_unlabeled=images(7)))
    assert data.classes == ("ant", "bee")
    assert len(data.splits["unlabeled"]) == 7
    assert (data.labels[data.splits["unlabeled"]] == -1).all()


def test_labels_of_minus_one_are_unlabelled(save, load):
    data = load(save(images=images(9), labels=np.array([0, 1, -1] * 3)))
    assert counts(data)["unlabeled"] == 3
    assert data.classes == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, "has pictures; expected x_train y_train"),
        ({"images": np.zeros((4, 16, 16), np.uint8), "labels": np.arange(3)}, "4 images, but 3 labels"),
        ({"images": np.zeros((4, 16, 16), np.uint8), "labels": np.zeros(4)}, "labels of float64"),
        ({"images": np.zeros((4, 16, 16), np.uint8), "labels": np.zeros(4, int)}, "only one class"),
        (
            {"images": np.zeros((4, 16, 16), np.uint8), "labels": np.arange(4), "classes": np.array(["a"])},
            "label 3, but only 1 classes",
        ),
        (
            {"images": np.zeros((4, 16, 16), np.uint8), "labels": np.arange(4), "split": np.array(["trian"] * 4)},
            "'trian' is not a part",
        ),
        ({"blob": np.zeros(9, np.uint8), "offsets": np.array([0, 5, 3]), "labels": np.arange(2)}, "`offsets` rise"),
        ({"x_train": np.zeros((4, 16, 16)), "y_train": np.zeros((4, 7))}, r"y_train the shape \(4, 7\)"),
    ],
)
def test_arrays_that_do_not_fit(save, load, arrays, message):
    with pytest.raises(InputError, match=message):
        load(save(**arrays))


def test_pickled_objects_are_never_loaded(save, load):
    with pytest.raises(InputError, match="Pickled objects are never loaded"):
        load(save(images=np.array([{"a": 1}], dtype=object)))


def test_missing_and_broken_files(load, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(InputError, match="cannot be read"):
        load(f"npz:{tmp_path / 'broken.npz'}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="without names"):
        load(f"npz:{tmp_path / 'one.npy'}")
