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
    *("rmtree", "move", "copy", "copy2", "copyfile", "copytree", "remove", "removedirs", "truncate", "open_memmap"),
    *("savefig", "savetxt", "savez", "savez_compressed", "tofile", "save_file", "mkdtemp", "mkstemp", "to_csv"),
    *("NamedTemporaryFile",),
}
"""Names of methods and functions that change files; `replace` and `save` are looked up with their module."""
QUALIFIED = {"os.replace", "np.save", "torch.save", "os.open", "os.link", "os.symlink", "os.truncate"}
KNOWN: dict[str, dict[str, int]] = {}
"""Changes of files by module; each module's comment says why it is safe."""


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
