"""Whatever settings a command is given, it works, or ends with status 2 and a message: no traceback reaches the user.

The flags come from the dataclasses themselves. What would train is replaced: it stops where the settings have been
accepted and the modules built. A hundred examples of each test in the suite, two thousand with
`--hypothesis-profile long`; `test_every_setting` tries each field once more.
"""

import contextlib
import importlib
import io
import itertools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_transfer.cli.main import COMMANDS, main
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.training import loop
from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS

SECONDS = 60
"""No command takes so long before it trains."""
GIGABYTES = 6
"""What a command may ask for beyond what the tests already hold, so that a huge size is refused by the system."""
TINY = ("--image-size", "16", "--output", "run", "--loading.cache", "cache")
TRAINS = ("pretrain.pretrain", "transfer.phases", "compare.compare")
"""The stages in which something is replaced; nothing else of a command is."""
HOSTILE = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1",
        "-0.0",
        "nan",
        "inf",
        "-inf",
        "1e309",
        "1e-320",
        "1e9",
        str(2**31),
        str(2**63),
        "9" * 40,
    ),
    *("None", "true", "[]", "{}", "()", "0x10", "1_000", "1,2", "-", "--", "--no", "=", "a=b", "*", "%s", "{0}", "\\"),
    *("ünïcödé", "\u202eevil", "日本", "\udcff", "\n", "a\tb", "x" * 5000, "file.txt", "file.txt/below", "dangling"),
    *("absent/deeper", "<script>", "'; drop", "$(true)", "!!python/object:os.system", "folder:", "npz:file.txt", ":"),
)
"""Values that no setting expects: none is an absolute path, as tests run as root too."""

NUMBERS = ("nan", "inf", "-inf", "-1", "0", "9" * 40, str(2**63), str(2**62), "1e-320", "1000000000", "1e308")
TEXTS = st.text(st.characters(exclude_characters="/~\0"), max_size=12).filter(lambda text: text not in (".", ".."))
"""No path that leads out of the test's folder."""


class AcceptedError(BaseException):
    """The command would train now."""


class TooLongError(BaseException):
    """The command hangs."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder of all commands."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def world(place: Path, flags: dict, run: Callable) -> Iterator[dict[str, tuple[str, ...]]]:
    """The shortest command that works of each kind, by its name."""
    network = flags["convolutional"]
    short = ("--epochs", 1, "--head-steps", 1, "--finetune-steps", 1, "--batch-size", 8, "--labels", 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("HOME", str(place / "home"))
        patched.setenv("HF_HUB_OFFLINE", "1")
        assert run("transfer", *TINY, *short, *network, "--output", "taught") == 0
        commands: dict[str, tuple[str, ...]] = {}
        for name, entry in METHODS.items():
            kind = "transformer" if entry.backbones == "vit" else "convolutional"
            commands[f"pretrain {name}"] = ("pretrain", name, *TINY, *flags[kind])
        for name in ADAPTATIONS:
            commands[f"adapt {name}"] = ("adapt", name, "--target", "blended-digits", *TINY, *network)
        student = ("--student", "resnet10t", *network[2:])
        commands["transfer"] = ("transfer", *TINY, *network)
        commands["distill"] = ("distill", "--teacher", "taught", *TINY, *student)
        commands["evaluate"] = ("evaluate", "taught", "--loading.cache", "cache")
        commands["compare"] = ("compare", "--arms", "scratch", "simclr", *TINY, *network)
        commands["summary"] = ("summary", "--image-size", "16", *network)
        commands["report"] = ("report", "taught")
        # Of no run: wandb is a program of its own, and has its own tests.
        commands["sync"] = ("sync", "absent")
        commands["data check"] = ("data", "check", "digits", "--output", "check", "--loading.cache", "cache")
        commands["data preview"] = ("data", "preview", "--output", "preview", "--loading.cache", "cache")
        commands["doctor"] = ("doctor", "--loading.cache", "cache")
        commands["data cache"] = ("data", "cache", "--loading.cache", "cache")
        commands["predict"] = ("predict", "taught", "digits", "--output", "predicted.csv")
        # Of export and explain the settings alone: what they do with them takes long, and has its own tests.
        commands["export"] = ("export", "taught", "--format", "safetensors")
        commands["explain"] = ("explain", "taught")
        stages = {name: importlib.import_module(f"ssl_transfer.stages.{name}") for name in TRAINS}

        def accept(*arguments: Any, **settings: Any) -> None:
            raise AcceptedError

        patched.setattr(stages["pretrain.pretrain"], "train", accept)
        patched.setattr(stages["transfer.phases"], "train", accept)
        patched.setattr(stages["transfer.phases"], "find_learning_rate", accept)
        patched.setattr(stages["compare.compare"], "launcher", accept)
        for name in ("export", "explain"):
            patched.setattr(importlib.import_module(f"ssl_transfer.stages.{name}.{name}"), name, accept)
        yield commands


@pytest.fixture(scope="module")
def fields(world: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Every setting of each command, by its dotted name, with its default."""
    found: dict[str, dict[str, Any]] = {}

    def recorded(*arguments: Any, default: Any, **others: Any) -> None:
        # These two group settings whose flags do not name the group.
        plain = configuration.flatten(configuration.to_dict(default)).items()
        found["now"] = {key.removeprefix("recipes.").removeprefix("settings."): value for key, value in plain}
        raise AcceptedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(configuration, "parse", recorded)
        for name, command in world.items():
            with contextlib.suppress(AcceptedError):
                main(command)
            found[name] = found.pop("now")
    return found


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Little memory and little time for the `with` block."""

    def late(*_: object) -> None:
        raise TooLongError

    before, limits = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + GIGABYTES * 2**30, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


COUNTER = itertools.count()


@pytest.fixture
def check(place: Path, world: dict, in_own_folder: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`check(command)` runs a command, see `answer`."""
    monkeypatch.chdir(place)
    return answer


def answer(command: tuple[str, ...]) -> str:
    """Run a command in an empty folder beside `taught`: what it answered, or a failure where that is a traceback."""
    here, folder = Path.cwd(), Path(f"example-{next(COUNTER)}")
    folder.mkdir()
    (folder / "taught").symlink_to(here / "taught")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "file.txt").write_text("no folder")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    os.chdir(folder)
    try:
        with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(command)
        status = 0
    except AcceptedError:
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        os.chdir(here)
    err.seek(0)
    said = err.read()
    # A size beyond all memory need not be a typing error: status 1.
    # What would fail is the doctor's to say.
    told = ("error: not enough memory", "would fail here:")
    assert status in (0, 2) or (status == 1 and any(words in said for words in told)), (status, said)
    assert "Traceback" not in said
    assert not status or any(line.startswith(("error: ", "╭─ ")) for line in said.splitlines()), said
    return said


def with_value(command: tuple[str, ...], name: str, value: str, form: int) -> tuple[str, ...]:
    """The command with one more flag: as two words, as one, alone, twice, or turned off."""
    flag = f"--{name.replace('_', '-')}"
    head, _, last = flag.removeprefix("--").rpartition(".")
    off = f"--{head}.no-{last}" if head else f"--no-{last}"
    return command + ((flag, value), (f"{flag}={value}",), (flag,), (flag, value, flag, value), (off,))[form]


def test_every_setting(check: Callable, world: dict, fields: dict) -> None:
    """Each setting gets one value that it does not expect: those that commands share, by name and default, once."""
    values, numbers, seen = itertools.cycle(HOSTILE), itertools.cycle(NUMBERS), set()
    for name, defaults in fields.items():
        for field, default in defaults.items():
            arm, _, own = field.partition(".")
            shared = (own if arm in METHODS else field, repr(default))
            if shared not in seen:
                seen.add(shared)
                is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
                check(with_value(world[name], field, next(numbers if is_number else values), 0))
    assert len(fields) == len(METHODS) + len(ADAPTATIONS) + 14
    assert {name.split()[0] for name in fields} == COMMANDS.keys() - {"demo"}
    assert len(seen) > 200, len(seen)


VALUES = st.sampled_from(HOSTILE + NUMBERS) | st.integers().map(str) | st.floats().map(str) | TEXTS


@given(data=st.data())
def test_any_flags(data: st.DataObject, check: Callable, world: dict, fields: dict) -> None:
    """Up to three flags of any command, in any form, known or not."""
    name = data.draw(st.sampled_from(sorted(world)))
    names = st.sampled_from(sorted(fields[name])) | st.sampled_from(("config", "help", "no-such", "epoch", ""))
    command = world[name]
    for field in data.draw(st.lists(names, min_size=1, max_size=3)):
        command = with_value(command, field, data.draw(VALUES), data.draw(st.integers(0, 4)))
    check(command)


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as a file of settings has them."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        place, parts = found, name.split(".")
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value
    return found


LEAVES = (
    VALUES
    | st.just("a\0b")
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=20)
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


@given(data=st.data())
def test_any_file_of_settings(
    data: st.DataObject, check: Callable, world: dict, fields: dict, tmp_path_factory: Any
) -> None:
    """A YAML file with real names and anything for their values, and with names of no setting."""
    name = data.draw(st.sampled_from(sorted(set(world) - {"report"})))
    settings = data.draw(st.dictionaries(st.sampled_from(sorted(fields[name])), TREES, max_size=3))
    content = nested(settings) | data.draw(st.dictionaries(TEXTS, TREES, max_size=1))
    file = tmp_path_factory.mktemp("yaml") / "settings.yaml"
    file.write_text(yaml.dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    check((*world[name], "--config", str(file)))


BOMB = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n".encode()
    for before, after in itertools.pairwise("abcdefghi")
)
DOCUMENTS = (
    *(
        b"",
        b"\0",
        b"---\n---\n",
        b"? [a, b]\n: c",
        b"{a: 1, a: 2}",
        b"a: &x {b: *x}",
        b"- &l [*l]",
        b"\xff\xfe\x00a",
        BOMB,
    ),
    *(b"!!python/object/apply:os.system ['touch made']", b"epochs: !!python/object/apply:os.system ['touch made']"),
    *(
        b"epochs: !!int x",
        b"epochs: &e 1\nseed: *e",
        b"backbone: [1, 2]",
        b"epochs: {a: 1}",
        b"optimizer: 3",
        b"method: 3",
    ),
    *(
        b"<<: {epochs: 1}",
        b"<<: 3",
        b"1: 2",
        b"null: null",
        b"[]: 1",
        b"{}: 1",
        b"!!set {a, b}",
        b"%YAML 9.9\n---\na: 1",
    ),
    *(
        b"a: " + b"[" * 3000,
        b"a: " + b"{b: " * 3000,
        b"epochs: [[1]]",
        b"epochs:\n\t- 1",
        b"--help: 1",
        b"h: 1",
        b"help: true",
    ),
)


@given(
    document=st.sampled_from(DOCUMENTS)
    | st.binary(max_size=200)
    | TEXTS.map(lambda text: text.encode("utf-8", "replace"))
)
@settings(max_examples=max(2 * len(DOCUMENTS), settings().max_examples))
def test_any_document(document: bytes, check: Callable, world: dict, tmp_path_factory: Any) -> None:
    """Files that are no settings: broken, binary, nested without end, with tags that would run code, bombs."""
    file = tmp_path_factory.mktemp("yaml") / "settings.yaml"
    file.write_bytes(document)
    check((*world["pretrain simclr"], "--config", str(file)))
    assert not list(Path.cwd().glob("*/made"))


def test_accepted_settings_train(world: dict, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a step with odd but accepted settings, without the replacements above."""
    monkeypatch.setattr("ssl_transfer.stages.pretrain.pretrain.train", loop.train)
    for number, odd in enumerate((("--optimizer.learning-rate", 1e-30), ("--seed", 2**62), ("--seed", -1))):
        command = (*world["pretrain simclr"], "--epochs", 1, "--batch-size", 1000, *odd)
        assert run(*command, "--output", tmp_path / str(number)) == 0
