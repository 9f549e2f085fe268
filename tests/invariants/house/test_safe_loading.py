"""No source line reads a file in a way that could run what stands in it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted(path for folder in ("ssl_transfer", "recipes", "scripts") for path in (ROOT / folder).rglob("*.py"))
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
"""Calls that are safe with this argument, which must stand there."""
UNSAFE = {
    *("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "dill.loads"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "marshal.load", "marshal.loads", "shelve.open"),
    *("cloudpickle.load", "cloudpickle.loads", "torch.jit.load", "shutil.unpack_archive"),
}
LOADERS = ("weights_only", True)
SAFE_YAML = {"yaml.BaseLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


def faults(text: str) -> list[str]:
    """The calls in a source text that could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {one.arg: one.value for one in node.keywords}
        values = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
        last = name.rpartition(".")[2]
        needed = NEEDED.get(name) or (LOADERS if last in ("load_state_dict_from_url", "get_state_dict") else None)
        wrong = (
            name in UNSAFE
            or (needed is not None and values.get(needed[0]) is not needed[1])
            or (name == "yaml.load" and ast.unparse(given.get("Loader", ast.Constant(None))) not in SAFE_YAML)
            or last == "extractall"
            or "trust_remote_code" in given
        )
        if wrong:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_every_file_was_seen() -> None:
    assert len(FILES) > 180
    # Those that read arrays, settings, states: were the names other than expected, nothing would be found at all.
    calls = [
        ast.unparse(node.func)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    least = {"torch.load": 1, "np.load": 4, "yaml.load": 2, "yaml.safe_load": 1, "configuration.load": 3}
    for name, count in least.items():
        assert calls.count(name) >= count, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []
