import pytest

from ssl_transfer.engine.io.atomic import DamagedError
from ssl_transfer.evaluation.comparison import results as module
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.metric_properties import ACCURACY, LOG_LOSS, METRICS, POSITIVE, SHARE, metric_named

RESULTS = "arm,backbone,labels,seed,phase,split,metric,value\n"


def rows_of(*arms: str) -> list[Row]:
    return [
        Row(arm=arm, backbone="net", labels=labels, seed=0, phase=phase, split=split, metric="accuracy", value=0.5)
        for arm in arms
        for labels in ("5", "all")
        for phase in ("head", "chosen")
        for split in ("validation", "test")
    ]


def test_views_of_the_rows():
    results = Results(rows_of("scratch", "simclr"))
    assert results.pairs == [("scratch", "net"), ("simclr", "net")]
    assert (results.budgets, results.phases) == (["5", "all"], ["head"])
    assert len(results.test) == len(results.validation) == 2 * 2 * 2
    assert results.train == {}


def test_results_in_memory_read_nothing():
    results = Results(rows_of("scratch"))
    assert results.hits == results.description == results.environment == results.images_per_class == {}
    assert results.curve_lines == results.confusions == results.embeddings == results.diagnosis == []
    with pytest.raises(ValueError, match="no folder"):
        _ = results.folder


def test_tables_are_read_when_first_used_and_shared(tmp_path):
    write_tables.write(tmp_path, Results(rows_of("scratch")))
    results = Results.read(tmp_path)
    assert results.rows == rows_of("scratch")
    (tmp_path / "results.csv").unlink()
    for _ in range(2):
        assert results.curves is results.curves
        assert results.confusions == results.embeddings == []
    assert results.rows == rows_of("scratch")


def test_a_table_that_is_given_is_not_read(tmp_path):
    results = Results(rows_of("scratch"), hits={}, curves=[], description={}, folder=tmp_path)
    assert results.hits == results.description == {}
    assert results.curve_lines == []


def test_a_damaged_description_is_refused_by_name(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(DamagedError, match=r"comparison\.json: damaged .*Take another copy of"):
        _ = Results.read(tmp_path).description


def test_estimates_are_computed_once():
    results = Results(rows_of("scratch", "simclr"))
    scratch, simclr = (module.chosen_accuracy(arm, "net", "5") for arm in ("scratch", "simclr"))
    assert results.estimate(simclr) is results.estimate(simclr)
    assert results.difference(simclr, scratch) is results.difference(simclr, scratch)
    assert results.share_seed(simclr, scratch)
    assert not results.share_seed(simclr, module.chosen_accuracy("mae", "net", "5"))


def test_limits_are_those_of_the_metric():
    assert ACCURACY.limits == METRICS["calibration_error"].limits == SHARE
    assert LOG_LOSS.limits == METRICS["transfer_seconds"].limits == METRICS["num_parameters"].limits == POSITIVE
    for name in ("chosen_learning_rate", "r2"):
        low, high = metric_named(name).limits
        assert low < -1e300
        assert high > 1e300


def test_a_greater_score_is_better():
    assert ACCURACY.score(0.9) > ACCURACY.score(0.8)
    assert LOG_LOSS.score(0.8) > LOG_LOSS.score(0.9)
    with pytest.raises(TypeError, match="neither direction"):
        metric_named("chosen_learning_rate").score(1.0)
