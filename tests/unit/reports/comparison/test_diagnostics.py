import pytest

from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.reports.comparison import diagnostics
from ssl_transfer.stages.compare.diagnostics import CONFUSION_COLUMNS, EMBEDDING_COLUMNS

COMPARISON = {"classes": ["ant", "bee", "$c$"], "images": {"20": [60, 60], "5": [15, 15]}}
VALIDATION = {("scratch", "5"): 0.5, ("simclr", "5"): 0.9, ("scratch", "20"): 0.9, ("simclr", "20"): 0.7}
ROWS = [
    Row(arm=arm, backbone="net", labels=labels, seed=0, phase="chosen", split=split, metric="accuracy", value=value)
    for (arm, labels), accuracy in VALIDATION.items()
    # The test images would say the opposite.
    for split, value in (("validation", accuracy), ("test", 1.0 - accuracy))
]


def results_in(folder, description=COMPARISON) -> Results:
    return Results(ROWS, description=description, folder=folder)


@pytest.fixture
def folder(tmp_path):
    lines = [
        (arm, "net", labels, *line)
        for arm, labels in VALIDATION
        for line in (("ant", "ant", 8), ("ant", "bee", 2), ("bee", "bee", 5), ("$c$", "ant", 4), ("$c$", "$c$", 1))
    ]
    write_tables.write_lines(tmp_path / "confusions.csv", CONFUSION_COLUMNS, lines)
    return tmp_path


def test_best_and_worst_by_validation_at_the_least_and_the_largest_budget(folder):
    found = {one.name: one for one in diagnostics.confusions(results_in(folder))}
    assert {name: one.caption.split(":")[0] for name, one in found.items()} == {
        "confusion_least_best": "simclr, 5 labels a class",
        "confusion_least_worst": "scratch, 5 labels a class",
        "confusion_largest_best": "scratch, 20 labels a class",
        "confusion_largest_worst": "simclr, 20 labels a class",
    }
    assert all(one.content.startswith(b"\x89PNG") for one in found.values())


def test_the_most_frequent_mistakes_are_said_in_words(folder):
    caption = diagnostics.confusions(results_in(folder))[0].caption
    assert caption.endswith(": 6 mistakes in 20; most often $c$ taken for ant (80 %), ant taken for bee (20 %).")


def test_one_arm_and_one_budget_are_one_picture(folder):
    lines = [("scratch", "net", "5", "ant", "ant", 3)]
    write_tables.write_lines(folder / "confusions.csv", CONFUSION_COLUMNS, lines)
    (only,) = diagnostics.confusions(results_in(folder))
    assert only.caption == "scratch, 5 labels a class: 0 mistakes in 3."


def test_without_tables_nothing_is_drawn(tmp_path):
    assert diagnostics.confusions(results_in(tmp_path)) == []
    assert diagnostics.embedding_map(results_in(tmp_path)) is None
    assert diagnostics.reconstructions(results_in(tmp_path, {"reconstructions": {"mae on net": "absent.png"}})) == []
    assert diagnostics.setting_lines(results_in(tmp_path, {})) == ([], [])


@pytest.mark.parametrize("num_classes", [1, 30])
def test_maps_of_any_number_of_classes(tmp_path, num_classes):
    lines = [
        (arm, "net", f"image {image}", f"$class {image % num_classes}", 0.01 * image, -0.01 * image)
        for arm in ("scratch", "simclr")
        for image in range(60)
    ]
    write_tables.write_lines(tmp_path / "embeddings.csv", EMBEDDING_COLUMNS, lines)
    found = diagnostics.embedding_map(results_in(tmp_path))
    assert found.content.startswith(b"\x89PNG")
    assert found.caption.startswith("60 validation images, the same in every map")
    assert ("30 classes" in found.caption) is (num_classes > 24)


def test_settings_by_arm(tmp_path):
    settings = {"epochs": {"a on net": 3, "b on net": None}, "method.crop": {"b on net": [0.5, 1.0]}}
    arms, lines = diagnostics.setting_lines(results_in(tmp_path, {"settings": settings}))
    assert arms == ["a on net", "b on net"]
    assert lines == [("epochs", ["3", "none"]), ("method.crop", ["", "0.5 1.0"])]
