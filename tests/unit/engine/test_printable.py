"""Control characters become escapes where text is shown; all other characters stay."""

import json
import unicodedata

import pytest

from ssl_transfer.engine.console.formatting import console, drawn, table, words
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.printable import Drawn, json_escaped, one_line, printable
from ssl_transfer.engine.terminal import say
from ssl_transfer.evaluation.comparison.write_tables import defused

EVERY = "".join(map(chr, range(0x110000)))
BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
NAME = "\x1b]52;c;aGk=\x07\x9b\n\u202e\udcff"
SHOWN = r"\x1b]52;c;aGk=\x07\x9b\n\u202e\udcff"


def is_control(character: str) -> bool:
    """Check for a control, a surrogate, a separator of lines or paragraphs, a bidirectional control."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in BIDI


def test_every_character() -> None:
    controls = [character for character in EVERY if is_control(character)]
    assert len(controls) == 65 + 2 + 9 + 2048
    others = "".join(sorted(set(EVERY).difference(controls)))
    assert one_line(others) == printable(others) == others
    assert "".join(map(one_line, controls)).isascii()
    assert not {*map(one_line, controls)} & {*controls}
    assert [character for character in controls if printable(character) == character] == ["\t", "\n"]


def test_an_escape_stays_as_it_is() -> None:
    assert one_line(NAME) == one_line(one_line(NAME)) == printable(one_line(NAME)) == SHOWN


def test_json_is_read_back() -> None:
    # Backwards, so that no two surrogates make a pair.
    content = {"ä": EVERY[::-1]}
    text = json_escaped(json.dumps(content, ensure_ascii=False, indent=1))
    assert json.loads(text) == content
    assert printable(text) == text
    assert "ä" in text


def test_messages(capsys: pytest.CaptureFixture[str]) -> None:
    say("first", NAME, Drawn("\x1b[1mbold\x1b[0m"))
    say(NAME, error=True)
    printed = capsys.readouterr()
    assert printed.out == f"first\n{SHOWN}\n\x1b[1mbold\x1b[0m\n"
    assert printed.err == f"{SHOWN}\n"


@pytest.mark.parametrize("kind", [InputError, FailedRunsError])
def test_errors(kind: type[Exception]) -> None:
    assert str(kind(f"{NAME}: refused.", "a further line")) == f"{SHOWN}: refused.\na further line"


def test_tables_keep_their_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    listed = table("column")
    listed.add_row(words(NAME, style="bold"))
    listed.add_row("\x1b[2J")
    text = drawn(NAME, listed)
    assert text.count(SHOWN) == 2
    assert r"\x1b[2J" in text
    assert "\x1b[1m" in text
    assert not {"\x1b]", "\x1b[2J", "\x07", "\x9b"} & {
        part for part in ("\x1b]", "\x1b[2J", "\x07", "\x9b") if part in text
    }
    assert words("[red]", "second").plain == "[red]\nsecond"
    with (screen := console()).capture() as captured:
        screen.print(NAME, "[bold]two[/bold]")
    assert "\x1b]" not in captured.get()


@pytest.mark.parametrize("cell", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "=", "-", "\uff1d1", "-1e5x", "- 5"])
def test_formulas_are_defused(cell: str) -> None:
    assert defused(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-1", "+1.5", "-.5e-3", "", "a=1", "'=1", "0.25", "ä"])
def test_other_cells_stay(cell: str) -> None:
    assert defused(cell) == cell


@pytest.mark.parametrize("cell", ["\t=1", "\r=1", "\n=1", "\x1b=1"])
def test_control_characters_before_a_formula(cell: str) -> None:
    assert defused(cell) == one_line(cell)
