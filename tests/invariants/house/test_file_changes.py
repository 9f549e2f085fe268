"""Files are opened for writing, renamed and removed in a few modules, which check their ownership first."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssl_transfer

PACKAGE = Path(ssl_transfer.__file__).parent
PATHS = sorted(PACKAGE.rglob("*.py"))
METHODS = {
    *("write_text", "write_bytes", "unlink", "rmdir", "touch", "rename", "symlink_to", "hardlink_to", "chmod"),
    *("rmtree", "copy2", "copyfile", "copytree", "removedirs", "truncate", "open_memmap"),
    *("savefig", "savetxt", "savez", "savez_compressed", "tofile", "save_file", "mkdtemp", "mkstemp", "to_csv"),
    *("NamedTemporaryFile", "mkdir", "makedirs"),
}
"""Names of methods and functions that change files."""
QUALIFIED = {
    *("os.replace", "os.remove", "os.open", "os.link", "os.symlink", "os.truncate", "shutil.move", "shutil.copy"),
    *("np.save", "torch.save", "torch.onnx.export", "torch.export.save"),
}
"""Functions whose last name has other uses too."""
IMAGES = {"image", "picture", "photograph", "drawn", "sheet"}
"""Names of images whose `save` may lack a format."""
KNOWN = {
    # They check ownership.
    "engine/io/ownership.py": {"os.replace": 1, "unlink": 2, "rmtree": 2, "rmdir": 2},
    "engine/io/ownership_record.py": {
        "mkdir": 1,
        "open": 2,
        "os.replace": 1,
        "os.open": 1,
        "unlink": 1,
        "truncate": 2,
    },
    "engine/io/unfinished_files.py": {"mkdir": 6, "os.open": 4, "rmtree": 3, "rmdir": 1, "unlink": 2},
    "engine/io/atomic.py": {
        "mkdir": 1,
        "os.open": 2,
        "os.link": 1,
        "os.replace": 2,
        "open": 3,
        "write_text": 1,
        "np.save": 1,
        "copyfile": 1,
    },
    "engine/io/output_file.py": {"mkdir": 1, "unlink": 1, "write_text": 1},
    # The entry of a cache is removed by its record; the folder is checked before it is renamed.
    "data/store/cache_folder.py": {"mkdir": 1, "rename": 1, "os.replace": 1, "unlink": 2, "rmdir": 1},
    "engine/runs/run_folder.py": {"rename": 1},
    # Data sets are downloaded by one process at a time into a folder of downloads, and renamed when they are whole.
    "data/sources/download.py": {"mkdir": 1},
    "data/sources/medmnist_sets.py": {"replace": 1},
    # A folder of a trial, below that of the run; its files are claimed.
    "stages/transfer/tune.py": {"mkdir": 1},
    # They fill the unfinished file that one of the former passes to them, or a buffer.
    "data/store/cache_build.py": {"open_memmap": 1},
    "data/store/decode.py": {"os.open": 1},
    "engine/io/state_files.py": {"torch.save": 1},
    "engine/io/weight_files.py": {"touch": 1, "chmod": 1},
    "evaluation/comparison/write_tables.py": {"open": 1, "savez": 1},
    "reports/evaluation.py": {"write_bytes": 1},
    "reports/figures.py": {"savefig": 1},
    "reports/image_grid.py": {"save": 2},
    "reports/lr_finder.py": {"savefig": 1},
    "reports/reconstructions.py": {"save": 1},
    "stages/data/check_page.py": {"savefig": 1},
    "stages/data/preview.py": {"save": 1},
    "stages/explain/views.py": {"save": 1},
    "stages/export/onnx_graph.py": {"torch.onnx.export": 1, "torch.export.save": 1},
    "stages/predict/predict.py": {"open": 1},
    # No files of a disk.
    "engine/console/streams.py": {"os.open": 1, "open": 1},
    "engine/distributed/device_memory.py": {"write_text": 1},
}
"""Changes of files by module."""


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def writes(call: ast.Call) -> bool:
    """Check for `open` with a mode that writes."""
    if name_of(call.func) not in ("open", "io.open", "os.fdopen") and not name_of(call.func).endswith(".open"):
        return False
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)


def renames(call: ast.Call) -> bool:
    """Check for `Path.replace`: of the others, `str.replace` takes two arguments, `dataclasses.replace` keywords."""
    return isinstance(call.func, ast.Attribute) and call.func.attr == "replace" and len(call.args) == 1


def saves_an_image(call: ast.Call) -> bool:
    """Check for `Image.save`, called or bound by `partial`, with its format; checkpoints have no such argument."""
    named = call.args[0] if name_of(call.func).endswith("partial") and call.args else call.func
    with_format = any(word.arg == "format" for word in call.keywords)
    receiver = name_of(named).rpartition(".save")[0].rpartition(".")[2].lower()
    return isinstance(named, ast.Attribute) and named.attr == "save" and (with_format or receiver in IMAGES)


def changes_of(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if writes(node):
            yield "open"
        elif name in QUALIFIED:
            yield name
        elif renames(node) and not node.keywords:
            yield "replace"
        elif saves_an_image(node):
            yield "save"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield node.func.attr


def test_files_are_changed_in_known_places() -> None:
    found = {
        str(path.relative_to(PACKAGE)): dict(Counter(changes_of(path.read_text(encoding="utf-8")))) for path in PATHS
    }
    assert {file: counts for file, counts in found.items() if counts} == KNOWN
    assert len(PATHS) > 250


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aside.replace(file)", ["replace"]),
        ("Path('a').replace(b)", ["replace"]),
        ("os.replace(a, b)", ["os.replace"]),
        ("text.replace('a', 'b'); replace(recipe, seed=1); dataclasses.replace(recipe, seed=1)", []),
        ("image.save(path)", ["save"]),
        ("drawn.save(path, format='png')", ["save"]),
        ("functools.partial(drawn.save, format='png')", ["save"]),
        ("self._states.save(state, best=True)", []),
        ("path.mkdir(parents=True)", ["mkdir"]),
        ("os.makedirs(path)", ["makedirs"]),
        ("torch.onnx.export(module, inputs, path)", ["torch.onnx.export"]),
        ("torch.export.save(program, path); torch.export.export(module, inputs)", ["torch.export.save"]),
    ],
)
def test_changes_are_told_from_what_resembles_them(text: str, found: list[str]) -> None:
    assert list(changes_of(text)) == found
