import pytest

from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.features import transferability
from ssl_transfer.reports.comparison import caveats


@pytest.fixture
def collect(tmp_path):
    def collected(rows, description, diagnosis) -> caveats.Caveats:
        lines = [[line[name] for name in transferability.COLUMNS] for line in diagnosis]
        write_tables.write_lines(tmp_path / "diagnosis.csv", transferability.COLUMNS, lines)
        return caveats.collect(Results(rows, description=description, folder=tmp_path))

    return collected


def rows_of(spread: float, seeds: int = 5) -> list[Row]:
    return [
        Row(
            arm=arm, backbone="net", labels="5", seed=seed, phase="chosen", split="test", metric="accuracy", value=value
        )
        for arm, values in {
            "scratch": [0.8] * seeds,
            "simclr": [0.85 + spread * (seed - (seeds - 1) / 2) for seed in range(seeds)],
        }.items()
        for seed, value in enumerate(values)
    ]


def comparison_of(*, seeds: int = 5, num_test: int = 5000, num_pool: int = 9000, images=(50, 50)) -> dict:
    return {
        "seeds": list(range(seeds)),
        "pretrain_seeds": seeds,
        "num_test": num_test,
        "num_pool": num_pool,
        "images": {"5": list(images)},
    }


def line(measure: str, value: float | str, *, arm: str = "simclr", reference: str = "", num_images: int = 200) -> dict:
    held = {"arm": arm, "backbone": "net", "measure": measure, "reference": reference}
    return {**held, "value": str(value), "num_images": str(num_images)}


def test_where_all_is_enough_nothing_is_said(collect):
    found = collect(rows_of(0.001), comparison_of(), [])
    assert found.warnings == []
    (budget,) = found.budgets
    assert budget["validation"] == "50 images, 2 points each"
    assert budget["runs"] == "5 pretrainings"


@pytest.mark.parametrize(
    ("rows", "comparison", "words"),
    [
        (rows_of(0.0, 2), comparison_of(seeds=2), "2 seeds: too few"),
        (rows_of(0.04), comparison_of(), "These runs find only large differences to scratch (5 a class: 10.6 points)"),
        (rows_of(0.0), comparison_of() | {"pretrainings": [0, 1, 0, 1, 0]}, "2 pretrainings of each method: too few"),
        (rows_of(0.001), comparison_of(num_test=300), "300 test images: two models"),
        (rows_of(0.001), comparison_of(images=(50, 10)), "by few images (5 a class: 10 images)"),
        (rows_of(0.001), comparison_of(num_pool=300), "The pool for pretraining holds 300 images"),
        (rows_of(0.001), comparison_of(num_pool=800, images=(800, 50)), "all 800 images of the pool are labelled"),
    ],
)
def test_what_is_too_small_is_said(collect, rows, comparison, words):
    (warning,) = collect(rows, comparison, []).warnings
    assert words in warning


@pytest.mark.parametrize(
    ("diagnosis", "words"),
    [
        ([line("distance", 1.2)], "from validation images in 80% of cases"),
        ([line("separability", 0.5, arm="scratch"), line("separability", 0.4)], "no better than random weights"),
        ([line("similarity", 0.97, reference="scratch")], "nearly those of random weights (similarity 0.97)"),
    ],
)
def test_features_that_speak_against_it(collect, diagnosis, words):
    (warning,) = collect(rows_of(0.001), comparison_of(), diagnosis).warnings
    assert words in warning
    assert "simclr on net" in warning


def test_features_that_do_not(collect):
    lines = [
        line("distance", 0.3),
        # Of twenty images a guess does this well now and then.
        line("distance", 0.9, num_images=20),
        line("separability", 0.5, arm="scratch"),
        line("separability", 0.7),
        line("similarity", 0.4, reference="scratch"),
        line("similarity", 0.95, reference="imagenet (other)"),
        line("similarity", "", reference="imagenet"),
    ]
    found = collect(rows_of(0.001), comparison_of(), lines)
    assert found.warnings == []
    assert found.has_imagenet
    (ours,) = [one for one in found.features if one["arm"] == "simclr"]
    assert (ours["separability"], ours["scratch"], ours["imagenet"]) == ("70.0", "0.40", "0.95 (other)")
