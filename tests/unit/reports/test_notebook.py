"""Sections of a report in a notebook."""

import base64
from pathlib import Path

import pytest

from ssl_transfer import report_section
from ssl_transfer.engine.errors import InputError

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def test_the_answer_stands_first_and_sections_have_their_pictures_inside() -> None:
    assert "better: simclr" in str(report_section(RESULTS / "demo"))
    section = report_section(RESULTS / "demo", "Test accuracy")
    picture = base64.b64encode((RESULTS / "demo" / "label_efficiency.png").read_bytes()).decode()
    assert str(section).startswith("Mean over 5 seeds")
    assert "(label_efficiency.png)" in str(section)
    shown = section._repr_markdown_()
    assert f"(data:image/png;base64,{picture})" in shown
    assert "What the labels are worth" not in shown


def test_every_report_that_is_kept_has_sections() -> None:
    reports = sorted(RESULTS.glob("*/report.md"))
    assert len(reports) >= 5
    for report in reports:
        assert report_section(report.parent)._repr_markdown_()


def test_a_picture_of_another_folder_stays_outside(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run" / "report.md").write_text("![a](../secret.png) ![b](absent.png)\n")
    assert report_section(tmp_path / "run")._repr_markdown_() == "![a](../secret.png) ![b](absent.png)"


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no report.md"):
        report_section(tmp_path)
    with pytest.raises(InputError, match=r"'What it costs' is no section.*Did you mean .*What it cost"):
        report_section(RESULTS / "demo", "What it costs")
