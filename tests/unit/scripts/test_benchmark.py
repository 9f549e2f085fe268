import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_benchmark_that_does_not_exist(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "augmnt"])
    assert benchmark.main() == 2
    assert "augment" in capsys.readouterr().err


def test_the_report_that_is_timed_is_a_whole_one(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_report", SCRIPT.with_name("benchmark_report.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.ARMS) * len(module.LABELS) * len(module.SEEDS) == 1000
    monkeypatch.setattr(module, "SEEDS", range(2))
    monkeypatch.setattr(module, "LABELS", ("2", "all"))
    monkeypatch.setattr(module, "IMAGES", 20)
    module.write_comparison(tmp_path)
    module.report.draw(module.Results.read(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(
        title in page
        for title in (
            "Test accuracy",
            "What the labels are worth",
            "What is taken for what",
            "What the features look like",
            "Where it pays",
            "Before",
        )
    )
