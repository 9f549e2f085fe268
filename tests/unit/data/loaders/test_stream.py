"""Streams of `hf:REPO`, here from small files on disk through the library's own streaming."""

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.cli import main
from ssl_transfer.data import sources
from ssl_transfer.data.loaders.stream import open_stream
from ssl_transfer.data.loaders.stream_loader import StreamLoader
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneConfig, make_spec
from ssl_transfer.stages.common.run import Run

SIZE = 8


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    # Some versions wait for a fault of Arrow's after every pass.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    datasets.disable_progress_bars()


def png(value: int) -> bytes:
    """An image of one grey in its left half, by which it is known, and black in its right."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, *files: list[bytes], split: str = "train", described: bool = True) -> Path:
    """Parquet files of embedded images, and the card that says how many there are."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image()})
    for number, images in enumerate(files):
        rows = [{"bytes": image, "path": None} for image in images]
        table = datasets.Dataset.from_dict({"image": rows}, features=features)
        table.to_parquet(folder / "data" / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
    if described:
        count = sum(len(images) for images in files)
        (folder / "README.md").write_text(
            "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n"
            f"  splits:\n  - name: {split}\n    num_bytes: 1\n    num_examples: {count}\n---\n"
        )
    return folder


def pngs(*values: int) -> list[bytes]:
    return [png(value) for value in values]


def process(index: int = 0, count: int = 1, said: list[str] | None = None) -> Any:
    """Imitate the runtime of process `index` of `count`, as a loader reads it."""
    say = (said if said is not None else []).append
    return SimpleNamespace(device=torch.device("cpu"), process_index=index, num_processes=count, say=say)


def loader(
    folder: Path | str, runtime: Any = None, *, batch_size: int = 4, seed: int = 3, **settings: Any
) -> StreamLoader:
    config = sources.LoadingConfig(streaming=True, workers=2, **settings)
    stream = open_stream(f"hf:{folder}", image_size=SIZE, config=config)
    return StreamLoader(stream, batch_size=batch_size, seed=seed, runtime=runtime or process())


def values(batches: list[Batch]) -> list[int]:
    return [round(float(image[0, 0, 0]) * 255) for batch in batches for image in batch.images]


def test_an_epoch_has_each_image_once_in_another_order(tmp_path: Path) -> None:
    found = loader(write(tmp_path / "data", pngs(*range(1, 11)), pngs(*range(11, 21))))
    assert (found.batch_size, found.steps_per_epoch) == (4, 5)
    epochs = [list(found.epoch(epoch)) for epoch in (0, 1, 0)]
    orders = [values(batches) for batches in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 21))
    assert orders[0] != sorted(orders[0]) != orders[1] != orders[0]
    # What has run before does not matter, so a resumed training sees what it would have seen.
    assert orders[0] == orders[2]
    keys = torch.cat([batch.keys for batch in epochs[1]])
    assert torch.equal(keys, sample_keys(3, 1, torch.arange(20)))
    batch = epochs[0][0]
    assert batch.images.shape == (4, 3, SIZE, SIZE)
    assert batch.images.dtype == torch.float32
    assert not batch.images[..., SIZE // 2 :].any()
    assert batch.labels.tolist() == [-1] * 4
    assert values(list(loader(tmp_path / "data", seed=4).epoch(0))) != orders[0]


@pytest.mark.parametrize("files", [1, 2])
def test_two_processes_share_an_epoch(tmp_path: Path, files: int) -> None:
    said: list[str] = []
    shares = np.arange(1, 21).reshape(files, -1).tolist()
    folder = write(tmp_path / "data", *(pngs(*share) for share in shares))
    loaders = [loader(folder, process(index, 2, said)) for index in range(2)]
    epochs = [list(found.epoch(0)) for found in loaders]
    assert [len(batches) for batches in epochs] == [5, 5]
    assert sorted(values(epochs[0]) + values(epochs[1])) == list(range(1, 21))
    keys = torch.cat([batch.keys for batches in epochs for batch in batches])
    assert len(keys.unique()) == 20
    assert sorted(keys.tolist()) == sorted(sample_keys(3, 0, torch.arange(20)).tolist())
    assert any("each process reads all" in line for line in said) == (files == 1)


def test_uneven_shares_take_equally_many_steps(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", pngs(*range(1, 17)), pngs(*range(17, 21)))
    epochs = [list(loader(folder, process(index, 2)).epoch(0)) for index in range(2)]
    long, short = sorted((values(batches) for batches in epochs), key=max)
    assert len(long) == len(set(long)) == len(short) == 10
    assert set(long) <= set(range(1, 17))
    assert sorted(short[:4]) == [17, 18, 19, 20]


def test_unlabelled_and_training_images_are_one_pool(tmp_path: Path) -> None:
    write(tmp_path / "data", pngs(*range(1, 9)))
    write(tmp_path / "data", pngs(*range(9, 13)), split="unlabeled", described=False)
    write(tmp_path / "data", pngs(*range(13, 17)), split="test", described=False)
    found = loader(tmp_path / "data", stream_images=12)
    assert sorted(values(list(found.epoch(0)))) == list(range(1, 13))
    found = loader(f"{tmp_path / 'data'},unlabeled=unlabeled", stream_images=4)
    assert sorted(values(list(found.epoch(0)))) == [9, 10, 11, 12]


def test_the_first_images_stand_for_all(tmp_path: Path) -> None:
    stream = loader(write(tmp_path / "data", pngs(100, 200)), batch_size=2)._stream
    mean, deviation = stream.sample.statistics()
    assert mean == pytest.approx([150 / 2 / 255] * 3)
    assert deviation == pytest.approx([np.std([100, 0, 200, 0]) / 255] * 3)
    assert "first of a stream of 2 images" in stream.sample.describe()
    again = loader(tmp_path / "data", batch_size=2)._stream
    assert again.sample.fingerprint == stream.sample.fingerprint
    other = loader(write(tmp_path / "other", pngs(100, 201)), batch_size=2)._stream
    assert other.sample.fingerprint != stream.sample.fingerprint


def test_unreadable_images_are_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    folder = write(tmp_path / "data", [*pngs(*range(1, 11)), b"nothing", png(11)[:60]])
    found = loader(folder, process(said=said), max_unreadable=0.2)
    assert sorted(values(list(found.epoch(0)))[:11]) != [0] * 11
    assert set(values(list(found.epoch(1)))) == set(range(1, 12)) - {11}
    assert any("cannot be read were left out of epoch 2 (first: " in line for line in said)
    with pytest.raises(InputError, match=r"cannot be read .*more than --loading.max-unreadable 0.01"):
        list(loader(folder).epoch(0))


def test_images_inside_an_archive(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "train.zip", "w") as archive:
        for value in range(1, 9):
            archive.writestr(f"{'ab'[value % 2]}/{value}.png", png(value))
    found = loader(tmp_path / "data", stream_images=8)
    assert sorted(values(list(found.epoch(0)))) == list(range(1, 9))


def test_an_epoch_can_be_left(tmp_path: Path) -> None:
    found = loader(write(tmp_path / "data", pngs(*range(1, 21))))
    epoch = found.epoch(0)
    next(epoch)
    epoch.close()
    assert len(list(found.epoch(0))) == 5


@pytest.mark.parametrize(
    ("source", "settings", "reason"),
    [
        ("folder:x", {}, "only hf:REPO can be streamed"),
        ("hf:x", {"leakage": "drop"}, "--loading.leakage would be ignored"),
        ("hf:x,label=kind", {}, "label=kind would be ignored"),
        ("hf:owner/name", {}, "--loading.download"),
    ],
)
def test_what_is_refused(source: str, settings: dict[str, Any], reason: str) -> None:
    config = sources.LoadingConfig(streaming=True, **settings)
    with pytest.raises(InputError, match=reason):
        open_stream(source, image_size=SIZE, config=config)


def test_what_does_not_fit(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", pngs(1, 2, 3, 4), described=False)
    with pytest.raises(InputError, match=r"how many images .*--loading.stream-images"):
        loader(folder)
    with pytest.raises(InputError, match="has only 4 images"):
        loader(folder, stream_images=4, batch_size=5)
    with pytest.raises(InputError, match="multiple of the 2 processes"):
        loader(folder, process(0, 2), stream_images=4, batch_size=3)
    with pytest.raises(InputError, match=r"ignored without loading\.streaming"):
        sources.LoadingConfig(stream_images=4)
    test_only = write(tmp_path / "test", pngs(1, 2), split="test")
    with pytest.raises(InputError, match="no training or unlabelled images, only test"):
        loader(test_only)
    broken = write(tmp_path / "broken", [b"nothing"] * 4)
    with pytest.raises(InputError, match="none of the first 4 images can be read"):
        loader(broken)


def test_other_stages_refuse_a_stream(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", pngs(1, 2, 3, 4))
    with pytest.raises(InputError, match="is for `pretrain` on hf:REPO"):
        sources.load(f"hf:{folder}", image_size=SIZE, config=sources.LoadingConfig(streaming=True))


def test_pretraining_on_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "data", *(pngs(*range(start, start + 16)) for start in (1, 100, 200)))
    flags = ["--image-size", "16", "--epochs", "2", "--batch-size", "16", "--loading.streaming"]
    flags += ["--backbone.name", "resnet10t"]
    flags += ["--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)"]
    status = main.main(["pretrain", "simclr", "--data", f"hf:{folder}", *flags, "--output", str(tmp_path / "run")])
    assert status in (0, None)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["images_seen"]) == (6, 96)
    assert "knn_accuracy" not in result
    assert "first of a stream of 48 images" in capsys.readouterr().out


def test_pretraining_on_a_stream_goes_on_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's range of values is taken. Which images the stream brought stays unknown, so none is listed as seen."""
    folder = write(tmp_path / "data", *(pngs(*range(start, start + 16)) for start in (1, 100)))
    config = BackboneConfig(name="resnet10t", arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)"))
    spec = make_spec(config, in_chans=3, image_size=16, mean=(0.4,) * 3, std=(0.2,) * 3, value_range=(0.0, 200.0))
    backbone = pretrained.scratch(spec, seed=0)
    pretrained.export(backbone, tmp_path / "first" / "backbone", {}, seen=np.arange(3, dtype=np.uint64))
    flags = ["--data", f"hf:{folder}", "--epochs", "1", "--batch-size", "16", "--loading.streaming"]
    main.main(["pretrain", "simclr", "--init", str(tmp_path / "first"), *flags, "--output", str(tmp_path / "second")])
    assert Run(tmp_path / "second").spec == spec
    assert Run(tmp_path / "second").seen is None
    assert "values 0 to 200 become 0 to 1" in capsys.readouterr().out
