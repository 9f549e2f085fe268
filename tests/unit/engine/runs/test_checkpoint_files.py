"""The last states and the best: which are kept, and which one is gone on from."""

import os

import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import state_files
from ssl_transfer.engine.runs import checkpoint_files
from ssl_transfer.engine.runs.checkpoint_files import CheckpointConfig, StateFiles

pytestmark = pytest.mark.usefixtures("owned")


@pytest.fixture
def kept(tmp_path):
    return StateFiles(folder=tmp_path / "checkpoints", name="head", best="head.best", config=CheckpointConfig(keep=3))


def names(kept):
    return sorted(path.name for path in kept.folder.iterdir())


def steps_by_name(kept):
    return {path.name: state_files.load_state(path)["step"] for path in kept.folder.iterdir()}


def silent(message):
    raise AssertionError(message)


def save(kept, *steps):
    for step in steps:
        kept.save({"step": step, "weights": torch.full((100,), float(step))})


def test_the_last_few_are_kept(kept):
    assert not kept.exist()
    assert kept.load(silent) == (None, [])
    save(kept, 1)
    assert steps_by_name(kept) == {"head.pt": 1}
    save(kept, 2, 3, 4, 5)
    assert steps_by_name(kept) == {"head.pt": 5, "head.pt.1": 4, "head.pt.2": 3}
    assert kept.exist()
    assert kept.load(silent)[0]["step"] == 5


def test_fewer_are_kept_when_fewer_are_asked_for(kept):
    save(kept, 1, 2, 3)
    one = StateFiles(folder=kept.folder, name="head", best="head.best", config=CheckpointConfig(keep=1))
    save(one, 4)
    assert steps_by_name(one) == {"head.pt": 4}


def test_the_best_is_apart_from_the_last(kept):
    save(kept, 1)
    kept.save({"step": 2}, best=True)
    save(kept, 3)
    kept.save({"step": 4}, best=True)
    assert steps_by_name(kept) == {"head.pt": 3, "head.pt.1": 1, "head.best.pt": 4}
    assert kept.load(silent)[0]["step"] == 3


def test_names_that_begin_alike_are_apart(kept):
    other = StateFiles(folder=kept.folder, name="head-1", best="head-1.best")
    save(other, 10, 11)
    save(kept, 1)
    assert (kept.load(silent)[0]["step"], other.load(silent)[0]["step"]) == (1, 11)
    assert names(kept) == ["head-1.pt", "head-1.pt.1", "head.pt"]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found_and_the_one_before_is_used(kept, place):
    save(kept, 1, 2)
    newest = kept.folder / "head.pt"
    content = bytearray(newest.read_bytes())
    weights = content.find(torch.full((100,), 2.0).numpy().tobytes())
    assert weights > 0
    content[weights + int(place * 400)] ^= 1
    newest.write_bytes(bytes(content))
    said = []
    state, damaged = kept.load(said.append)
    assert damaged == [newest]
    assert state["step"] == 1
    assert torch.equal(state["weights"], torch.ones(100))
    assert len(said) == 1
    assert "head.pt: not a readable checkpoint" in said[0]
    assert "does not have its checksum" in said[0]
    assert "Going on from the one before, head.pt.1" in said[0]


def test_a_damaged_one_does_not_push_out_the_whole_one(tmp_path):
    two = StateFiles(folder=tmp_path / "states", name="last", best="best")
    save(two, 1, 2)
    newest = tmp_path / "states" / "last.pt"
    newest.write_bytes(newest.read_bytes()[:-50])
    _, damaged = two.load(lambda _: None)
    two.set_aside(damaged)
    assert names(two) == ["last.pt.1", "last.pt.damaged"]
    save(two, 3)
    assert names(two) == ["last.pt", "last.pt.1", "last.pt.damaged"]
    assert state_files.load_state(tmp_path / "states" / "last.pt.1")["step"] == 1
    assert two.load(silent)[0]["step"] == 3


def test_without_a_whole_one_nothing_is_begun(kept):
    save(kept, 1, 2)
    for path in kept.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"(?s)head\.pt.*head\.pt\.1.*No whole one is left.*--fresh"):
        kept.load(silent)


def test_killed_between_the_two_renames(kept, monkeypatch):
    """The old state has made room and the new one is not there yet."""
    save(kept, 1, 2)

    plain = os.replace

    def killed(source, target):
        if "unfinished" in str(source):
            raise KeyboardInterrupt
        plain(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save(kept, 3)
    assert names(kept) == ["head.pt.1", "head.pt.2"]
    assert kept.exist()
    assert kept.load(silent)[0]["step"] == 2
    save(kept, 3)
    assert steps_by_name(kept) == {"head.pt": 3, "head.pt.1": 2, "head.pt.2": 1}


def test_a_full_disk_leaves_what_was_there(kept, monkeypatch):
    save(kept, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            save(kept, 2)
    assert steps_by_name(kept) == {"head.pt": 1}


def test_a_later_format_is_refused_and_nothing_older_is_used_instead(kept):
    save(kept, 1, 2)
    state_files.save_state(kept.folder / "head.pt", {"format": checkpoint_files.FORMAT + 1, "step": 9})
    with pytest.raises(InputError, match=r"checkpoint format 3, and this version reads 1, 2\. Go on with the version"):
        kept.load(silent)


@pytest.mark.parametrize(("values", "message"), [({"keep": 0}, "keep 0"), ({"seconds": -1.0}, "seconds -1.0")])
def test_impossible_settings(values, message):
    with pytest.raises(InputError, match=message):
        CheckpointConfig(**values)
