"""Files without a record are never replaced, moved or deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import atomic, ownership
from ssl_transfer.engine.io.ownership import MARKER, ForeignFileError
from ssl_transfer.engine.io.ownership_record import owner_of


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    ownership.own_folder(folder)
    return folder


def foreign(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not ours")
    return path


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/er"):
        ownership.own_folder(tmp_path / name)
        assert ownership.is_owned(tmp_path / name)
        ownership.own_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["photo.jpg", ".hidden", "metrics.jsonl", "deep/README.md", f"{MARKER}/written"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    file = foreign(tmp_path / "theirs" / name)
    with pytest.raises(InputError, match=r"holds files without a record|the record .* is damaged"):
        ownership.own_folder(tmp_path / "theirs")
    assert [path for path in (tmp_path / "theirs").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "not ours"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        ownership.own_folder(foreign(tmp_path / "file"))


def test_only_recorded_files_are_replaced(owned: Path) -> None:
    atomic.write_text(owned / "a.txt", "1")
    atomic.write_text(owned / "a.txt", "2")
    atomic.write_text(owned / "deep" / "b.txt", "3")
    file = foreign(owned / "deep" / "notes.txt")
    with pytest.raises(ForeignFileError, match=r"notes\.txt: exists, and no record"):
        atomic.write_text(file, "4")
    with pytest.raises(ForeignFileError, match=r"notes\.txt"):
        atomic.append_text(file, "4")
    assert file.read_text() == "not ours"
    assert (owned / "a.txt").read_text() == "2"


def test_a_link_is_not_followed(owned: Path, tmp_path: Path) -> None:
    file = foreign(tmp_path / "theirs.txt")
    atomic.append_text(owned / "log.txt", "1\n")
    (owned / "log.txt").unlink()
    (owned / "log.txt").symlink_to(file)
    with pytest.raises(OSError, match="symbolic links"):
        atomic.append_text(owned / "log.txt", "2\n")
    atomic.write_text(owned / "log.txt", "3\n")
    assert file.read_text() == "not ours"
    assert not (owned / "log.txt").is_symlink()


def test_a_linked_subfolder_is_not_followed(owned: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    theirs = tmp_path_factory.mktemp("theirs")
    atomic.write_text(owned / "deep" / "metrics.json", "ours")
    (owned / "deep" / "metrics.json").unlink()
    (owned / "deep").rmdir()
    (owned / "deep").symlink_to(theirs)
    (theirs / "metrics.json").write_text("theirs")
    with pytest.raises(ForeignFileError, match=f"lies behind the link {owned}/deep"):
        atomic.write_text(owned / "deep" / "metrics.json", "ours")
    with pytest.raises(ForeignFileError):
        ownership.remove(owned / "deep" / "metrics.json")
    assert (theirs / "metrics.json").read_text() == "theirs"


def test_a_linked_folder_is_its_target(owned: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The output folder itself may be a link, as to a larger disk."""
    link = tmp_path_factory.mktemp("links") / "run"
    link.symlink_to(owned)
    for text in ("first", "second"):
        atomic.write_text(link / "deep" / "metrics.json", text)
    assert (owned / "deep" / "metrics.json").read_text() == "second"


def test_only_recorded_files_are_deleted_and_moved(owned: Path) -> None:
    atomic.write_text(owned / "states" / "a.txt", "1")
    atomic.write_text(owned / "states" / "b.txt", "1")
    file = foreign(owned / "states" / "c.txt")
    for act in (ownership.remove, lambda path: ownership.move(path, owned / "new")):
        with pytest.raises(ForeignFileError, match=r"c\.txt"):
            act(file)
    with pytest.raises(ForeignFileError, match=r"c\.txt"):
        ownership.move(owned / "states" / "a.txt", file)
    ownership.move(owned / "states" / "a.txt", owned / "states" / "d.txt")
    ownership.remove(owned / "states" / "d.txt")
    ownership.remove(owned / "states" / "d.txt")
    ownership.remove_folder(owned / "states")
    assert [path.name for path in (owned / "states").iterdir()] == ["c.txt"]
    file.unlink()
    ownership.remove_folder(owned / "states")
    assert not (owned / "states").exists()
    assert owned.is_dir()


def test_nested_folders_have_their_own_record(owned: Path) -> None:
    ownership.own_folder(owned / "inner")
    atomic.write_text(owned / "inner" / "a.txt", "1")
    assert owner_of(owned / "inner" / "a.txt") == owned / "inner"
    assert owner_of(owned / "inner" / ".." / "a.txt") == owned
    ownership.remove_folder(owned / "inner")
    assert not (owned / "inner").exists()


def test_outside_of_records_new_files_are_written(tmp_path: Path) -> None:
    for text in "12":
        atomic.write_text(tmp_path / "new.txt", text)
    file = foreign(tmp_path / "theirs.txt")
    with pytest.raises(ForeignFileError, match=r"theirs\.txt"):
        atomic.write_text(file, "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.txt", "theirs.txt"]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_record_is_none(owned: Path, place: float) -> None:
    atomic.write_text(owned / "a.txt", "1")
    atomic.write_text(owned / "b.txt", "1")
    record = owned / MARKER / "written"
    held = bytearray(record.read_bytes())
    held[int(place * len(held))] ^= 1
    record.write_bytes(held)
    assert not ownership.is_owned(owned)
    for act in (ownership.own_folder, lambda folder: atomic.write_text(folder / "new.txt", "1")):
        with pytest.raises(InputError, match="damaged"):
            act(owned)
    ownership.own_folder(owned, adopted=[owned / "a.txt"])
    atomic.write_text(owned / "a.txt", "2")
    with pytest.raises(ForeignFileError):
        atomic.write_text(owned / "b.txt", "2")


def test_a_deeply_nested_line_is_damage(owned: Path) -> None:
    record = owned / MARKER / "written"
    record.write_text(record.read_text() + "00000000 " + "[" * 100_000 + "\n")
    assert not ownership.is_owned(owned)


def test_a_line_that_a_power_cut_stopped_is_overwritten(owned: Path) -> None:
    atomic.write_text(owned / "a.txt", "1")
    record = owned / MARKER / "written"
    whole = record.read_bytes()
    for cut in (b"abc", whole.splitlines()[-1][:-3]):
        record.write_bytes(whole + cut)
        ownership.own_folder(owned)
        atomic.write_text(owned / "a.txt", "2")
        assert record.read_bytes() == whole + cut
    atomic.write_text(owned / "b.txt", "1")
    assert record.read_bytes().startswith(whole)
    assert ownership.is_recorded(owned / "b.txt")


@pytest.mark.parametrize("left", ["", "written.12345678"])
def test_killed_before_the_record_was_written(tmp_path: Path, left: str) -> None:
    (tmp_path / "new" / MARKER).mkdir(parents=True)
    if left:
        (tmp_path / "new" / MARKER / left).write_text("")
    ownership.own_folder(tmp_path / "new")
    assert ownership.is_owned(tmp_path / "new")


def test_processes_that_share_a_folder(tmp_path: Path) -> None:
    """Each opens new folders and writes there, as fast as the other."""
    program = (
        "import pathlib, sys\n"
        "from ssl_transfer.engine.io import atomic, ownership\n"
        "folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "sys.stdin.readline()\n"
        "for number in range(60):\n"
        "    place = folder / str(number)\n"
        "    ownership.own_folder(place)\n"
        "    for turn in range(2): atomic.write_text(place / name, str(turn))\n"
        "    assert ownership.is_recorded(place / name)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in "ab"]
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.wait() for one in running] == [0, 0]
    for number in range(60):
        assert {name for name in "ab" if ownership.is_recorded(tmp_path / str(number) / name)} == {"a", "b"}


@pytest.mark.parametrize("is_new", [False, True])
def test_a_record_that_another_process_has_just_written(
    is_new: bool, owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accept a folder whose record appears between the two looks at it."""
    answers = iter([False, True])
    monkeypatch.setattr(ownership, "is_owned", lambda _: next(answers))
    if is_new:
        atomic.write_text(owned / "a.txt", "1")
        monkeypatch.setattr(ownership, "RECORD", "not yet")
    ownership.check_folder(owned)


def test_a_full_disk_leaves_the_record_whole(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            atomic.write_text(owned / "a.txt", "1")
    assert ownership.is_owned(owned)
    atomic.write_text(owned / "a.txt", "1")


def test_unfinished_files_of_killed_processes_are_removed(owned: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from ssl_transfer.engine.io.atomic import write_atomically\n"
        "def write(path):\n"
        "    path.write_text('half')\n"
        "    if sys.argv[2] == 'kill': os.kill(os.getpid(), 9)\n"
        "    print('written', flush=True); sys.stdin.read()\n"
        "write_atomically(pathlib.Path(sys.argv[1]), write)\n"
    )
    unfinished = owned / MARKER / "unfinished"
    killed = subprocess.run([sys.executable, "-c", program, owned / "a.txt", "kill"], check=False)
    assert killed.returncode == -9
    assert len(list(unfinished.iterdir())) == 1
    with subprocess.Popen(
        [sys.executable, "-c", program, owned / "b.txt", "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"written\n"
        ownership.own_folder(owned)
        (left,) = unfinished.iterdir()
        assert left.name.endswith("b.txt")
        living.communicate()
    assert (owned / "b.txt").read_text() == "half"
    assert not list(unfinished.iterdir())


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ownership.owned_folder(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not (tmp_path / "a").exists()
    with ownership.owned_folder(tmp_path / "a" / "b"):
        atomic.write_text(tmp_path / "a" / "b" / "c.txt", "1")
    assert (tmp_path / "a" / "b" / "c.txt").is_file()
