"""Commands neither replace nor delete files that this program did not write."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.engine.io.ownership import MARKER

OUTPUTS: dict[str, Callable[[dict, Path], tuple[object, ...]]] = {
    "pretrain": lambda tiny, _: ("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"]),
    "transfer": lambda tiny, _: ("transfer", "--init", "scratch", *tiny["transfer"], *tiny["convolutional"]),
    "compare": lambda tiny, _: ("compare", "--arms", "simclr", *tiny["compare"], *tiny["convolutional"]),
    "demo": lambda *_: ("demo", "--seeds", 0, "--pretrain-seeds", 1),
    "evaluate": lambda _, trained: ("evaluate", trained),
    "export": lambda _, trained: ("export", trained),
    "explain": lambda _, trained: ("explain", trained, "--what", "maps"),
    "data check": lambda *_: ("data", "check", "digits"),
    "data preview": lambda *_: ("data", "preview", "--method", "simclr"),
}
FOREIGN = {"config.json": "theirs", "README.md": "theirs", ".movie.mkv.part": "theirs", "deep/metrics.jsonl": "{}"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """Train a short transfer run. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ("transfer", "--init", "scratch", *tiny["transfer"], *tiny["convolutional"], "--output", folder)
    main(list(map(str, arguments)))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copied")


def put(folder: Path) -> dict[Path, bytes]:
    """Write files of another program; return the content of each."""
    for name, text in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_folder_with_other_files_is_refused(command: str, run: Callable, tiny: dict, trained: Path) -> None:
    """Also with --fresh and in a dry run, where the command has them."""
    held = put(Path("theirs"))
    arguments = OUTPUTS[command](tiny, trained)
    trains = command in ("pretrain", "transfer", "compare", "demo")
    for flags in ((), ("--fresh",), ("--dry-run",)) if trains else ((),):
        answer = run(*arguments, *flags, "--output", "theirs")
        assert answer.status == 2, answer.err
        assert "--output theirs: holds files without a record of ssl_transfer" in answer.err
        assert "Give a new or an empty folder." in answer.err
        assert {path: path.read_bytes() for path in Path("theirs").rglob("*") if path.is_file()} == held


def test_other_files_in_a_run_stay(run: Callable, tiny: dict) -> None:
    """A run goes on beside the user's notes, and inside it another run keeps its own."""
    arguments = (*OUTPUTS["pretrain"](tiny, Path()), "--output", "run")
    assert run(*arguments).status == 0
    held = {Path("run", name): text for name, text in {"README.md": "mine", ".movie.mkv.part": "mine"}.items()}
    for path, text in held.items():
        path.write_text(text)
    Path("run/result.json").unlink()
    assert run(*arguments).status == 0
    assert {path: path.read_text() for path in held} == held
    answer = run(*arguments, "--fresh")
    assert answer.status == 0, answer.err
    assert all(Path("run.old-1", path.name).read_text() == "mine" for path in held)
    # A file of the user has the name of an output.
    Path("run/result.json").unlink()
    record = Path("run", MARKER, "written")
    record.write_text("".join(line for line in record.read_text().splitlines(True) if "views.png" not in line))
    Path("run/views.png").write_text("mine")
    answer = run(*arguments)
    assert answer.status == 2
    assert Path("run/views.png").read_text() == "mine"
    assert "run/views.png: exists, and no record shows that ssl_transfer wrote it" in answer.err
    assert "Move it away" in answer.err
    Path("run/views.png").rename("mine.png")
    assert run(*arguments).status == 0


def test_a_damaged_record_replaces_nothing(run: Callable, copied: Path, tiny: dict) -> None:
    """Nothing is taken for an output by its name alone, until the user removes the record."""
    arguments = ("transfer", "--init", "scratch", *tiny["transfer"], *tiny["convolutional"], "--output", copied)
    (copied / "result.json").unlink()
    picture = copied / "evaluation" / "confusion.png"
    picture.write_text("mine")
    record = copied / MARKER / "written"
    record.write_bytes(record.read_bytes()[:5])
    for flags in ((), ("--dry-run",)):
        answer = run(*arguments, *flags)
        assert answer.status == 2
        assert f"the record of its files, {record}, is damaged" in answer.err
    assert picture.read_text() == "mine"
    picture.rename("mine.png")
    shutil.copytree(copied, "other")
    record.unlink()
    assert run(*arguments).status == 0
    assert run(*arguments[:-1], "other", "--fresh").status == 0
    assert Path("other.old-1", "evaluation").is_dir()


def test_predict_replaces_only_its_own_table(run: Callable, trained: Path, draw_images: Callable) -> None:
    images = draw_images(Path("photographs"), disc=3)
    photograph = next(images.rglob("*.png"))
    pixels = photograph.read_bytes()
    Path("list.csv").write_text(f"path\n{photograph}\n")
    predict = ("predict", trained, "--to-grey")
    # An input, by its own name, through a link, and as the list, also with --overwrite.
    Path("link").symlink_to(photograph)
    for output in (photograph, "link", "list.csv"):
        for flags in ((), ("--overwrite",)):
            answer = run(*predict, "photographs", "list.csv", "--output", output, *flags)
            assert answer.status == 2, answer.err
            assert "is one of the inputs, which is never replaced" in answer.err
    assert photograph.read_bytes() == pixels
    assert Path("list.csv").read_text().startswith("path")
    # A file of another program, and the remedy.
    Path("theirs.csv").write_text("theirs")
    answer = run(*predict, "photographs", "--output", "theirs.csv")
    assert answer.status == 2
    assert "or --overwrite to replace it" in answer.err
    assert Path("theirs.csv").read_text() == "theirs"
    assert run(*predict, "photographs", "--output", "theirs.csv", "--overwrite").status == 0
    table = Path("theirs.csv").read_text()
    assert run(*predict, "photographs", "--output", "theirs.csv").status == 0
    record = json.loads(Path("theirs.csv.json").read_text())
    assert record["weights"] == json.loads((trained / "backbone" / "backbone.json").read_text())["weights"]
    # A pipe is written into; a full device ends with status 1, and stays a device.
    os.mkfifo("pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_text()))
    reader.start()
    assert run(*predict, "photographs", "--output", "pipe").status == 0
    reader.join()
    assert got == [table]
    answer = run(*predict, "photographs", "--output", "/dev/full")
    assert answer.status == 1
    assert "No space left on device" in answer.err
    assert Path("/dev/full").is_char_device()
    # A file of the run.
    weights = (trained / "backbone" / "backbone.safetensors").read_bytes()
    answer = run(*predict, "photographs", "--overwrite", "--output", trained / "backbone" / "backbone.safetensors")
    assert answer.status == 2
    assert "belongs to the run" in answer.err
    assert (trained / "backbone" / "backbone.safetensors").read_bytes() == weights


def test_a_sheet_replaces_no_photograph(run: Callable, draw_images: Callable) -> None:
    photograph = next(draw_images(Path("photographs"), disc=12, square=12).rglob("*.png"))
    pixels = photograph.read_bytes()
    arguments = ("data", "preview", "--method", "simclr", "--data", "folder:photographs", "--image-size", 16)
    answer = run(*arguments, "--output", photograph)
    assert answer.status == 2
    assert photograph.read_bytes() == pixels
    for _ in range(2):
        assert run(*arguments, "--output", "sheet.png").status == 0


def test_a_missing_seal_is_noticed(run: Callable, copied: Path, tiny: dict) -> None:
    (copied / "seal.json").unlink()
    commands = (
        ("predict", copied, "digits"),
        ("evaluate", copied),
        ("export", copied),
        ("transfer", "--init", copied, *tiny["transfer"], "--dry-run"),
    )
    for arguments in commands:
        answer = run(*arguments)
        assert answer.status == 2, answer.out
        assert f"{copied}/seal.json: missing" in answer.err


CHANGES: dict[str, tuple[str, tuple[object, ...]]] = {
    "result.json": ("transfer", ()),
    "backbone/backbone.json": ("predict", ("digits",)),
    "backbone/seen.npy": ("evaluate", ()),
    "head/head.json": ("predict", ("digits",)),
    "evaluation/metrics.json": ("predict", ("digits",)),
    "config.yaml": ("evaluate", ()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_run_is_refused(name: str, run: Callable, copied: Path, tiny: dict) -> None:
    """Absent, blank or with one changed byte; the remedies work."""
    command, more = CHANGES[name]
    arguments: tuple[object, ...] = (command, copied, *more)
    train = ("transfer", "--init", "scratch", *tiny["transfer"], *tiny["convolutional"], "--output", copied)
    if command == "transfer":
        arguments = train
    path = copied / name
    whole = path.read_bytes()
    changed = whole.replace(b"0", b"1", 1) if b"0" in whole else whole[:-1]
    for content in (changed, bytes(len(whole)), None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        if not (name == "result.json" and content is None):
            answer = run(*arguments)
            assert answer.status == 2, (name, content, answer.out)
            assert "Traceback" not in answer.err
            assert str(path.parent) in answer.err
            assert "Repeat the run with --fresh" in answer.err or "repeat the run with --fresh" in answer.err
        path.write_bytes(whole)
    path.write_bytes(changed)
    answer = run(*train, "--fresh")
    assert answer.status == 0, answer.err
    assert run(*arguments).status == 0


def test_a_run_without_seal_says_so(run: Callable, copied: Path) -> None:
    (copied / "seal.json").unlink()
    held = json.loads((copied / "result.json").read_text())
    del held["seal"]
    (copied / "result.json").write_text(json.dumps(held))
    shutil.rmtree(copied / MARKER)
    answer = run("predict", copied, "digits")
    assert answer.status == 0, answer.err
    (line,) = [line for line in (answer.out + answer.err).splitlines() if "without checksums" in line]
    assert str(copied) in line


def images_of(run: Callable, trained: Path, draw_images: Callable) -> tuple[object, ...]:
    draw_images(Path("pictures"), disc=2)
    return ("predict", trained, "pictures", "--to-grey", "--output")


def test_predict_replaces_no_file_that_appears_meanwhile(
    run: Callable, trained: Path, draw_images: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table or its record that a user writes while predict runs stays, until --overwrite."""
    from ssl_transfer.engine.io import output_file
    from ssl_transfer.stages.predict.predict import _Table

    predict = images_of(run, trained, draw_images)
    fill = _Table._fill
    for name in ("new.csv", "new.csv.json"):

        def interrupted(*given: object, name: str = name) -> None:
            fill(*given)
            Path(name).write_text("mine")

        with monkeypatch.context() as patched:
            patched.setattr(_Table, "_fill", interrupted)
            answer = run(*predict, "new.csv")
        assert answer.status == 2, answer.err
        assert "Give another --output" in answer.err
        assert Path(name).read_text() == "mine"
        assert sorted(path.name for path in Path().iterdir()) == [name, "pictures"]
        Path(name).unlink()
    # Our own table is edited.
    assert run(*predict, "new.csv").status == 0
    with monkeypatch.context() as patched:
        patched.setattr(_Table, "_fill", lambda *given: (fill(*given), Path("new.csv").write_text("mine")))
        assert run(*predict, "new.csv").status == 2
        assert Path("new.csv").read_text() == "mine"
        assert run(*predict, "new.csv", "--overwrite").status == 0
    # Between the last check and the new name.
    place = output_file.put_in_place

    def late(aside: Path, path: Path, **options: bool) -> None:
        if path.name == "late.csv":
            path.write_text("mine")
        place(aside, path, **options)

    monkeypatch.setattr(output_file, "put_in_place", late)
    answer = run(*predict, "late.csv")
    assert answer.status == 2
    assert "late.csv: cannot be written (File exists). Give another." in answer.err
    assert Path("late.csv").read_text() == "mine"
    assert not Path("late.csv.json").exists()


@pytest.mark.parametrize("recorded", [True, False])
def test_predict_replaces_no_file_of_its_run(
    run: Callable, copied: Path, draw_images: Callable, recorded: bool
) -> None:
    """Also in a run of version 0.1, which has no record, and behind links; a table in the run is predict's own."""
    if not recorded:
        shutil.rmtree(copied / MARKER)
    shutil.move(copied / "backbone", "weights")
    (copied / "backbone").symlink_to(Path("weights").absolute())
    (copied / "loop").symlink_to(copied)
    Path("link.csv").symlink_to(copied / "head" / "head.json")
    predict = images_of(run, copied, draw_images)
    files = ("backbone/backbone.json", "backbone/backbone.safetensors", "head/head.json", "config.yaml", "result.json")
    held = {name: (copied / name).read_bytes() for name in files}
    outputs = (*(copied / name for name in files), Path("weights/backbone.json"), Path("link.csv"))
    for output in outputs:
        for flags in ((), ("--overwrite",)):
            answer = run(*predict, output, *flags)
            assert answer.status == 2, (output, flags)
            refusals = ("inputs, which is never replaced", "belongs to the run")
            assert any(refusal in answer.err for refusal in refusals) or not flags
    assert {name: (copied / name).read_bytes() for name in files} == held
    for flags in ((), (), ("--overwrite",)):
        answer = run(*predict, copied / "table.csv", *flags)
        assert answer.status == 0, answer.err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Return `call` of the adversary, which runs a command in a fork with a hook for each of its file events."""
    scripts = Path(__file__).parents[3] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    return importlib.import_module("adversary.commands").call


@pytest.mark.slow
@pytest.mark.parametrize("place", ["outside", "in a run", "again"])
def test_predict_killed_at_each_file_event_leaves_nothing_for_ever(
    call: Callable, run: Callable, trained: Path, draw_images: Callable, tmp_path: Path, place: str
) -> None:
    """Killed before each of its changes of files and started again, it leaves its table and the record."""
    *words, flag = images_of(run, trained, draw_images)
    draw_images(Path("more"), disc=1)
    assert run(*words, flag, "whole.csv").status == 0
    table = Path("whole.csv").read_bytes()
    start = Path("start").absolute()
    start.mkdir()
    if place == "in a run":
        shutil.copytree(trained, start, dirs_exist_ok=True)
    (start / ".table.csv.part").write_text("mine")
    mine = {path.relative_to(start) for path in start.rglob("*")} - {Path(MARKER, "unfinished")}
    if place == "again":
        assert run("predict", trained, "more", "--to-grey", flag, start / "table.csv").status == 0

    def killed_at(moment: int, folder: Path) -> int:
        def die(count: int, _: str) -> None:
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        return call(list(map(str, (*words, flag, folder / "table.csv"))), tmp_path, event_hook=die).status

    moment, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        moment += 1
        folder = Path(shutil.copytree(start, tmp_path / f"{moment}"))
        status = killed_at(moment, folder)
        assert killed_at(0, folder) == 0, moment
        left = {path.relative_to(folder) for path in folder.rglob("*")} - {Path(MARKER, "unfinished")}
        assert left == mine | {Path("table.csv"), Path("table.csv.json")}, moment
        assert (folder / "table.csv").read_bytes() == table
    assert status == 0
    assert moment > 15


def test_a_folder_that_resembles_an_unfinished_one_stays(run: Callable, trained: Path, draw_images: Callable) -> None:
    """A name is no sign: only a folder with nothing but the marker is removed, and no link is followed."""
    predict = images_of(run, trained, draw_images)
    Path("theirs").mkdir()
    held = [Path("theirs/notes"), Path(".table.csv.00000000.part/notes"), Path(".table.csv.11111111.part")]
    held[1].parent.mkdir()
    for path in held:
        path.write_text("mine")
    Path(".table.csv.22222222.part").symlink_to("theirs")
    Path(".table.csv.33333333.part").mkdir()
    Path(".table.csv.33333333.part", MARKER).symlink_to(Path("theirs").absolute())
    assert run(*predict, "table.csv").status == 0
    assert [path.read_text() for path in held] == ["mine"] * 3
    assert Path(".table.csv.22222222.part").is_symlink()
    assert Path(".table.csv.33333333.part", MARKER).is_symlink()


def test_a_killed_predict_leaves_nothing_for_ever(run: Callable, trained: Path) -> None:
    program = (
        "import os, sys\n"
        "from ssl_transfer.cli.main import main\n"
        "from ssl_transfer.stages.predict import predict\n"
        "predict._Table._fill = lambda *_: os.kill(os.getpid(), 9)\n"
        "main(sys.argv[1:])\n"
    )
    import sys

    started = subprocess.run([sys.executable, "-c", program, "predict", trained, "digits"], check=False)
    assert started.returncode == -9
    assert list(Path().glob(".predictions.csv.*.part"))
    assert run("predict", trained, "digits").status == 0
    assert sorted(path.name for path in Path().iterdir()) == ["predictions.csv", "predictions.csv.json"]
