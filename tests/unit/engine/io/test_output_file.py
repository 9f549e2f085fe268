"""A file that a user names is replaced only where its record shows that it is ours and unchanged."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import atomic
from ssl_transfer.engine.io.output_file import OutputFile


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    folder = tmp_path / "of a user"
    folder.mkdir()
    return folder


def write(text: str):
    return lambda path: path.write_text(text)


def test_ours_is_replaced_until_it_is_changed(tmp_path: Path) -> None:
    file = OutputFile(path=tmp_path / "deep" / "a.csv", overwrite=False)
    for text in ("1", "2", "2"):
        file.check()
        file.write(write(text), {"run": "r"})
        assert file.path.read_text() == text
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["a.csv", "a.csv.json"]
    file.path.write_text("by hand")
    with pytest.raises(InputError, match=r"does not show that ssl_transfer wrote it.*--overwrite"):
        file.check()
    OutputFile(path=file.path, overwrite=True).check()
    OutputFile(path=file.path, overwrite=True).write(write("3"), {})
    assert file.path.read_text() == "3"
    file.check()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.json"])
def test_another_programs_file_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"a\.csv"):
        OutputFile(path=tmp_path / "a.csv").check()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_inputs_stay_even_if_overwriting_is_allowed(tmp_path: Path) -> None:
    photograph = tmp_path / "a.jpg"
    photograph.write_bytes(b"pixels")
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(photograph)
    os.link(photograph, hard)
    for path in (photograph, link, hard, tmp_path / ".." / tmp_path.name / "a.jpg"):
        with pytest.raises(InputError, match="is one of the inputs, which is never replaced"):
            OutputFile(path=path, overwrite=True).check([tmp_path / "none", photograph])


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target.csv")
    file = OutputFile(path=tmp_path / "link", overwrite=False)
    for text in "12":
        file.check()
        file.write(write(text), {})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.csv").read_text() == "2"


def test_a_pipe_and_a_device_are_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    OutputFile(path=pipe).check()
    OutputFile(path=pipe).write(write("through"), {})
    reader.join()
    assert got == ["through"]
    OutputFile(path=Path("/dev/null")).write(write("nothing"), {})
    with pytest.raises(OSError, match="No space left"):
        OutputFile(path=Path("/dev/full")).write(write("much"), {})
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_the_own_output_is_a_stream(tmp_path: Path) -> None:
    program = (
        "import pathlib\n"
        "from ssl_transfer.engine.io.output_file import OutputFile\n"
        "file = OutputFile(path=pathlib.Path('/dev/stdout')); file.check()\n"
        "file.write(lambda path: path.open('w').write('through'), {})\n"
    )
    with open(tmp_path / "redirected.txt", "w") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True)
    assert (tmp_path / "redirected.txt").read_text() == "through"
    assert [path.name for path in tmp_path.iterdir()] == ["redirected.txt"]


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        OutputFile(path=tmp_path).check()


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    file = OutputFile(path=tmp_path / "a.csv")
    with pytest.raises(RuntimeError):
        file.write(fail, {})
    assert not list(tmp_path.iterdir())
    file.write(write("1"), {})
    with pytest.raises(RuntimeError):
        file.write(fail, {})
    file.check()
    assert file.path.read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_writer_leaves_nothing_for_ever(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from ssl_transfer.engine.io.output_file import OutputFile\n"
        "def write(path):\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)\n"
        "OutputFile(path=pathlib.Path(sys.argv[1])).write(write, {})\n"
    )
    file = OutputFile(path=tmp_path / "a.csv")
    for content in ("", "1"):
        assert subprocess.run([sys.executable, "-c", program, file.path], check=False).returncode == -9
        assert len(list(tmp_path.glob(".*.part"))) == 1
        assert (file.path.read_text() if file.path.exists() else "") == content
        file.check()
        file.write(write("1"), {})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.json"]


@pytest.mark.parametrize("is_again", [False, True])
def test_a_writer_killed_at_each_file_event_leaves_nothing_for_ever(tmp_path: Path, is_again: bool) -> None:
    """Killed twice before the same change of a file, then started again."""
    program = (
        "import os, pathlib, sys\n"
        "from ssl_transfer.engine.io.output_file import OutputFile\n"
        "def killed(folder, moment):\n"
        "    process = os.fork()\n"
        "    if process:\n"
        "        return os.waitpid(process, 0)[1] == 9\n"
        "    count = 0\n"
        "    def watch(event, arguments):\n"
        "        nonlocal count\n"
        "        if event in ('os.rename', 'os.link', 'os.remove', 'os.mkdir', 'os.rmdir') or (\n"
        "            event == 'open' and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)\n"
        "        ):\n"
        "            count += 1\n"
        "            if count == moment: os.kill(os.getpid(), 9)\n"
        "    sys.addaudithook(watch)\n"
        "    write(folder, '2')\n"
        "    os._exit(0)\n"
        "def write(folder, text):\n"
        "    file = OutputFile(path=folder / 'a.csv')\n"
        "    file.check()\n"
        "    file.write(lambda path: path.write_text(text), {})\n"
        "moment, was_killed = 0, True\n"
        "while was_killed:\n"
        "    moment += 1\n"
        "    folder = pathlib.Path(sys.argv[1], str(moment))\n"
        "    folder.mkdir()\n"
        "    if sys.argv[2] == 'True': write(folder, '1')\n"
        "    was_killed = killed(folder, moment)\n"
        "    killed(folder, moment)\n"
        "    write(folder, '3')\n"
        "    assert sorted(path.name for path in folder.iterdir()) == ['a.csv', 'a.csv.json'], moment\n"
        "    assert (folder / 'a.csv').read_text() == '3'\n"
        "assert moment > 10, moment\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path, str(is_again)], check=True)


def test_a_file_of_a_run_stays(tmp_path: Path) -> None:
    from ssl_transfer.engine.io.ownership import own_folder

    own_folder(tmp_path / "run")
    atomic.write_text(tmp_path / "run" / "metrics.jsonl", "{}")
    with pytest.raises(InputError, match="belongs to the run"):
        OutputFile(path=tmp_path / "run" / "metrics.jsonl", overwrite=True).check()
    file = OutputFile(path=tmp_path / "run" / "predictions.csv")
    for text in "12":
        file.check()
        file.write(write(text), {})
    assert file.path.read_text() == "2"


def test_the_record_of_another_place_deletes_nothing(tmp_path: Path) -> None:
    """No name in a record is removed, also not that of an earlier format."""
    import json

    from ssl_transfer.engine.io.checksum import sealed

    other = tmp_path / "other.txt"
    other.write_text("keep")
    for name in ("other.txt", "../other.txt", "/etc/hostname"):
        record = sealed({"writer": "ssl_transfer", "unfinished": name})
        (tmp_path / "a.csv.json").write_text(json.dumps(record))
        OutputFile(path=tmp_path / "a.csv").write(write("1"), {})
        (tmp_path / "a.csv").unlink()
    assert other.read_text() == "keep"
