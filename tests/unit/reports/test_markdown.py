"""Escape names in Markdown reports: names of classes come from folders."""

import pytest

from ssl_transfer.reports.markdown import code, escaped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mobilenetv2_100", "mobilenetv2_100"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a|b `x` *y* _z_", r"a\|b \`x\` \*y\* \_z\_"),
        ("[here](http://x)", r"[here\](http://x)"),
        ("81.4 [77.4, 85.5]", "81.4 [77.4, 85.5]"),
        ("two\nlines", "two lines"),
    ],
)
def test_names_stand_there_as_text(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_code_ends_where_it_ends() -> None:
    assert code("a b") == "`a b`"
    assert code("a `b` c") == "`` a `b` c ``"
    assert code("a\nb") == "`a b`"
