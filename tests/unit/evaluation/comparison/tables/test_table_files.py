"""Tables of a comparison that were damaged or changed: refused with file, line, run, value, constraint and remedy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row, chosen_accuracy
from ssl_transfer.evaluation.comparison.tables import description_file, table_files
from ssl_transfer.evaluation.features import transferability

VERSIONS = Path(__file__).parents[4] / "invariants" / "resume" / "versions"
DOCUMENTED = Path(__file__).parents[5] / "docs" / "results"
DESCRIPTION = {
    "data": "digits: 10 train",
    "source": "digits",
    "image_size": 16,
    "data_fingerprint": "abc",
    "classes": ["ant", "bee"],
    "backbones": {"net": {"stem": "small", "arguments": []}},
    "labels": ["5"],
    "images": {"5": [10, 10]},
    "num_test": 8,
    "num_pool": 30,
    "seeds": [0, 1],
    "pretrain_seeds": 1,
    "pretrainings": [0, 0],
    "primary_metric": "accuracy",
    "worthwhile": 1.0,
    "epochs": {"simclr": 3},
    "plan": {},
    "failures": [],
}
ENVIRONMENT = {"command": "compare", "devices": "CPU", "python": "3", "packages": {"torch": "2"}, "git_commit": ""}


def rows_of(arms=("scratch", "simclr"), seeds=(0, 1)) -> list[Row]:
    found = []
    for arm in arms:
        for seed in seeds:
            key = {"arm": arm, "backbone": "net", "labels": "5", "seed": seed}
            for phase in ("head", "chosen"):
                for split in ("validation", "test"):
                    found += [Row(**key, phase=phase, split=split, metric="accuracy", value=0.5)]
                    found += [Row(**key, phase=phase, split=split, metric="log_loss", value=1.5)]
            for split, metric in table_files.EVERY_RUN:
                if split == "train":
                    found.append(Row(**key, phase="chosen", split=split, metric=metric, value=4.0))
    return found


def write(folder: Path, *, checksums: bool = True) -> Path:
    """Write a comparison of two arms and two seeds; its results.csv has 53 lines."""
    curves = [
        {"arm": row.arm, "backbone": "net", "labels": "5", "seed": row.seed, "phase": "head", "epoch": 1, "step": 10}
        | {"split": row.split, "metric": row.metric, "value": row.value}
        for row in rows_of()
        if (row.phase, row.split) == ("head", "validation")
    ]
    hits = {
        chosen_accuracy(arm, "net", "5"): {seed: np.array([0, 1] * 4, np.uint8) for seed in (0, 1)}
        for arm in ("scratch", "simclr")
    }
    write_tables.write(folder, Results(rows_of(), curves=curves, hits=hits))
    lines = {
        table_files.CONFUSIONS_FILE: (table_files.CONFUSION_COLUMNS, [("simclr", "net", "5", "ant", "bee", 3)]),
        table_files.EMBEDDINGS_FILE: (table_files.EMBEDDING_COLUMNS, [("simclr", "net", "image 1", "ant", 0.5, -0.5)]),
        table_files.DIAGNOSIS_FILE: (
            transferability.COLUMNS,
            [("simclr", "net", "distance", "", 0.5, 9), ("simclr", "net", "similarity", "scratch", float("nan"), 9)],
        ),
    }
    for name, (columns, content) in lines.items():
        write_tables.write_lines(folder / name, columns, content)
    (folder / "config.yaml").write_text("fresh: false\n")
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    found = {"checksums": table_files.checksums_of(folder)} if checksums else {}
    (folder / "comparison.json").write_text(json.dumps({**DESCRIPTION, **found}))
    return folder


def read(folder: Path) -> Results:
    """Read every table."""
    results = Results.read(folder)
    _ = results.curves, results.hits, results.confusions, results.embeddings, results.diagnosis
    _ = results.description, results.environment
    return results


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(folder)
    return str(caught.value)


def edit(folder: Path, name: str, change: Callable[[str], str]) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes().decode()).encode())


def test_a_changed_description_is_refused(tmp_path):
    """One network would become several pretrainings, and its sentence one about the method."""
    folder = write(tmp_path)
    content = description_file.sealed(DESCRIPTION, table_files.checksums_of(folder))
    (folder / "comparison.json").write_text(json.dumps(content))
    read(folder)
    edit(folder, "comparison.json", lambda text: text.replace("[0, 0]", "[0, 1]"))
    assert "comparison.json: its content differs from its checksum" in refusal(folder)


def test_tables_are_read_as_they_were_written(tmp_path):
    results = read(write(tmp_path))
    assert results.rows == rows_of()
    assert len(results.curve_lines) == 8
    assert [images.tolist() for by_seed in results.hits.values() for images in by_seed.values()] == [[0, 1] * 4] * 4
    assert (len(results.confusions), len(results.embeddings), len(results.diagnosis)) == (1, 1, 2)
    assert results.has_checksums
    assert not Results.read(write(tmp_path / "older", checksums=False)).has_checksums


def test_every_table_has_a_checksum(tmp_path):
    """List and verify every table that is read back."""
    assert set(table_files.checksums_of(write(tmp_path))) == set(table_files.TABLES)
    assert transferability.COLUMNS == table_files.DIAGNOSIS_COLUMNS


@pytest.mark.parametrize("name", table_files.TABLES)
def test_a_changed_and_a_missing_table_are_refused_by_name(tmp_path, name):
    folder = write(tmp_path)
    before = (folder / name).read_bytes()
    # A digit, or a bit, that leaves the table readable.
    changed = before.replace(b"0.5", b"0.6", 1).replace(b"bee,3", b"bee,4")
    (folder / name).write_bytes(changed if name.endswith(".csv") else before + b" ")
    said = refusal(folder)
    assert f"{folder / name}" in said
    assert "differs from its checksum" in said
    assert f"`ssl-transfer compare --config {folder / 'config.yaml'} --output {folder}`" in said
    (folder / name).unlink()
    said = refusal(folder)
    assert f"{folder / name}" in said
    assert "ssl-transfer compare" in said or name == "results.csv"


RUN = "simclr on net, labels 5, seed 1"
LAST = "simclr,net,5,1,chosen,train,num_parameters,4.0\n"
DAMAGES: dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]] = {
    # name: table, change, words of the message
    "cut in a line": ("results.csv", lambda text: text[:-5], ("line 53", RUN, "cut off", "no line end")),
    "cut at a line end": ("results.csv", lambda text: text.removesuffix(LAST), (RUN, "num_parameters", "cut off")),
    "cut between runs": ("results.csv", lambda text: text[: text.index("simclr,net,5,1")], (RUN, "has not failed")),
    "header alone": ("results.csv", lambda text: text[: text.index("\n") + 1], ("no lines", "every finished run")),
    "empty": ("results.csv", lambda _: "", ("line 1", "cut off")),
    "byte-order mark": ("results.csv", lambda text: "\ufeff" + text, ("line 1", "byte-order mark")),
    "other columns": ("results.csv", lambda text: text.replace("metric", "measure", 1), ("line 1", "must be arm,")),
    "extra cell": ("results.csv", lambda text: text.replace(LAST, f"{LAST[:-1]},1\n"), ("line 53", RUN, "9 cells")),
    "missing cell": ("results.csv", lambda text: text.replace(LAST, f"{LAST[:-5]}\n"), ("line 53", RUN, "7 cells")),
    "open quote": ("results.csv", lambda text: text.replace(LAST, f'"{LAST}'), ("results.csv, line", "CSV")),
    "seed": ("results.csv", lambda text: text.replace(LAST, LAST.replace(",1,", ",1.5,")), ("line 53", "seed '1.5'")),
    "unknown seed": ("results.csv", lambda text: text.replace(LAST, LAST.replace(",1,", ",7,")), ("seed '7'", "seeds")),
    "no phase": ("results.csv", lambda text: text.replace(LAST, LAST.replace("chosen", "")), ("line 53", "phase ''")),
    "split": ("results.csv", lambda text: text.replace(LAST, LAST.replace("train", "tain")), ("split 'tain'", "test")),
    "twice": ("results.csv", lambda text: text + LAST, ("line 54", RUN, "repeats line 53")),
    **{
        f"value {value}": (
            "results.csv",
            lambda text, value=value: text.replace(LAST, LAST.replace("4.0", value)),
            ("line 53", RUN, "metric num_parameters", repr(value), words),
        )
        for value, words in {
            "nan": "finite number",
            "inf": "finite number",
            "1e999": "finite number",
            "": "finite number",
            "many": "finite number",
            "4_0": "finite number",
            "-4.0": "must be 0 or more",
        }.items()
    },
    "accuracy 97.5": ("results.csv", lambda text: text.replace("0.5", "97.5", 1), ("line 2", "'97.5'", "0 and 1")),
    "curve cut": ("curves.csv", lambda text: text[:-3], ("curves.csv, line 9", RUN, "cut off")),
    "curve nan": ("curves.csv", lambda text: text.replace("0.5", "nan", 1), ("curves.csv, line 2", "finite number")),
    "curve step": ("curves.csv", lambda text: text.replace(",10,", ",,", 1), ("line 2", "step ''", "whole number")),
    "confusions cut": ("confusions.csv", lambda text: text[:-1], ("confusions.csv, line 2", "cut off")),
    "unknown class": ("confusions.csv", lambda text: text.replace("bee", "wasp"), ("predicted 'wasp'", "classes")),
    "unknown run": ("confusions.csv", lambda text: text.replace("simclr", "mae"), ("mae on net", "results.csv")),
    "embeddings cut": ("embeddings.csv", lambda text: text[:-8], ("embeddings.csv, line 2", "simclr on net")),
    "embedding inf": ("embeddings.csv", lambda text: text.replace("-0.5", "inf"), ("y 'inf'", "finite number")),
    "diagnosis column": ("diagnosis.csv", lambda text: text.replace("measure", "x", 1), ("diagnosis.csv, line 1",)),
    "distance 3": ("diagnosis.csv", lambda text: text.replace("0.5", "3", 1), ("'3'", "0 and 2", "measure distance")),
    "empty description": ("comparison.json", lambda _: "{}", ("lacks data",)),
    "no object": ("comparison.json", lambda _: "[]", ("comparison.json: damaged", "expected an object")),
    "no JSON": ("comparison.json", lambda text: text[:-1], ("comparison.json: damaged",)),
    "no images": ("comparison.json", lambda text: text.replace('"images"', '"x"'), ("lacks images",)),
    "nan tests": (
        "comparison.json",
        lambda text: text.replace('t": 8', 't": NaN'),
        ("num_test is nan", "whole number"),
    ),
    "inf plan": ("comparison.json", lambda text: text.replace("{}", '{"rate": Infinity}'), ("plan.rate is inf",)),
    "sizes": ("comparison.json", lambda text: text.replace("[10, 10]", "[10, 0]"), ("images is", "1 or more")),
    "failures": (
        "comparison.json",
        lambda text: text.replace('ures": []', 'ures": [{}]'),
        ("lacks failures.0.folder",),
    ),
    "pretrainings": (
        "comparison.json",
        lambda text: text.replace("[0, 0]", "[0]"),
        ("pretrainings is [0]", "for each of the seeds"),
    ),
    "half a pretraining": (
        "comparison.json",
        lambda text: text.replace("[0, 0]", "[0, 0.5]"),
        ("pretrainings is [0, 0.5]", "whole numbers"),
    ),
    "worthwhile": (
        "comparison.json",
        lambda text: text.replace('while": 1.0', 'while": -1'),
        ("worthwhile is -1", "above 0"),
    ),
    "no worthwhile": (
        "comparison.json",
        lambda text: text.replace('while": 1.0', 'while": null'),
        ("worthwhile is None", "above 0"),
    ),
    "metric": ("comparison.json", lambda text: text.replace('"accuracy"', '"x"'), ("primary_metric is 'x'",)),
    "environment": ("environment.json", lambda _: "{}", ("environment.json: lacks command", "settings.yaml")),
}
NUM_DAMAGES = 47


def test_every_damage_is_tried():
    assert len(DAMAGES) == NUM_DAMAGES


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("checksums", [True, False])
def test_damage_is_named(tmp_path, damage, checksums):
    """Also in tables of an older version, which have no checksums."""
    folder = write(tmp_path, checksums=checksums)
    name, change, words = DAMAGES[damage]
    before = (folder / name).read_bytes()
    edit(folder, name, change)
    assert (folder / name).read_bytes() != before
    said = refusal(folder)
    assert all(word in said for word in (str(folder / name), *words, "ssl-transfer compare")), said
    assert said.endswith(("finished runs are not repeated.", "writes it again."))


def test_line_numbers_count_lines_within_cells(tmp_path):
    folder = write(tmp_path)
    edit(
        folder,
        "results.csv",
        lambda text: text.replace("scratch,", '"scr\natch",').replace("test,accuracy,0.5", "test,accuracy,97.5", 1),
    )
    assert r"line 6: (scr\natch on net" in refusal(folder)


def test_hits_of_other_images_are_refused(tmp_path):
    folder = write(tmp_path, checksums=False)
    edit(folder, "comparison.json", lambda text: text.replace('t": 8', 't": 9'))
    assert "8 test images a run, but comparison.json has 9" in refusal(folder)


def test_settings_with_fresh_move_nothing_aside(tmp_path):
    folder = write(tmp_path)
    (folder / "config.yaml").write_text("output: here\nfresh: true\n")
    assert "--no-fresh`" in table_files.remedy_of(folder)
    (folder / "config.yaml").unlink()
    assert table_files.remedy_of(folder) == f"Take another copy of {folder}."


def test_lines_of_any_origin_stay_readable(tmp_path):
    """Ends of lines from another system, failed runs, and tables of the documents and of an older version."""
    folder = write(tmp_path, checksums=False)
    edit(folder, "results.csv", lambda text: text.replace("\n", "\r\n"))
    assert read(folder).rows == rows_of()
    missing = [row for row in rows_of() if (row.arm, row.seed) != ("simclr", 1)]
    write_tables.write(folder, Results(missing, curves=[]))
    failures = [{"folder": "runs/simclr", "lines": ["no space left"], "held_back": 0}]
    (folder / "comparison.json").write_text(json.dumps({**DESCRIPTION, "failures": failures}))
    assert read(folder).rows == missing
    for name, count in {"demo": 3930, "steel_surfaces": 1740, "distill": 670}.items():
        results = Results.read(DOCUMENTED / name)
        assert len(results.rows) == count
        assert bool(results.confusions) is bool(results.diagnosis) is (name != "distill")
    assert len(read(VERSIONS / "0.1" / "comparison").rows) > 200


def test_names_of_skipped_images_stay_readable(tmp_path):
    """Older versions wrote them beside the numbers."""
    folder = write(tmp_path, checksums=False)
    line = "scratch,net,5,0,head,1,3,skipped,"
    edit(folder, "curves.csv", lambda text: f"{text}{line}count,1\n{line}images,\"['digits[3]', 'digits[4]']\"\n")
    assert len(read(folder).curve_lines) == 10


def test_repeated_rows_are_refused_before_they_are_averaged(tmp_path):
    folder = write(tmp_path, checksums=False)
    rows = [*rows_of(), replace(rows_of()[0], value=0.9)]
    write_tables.write(folder, Results(rows, curves=[]))
    assert "repeats line 2: scratch,net,5,0,head,validation,accuracy" in refusal(folder)
