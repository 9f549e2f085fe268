from pathlib import Path

import pytest

from ssl_transfer.data.sources.label import data_label
from ssl_transfer.engine.errors import InputError

ROWS = [(f"photos/{index}.png", "ant" if index % 2 else "bee", f"p{index // 4}") for index in range(24)]


@pytest.fixture
def table(root, scatter):
    """`table(header, rows, name)`: a table above 24 images, 4 of each of 6 patients; its DATA string."""

    def call(header="path,label,patient", rows=ROWS, name="labels.csv") -> str:
        for index in range(24):
            scatter(root / "photos" / f"{index}.png", index)
        text = "\n".join([header, *(",".join(map(str, row)) for row in rows)])
        (root / name).write_text(text.replace(",", "\t") if name.endswith("tsv") else text)
        return f"folder:{root / name}"

    return call


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("folder:a/labels.csv", "a-labels.csv"),
        ("folder:/pictures/b/labels.parquet", "b-labels.parquet"),
        ("folder:labels.csv", "labels.csv"),
        ("folder:a/photographs", "photographs"),
        ("npz:a/bands.npz", "bands.npz"),
        ("digits", "digits"),
    ],
)
def test_tables_of_one_name_have_folders_of_their_own(source, label):
    """Of two checks the second wrote over the first."""
    assert data_label(source) == label


def test_a_table_of_labels(load, table):
    data = load(table())
    assert data.classes == ("ant", "bee")
    assert {name: len(index) for name, index in data.splits.items()}["unlabeled"] == 0
    assert all(data.classes[int(label)] == ROWS[index][1] for index, label in enumerate(data.labels))
    assert data.names[3] == "photos/3.png"


@pytest.mark.parametrize("name", ["labels.tsv", "labels.csv"])
def test_other_names_of_columns_and_splits(load, table, name):
    rows = [(file, label, ("train", "train", "val", "test")[index % 4]) for index, (file, label, _) in enumerate(ROWS)]
    rows += [(ROWS[0][0].replace("0", "1"), "", "")][:0]
    data = load(table("filename,class,split", rows, name))
    assert {split: len(index) for split, index in data.splits.items()} == {
        "unlabeled": 0,
        "train": 12,
        "validation": 6,
        "test": 6,
    }


def test_a_table_of_another_encoding_says_so(load, table, root):
    source = table()
    content = (root / "labels.csv").read_text().replace("ant", "bärin")
    (root / "labels.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="Save the table as UTF-8"):
        load(source)


def test_rows_without_a_label_are_the_pool(load, table):
    rows = [(file, label if index < 16 else "", "") for index, (file, label, _) in enumerate(ROWS)]
    assert len(load(table(rows=rows)).splits["unlabeled"]) == 8


def test_parquet(load, root, scatter):
    import pyarrow
    from pyarrow import parquet

    for index in range(24):
        scatter(root / "photos" / f"{index}.png", index)
    columns = {"path": [row[0] for row in ROWS], "label": [row[1] for row in ROWS], "age": list(range(24))}
    parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    assert len(load(f"folder:{root / 'labels.parquet'}").pixels) == 24


def patients(data, part: str) -> set[str]:
    return {ROWS[index][2] for index in data.splits[part].tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_a_column_keeps_patients_together(load, table, seed):
    data = load(table(), group_by="patient", split_seed=seed)
    sides = [patients(data, part) for part in ("train", "validation", "test")]
    assert sum(map(len, sides)) == 6
    assert len(set.union(*sides)) == 6


def test_a_pattern_does_the_same(load, table):
    rows = [(file, label) for file, label, _ in ROWS]
    data = load(table("path,label", rows), group_by=r"photos/(\d)\d?\.png$")
    first = [{Path(data.names[i]).name[0] for i in data.splits[part].tolist()} for part in ("train", "test")]
    assert not first[0] & first[1]


def test_places_on_a_map_keep_squares_together(load, table):
    rows = [(file, label, index // 4 * 100 + index, 7) for index, (file, label, _) in enumerate(ROWS)]
    data = load(table("path,label,x,y", rows), group_by="x,y", block=50)
    squares = [{rows[i][2] // 50 for i in data.splits[part].tolist()} for part in ("train", "validation", "test")]
    assert len(set.union(*squares)) == sum(map(len, squares))


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("photo,label", [("photos/0.png", "ant")], "no column `path`; there are photo, label"),
        ("path,label", [("photos/99.png", "ant"), ("photos/0.png", "bee")], "1 of 2 files are not there"),
        ("path,label", [("../secret.png", "ant"), ("photos/0.png", "bee")], r"\.\./secret.png lies outside"),
        ("path,label", [("photos/../../secret.png", "ant"), ("photos/0.png", "bee")], "secret.png lies outside"),
        ("path,label", [("/etc/secret.png", "ant"), ("photos/0.png", "bee")], "/etc/secret.png lies outside"),
        (
            "path,label",
            [("photos/0.png", "ant", "more"), ("photos/1.png", "bee")],
            "row 2 has another number of fields",
        ),
        ("path,label,split", [("photos/0.png", "ant", "trian")], "'trian' is not a part"),
        ("path,label,split", [("photos/0.png", "", "train")], "has no label but the split train"),
        ("path,label", [], "no rows"),
    ],
)
def test_tables_that_do_not_fit(load, table, header, rows, message):
    with pytest.raises(InputError, match=message):
        load(table(header, rows))


def test_a_link_that_the_owner_of_the_folder_made_is_followed(load, table, root, scatter):
    source = table()
    scatter(root.parent / "elsewhere" / "linked.png", 99)
    (root / "photos" / "0.png").unlink()
    (root / "photos" / "0.png").symlink_to(root.parent / "elsewhere" / "linked.png")
    assert len(load(source).names) == 24


def test_a_parquet_table_reaches_nothing_outside_either(load, root, scatter):
    import pyarrow
    from pyarrow import parquet

    scatter(root.parent / "secret.png", 0)
    scatter(root / "0.png", 1)
    for path in ("../secret.png", str(root.parent / "secret.png")):
        parquet.write_table(pyarrow.table({"path": [path, "0.png"], "label": ["ant", "bee"]}), root / "labels.parquet")
        with pytest.raises(InputError, match=r"secret\.png lies outside"):
            load(f"folder:{root / 'labels.parquet'}")


def test_an_unknown_column_is_named(load, table):
    with pytest.raises(InputError, match="the table has the columns patient"):
        load(table(), group_by="patent")


def test_a_missing_table(load, root):
    with pytest.raises(InputError, match="no such file"):
        load(f"folder:{root / 'none.csv'}")
