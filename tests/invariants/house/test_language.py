"""Check the style rules that a program can check: openings of docstrings, words, length of the README."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("ssl_transfer", "scripts", "recipes", "tests")
OPENINGS = re.compile(r"(What|Who|Whose|Which|Where|Whether|How|Why|When|That)\b")
WORDS = re.compile(r"\b(nobody|somebody|whoever)\b", re.IGNORECASE)
SUFFIXES = {".py", ".md", ".jinja", ".yaml", ".toml"}


def docstrings() -> dict[str, str]:
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                    found[f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"] = text
    return found


def test_no_docstring_opens_with_a_question_word() -> None:
    found = docstrings()
    assert len(found) > 2500
    assert [place for place, text in found.items() if OPENINGS.match(text)] == []


def test_no_indefinite_persons() -> None:
    pages = list(ROOT.glob("*.md"))
    pages += [path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    pages.remove(Path(__file__))
    assert len(pages) > 500
    assert [str(path) for path in pages if WORDS.search(path.read_text(encoding="utf-8"))] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
