import json
import os

import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import atomic, state_files, weight_files

pytestmark = pytest.mark.usefixtures("owned")

STATE = {"objective": {"weight": torch.arange(6.0).view(2, 3)}, "step": 7, "seconds": 0.1, "rates": [1e-3, 2e-3]}


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    atomic.write_text(path, "old")

    def fail(aside):
        aside.write_text("half of the n")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        atomic.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    atomic.write_text(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"

    def write(aside):
        assert aside.stat().st_dev == path.parent.stat().st_dev  # a rename is atomic only within one file system
        aside.write_text("whole")
        assert not path.exists()

    atomic.write_atomically(path, write)
    assert path.read_text() == "whole"


def test_state_round_trip(tmp_path):
    state_files.save_state(tmp_path / "last.pt", STATE)
    loaded = state_files.load_state(tmp_path / "last.pt")
    assert torch.equal(loaded["objective"]["weight"], STATE["objective"]["weight"])
    assert {key: loaded[key] for key in ("step", "seconds", "rates")} == {
        key: STATE[key] for key in ("step", "seconds", "rates")
    }


class Payload:
    """Unpickling this runs code."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('ran').write_text('')",))


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": weight_files.FORMAT, "objective": Payload()}, "evil.pt")
    with pytest.raises(atomic.DamagedError, match=r"evil\.pt.*none of it was run"):
        state_files.load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_state_is_named(tmp_path, share):
    path = tmp_path / "last.pt"
    state_files.save_state(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"last\.pt: not a readable checkpoint"):
        state_files.load_state(path)


def test_weights_round_trip_from_the_export_and_from_its_run(tmp_path):
    weights = {"a": torch.randn(3, 4).T, "b": torch.tensor(5), "c": torch.ones(2, dtype=torch.float16)}
    before = os.umask(0o027)
    weight_files.save_weights(tmp_path / "run" / "backbone", "backbone", weights, {"note": "é"})
    os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run" / "backbone").iterdir()} == {0o640}
    for folder in (tmp_path / "run", tmp_path / "run" / "backbone"):
        file = weight_files.WeightFile(folder, "backbone")
        loaded, description = file.tensors(), file.description
        assert loaded.keys() == weights.keys()
        for name, value in weights.items():
            assert torch.equal(loaded[name], value)
            assert loaded[name].dtype == value.dtype
        assert description == {"format": weight_files.FORMAT, "note": "é"}


def test_an_export_without_its_description_does_not_count(tmp_path):
    weight_files.save_weights(tmp_path, "backbone", {"a": torch.ones(1)}, {})
    (tmp_path / "backbone.json").unlink()
    with pytest.raises(InputError, match=r"holds no backbone\.json. Give the folder of a finished run"):
        weight_files.WeightFile(tmp_path, "backbone").tensors()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("comparison.json", r"a comparison, not one run\. Give one of those in .*pretrain\..* no transferred models"),
        ("result.json", r"a finished run that keeps no model\. .*`ssl-transfer transfer --init .*` makes one"),
    ],
)
def test_a_folder_without_a_model_is_told_as_what_it_is(tmp_path, file, message):
    (tmp_path / file).write_text("{}")
    with pytest.raises(InputError, match=message):
        weight_files.WeightFile(tmp_path, "backbone")


def test_broken_exports_are_named(tmp_path):
    weight_files.save_weights(tmp_path, "backbone", {"a": torch.ones(100)}, {})
    whole = (tmp_path / "backbone.safetensors").read_bytes()
    (tmp_path / "backbone.safetensors").write_bytes(whole[:200])
    with pytest.raises(InputError, match="not a readable exported backbone"):
        weight_files.WeightFile(tmp_path, "backbone").tensors()
    (tmp_path / "backbone.safetensors").write_bytes(whole)
    (tmp_path / "backbone.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        weight_files.WeightFile(tmp_path, "backbone").tensors()
