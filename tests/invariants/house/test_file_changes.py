"""Files are opened for writing, renamed and removed in a few modules, which check their ownership first."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ssl_transfer

PACKAGE = Path(ssl_transfer.__file__).parent
PATHS = sorted(PACKAGE.rglob("*.py"))
METHODS = {
    *("write_text", "write_bytes", "unlink", "rmdir", "touch", "rename", "symlink_to", "hardlink_to", "chmod"),
    *("rmtree", "copy2", "copyfile", "copytree", "removedirs", "truncate", "open_memmap"),
    *("savefig", "savetxt", "savez", "savez_compressed", "tofile", "save_file", "mkdtemp", "mkstemp", "to_csv"),
    *("NamedTemporaryFile",),
}
"""Names of methods and functions that change files."""
QUALIFIED = {
    *("os.replace", "os.remove", "os.open", "os.link", "os.symlink", "os.truncate", "shutil.move", "shutil.copy"),
    *("np.save", "torch.save"),
}
"""Functions whose last name has other uses too."""
KNOWN = {
    # They check ownership.
    "engine/io/ownership.py": {"os.replace": 1, "unlink": 2, "rmtree": 2, "rmdir": 2},
    "engine/io/ownership_record.py": {"open": 2, "os.replace": 1, "os.open": 1, "unlink": 1, "truncate": 2},
    "engine/io/unfinished_files.py": {"os.open": 2, "rmtree": 2, "unlink": 2},
    "engine/io/atomic.py": {
        "os.open": 2,
        "os.replace": 2,
        "open": 3,
        "write_text": 1,
        "np.save": 1,
        "copyfile": 1,
        "unlink": 1,
    },
    "engine/io/output_file.py": {"os.open": 1, "unlink": 2, "write_text": 1},
    # The entry of a cache is removed by its record; the folder is checked before it is renamed.
    "data/store/cache_folder.py": {"rename": 1, "os.replace": 1, "rmtree": 1, "unlink": 2, "rmdir": 1},
    "engine/runs/run_folder.py": {"rename": 1},
    # They fill the unfinished file that one of the former passes to them, or a buffer.
    "data/store/cache_build.py": {"open_memmap": 1},
    "data/store/decode.py": {"os.open": 1},
    "engine/io/state_files.py": {"torch.save": 1},
    "engine/io/weight_files.py": {"touch": 1, "chmod": 1},
    "evaluation/comparison/write_tables.py": {"open": 1, "savez": 1},
    "reports/evaluation.py": {"write_bytes": 1},
    "reports/figures.py": {"savefig": 1},
    "reports/lr_finder.py": {"savefig": 1},
    "stages/data/check_page.py": {"savefig": 1},
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


def changes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if writes(node):
            yield "open"
        elif name in QUALIFIED:
            yield name
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield node.func.attr


def test_files_are_changed_in_known_places() -> None:
    found = {str(path.relative_to(PACKAGE)): dict(Counter(changes(path))) for path in PATHS}
    assert {file: counts for file, counts in found.items() if counts} == KNOWN
    assert len(PATHS) > 250
