import builtins
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.reports import figures
from ssl_transfer.reports.comparison import report

SCRIPT = "<script>alert(1)</script>"
COSTS = ("pretrain_seconds", "transfer_seconds", "images_seen", "peak_memory_mb", "num_parameters")

ARMS = ("scratch", "imagenet", "simclr", "imagenet+simclr")
PHASES = ("head", "finetune")


def result_rows(arms, labels, seeds, phases=PHASES) -> list[Row]:
    rows = []
    for number, arm in enumerate(arms):
        for budget in labels:
            for seed in seeds:
                key = {"arm": arm, "backbone": f"{arm}-net" if arm == SCRIPT else "net", "labels": budget, "seed": seed}
                for phase in (*phases, "chosen"):
                    for split in ("validation", "test"):
                        accuracy = 0.5 + 0.1 * number + 0.01 * seed * (1 + 0.1 * number)
                        rows.append(Row(**key, phase=phase, split=split, metric="accuracy", value=accuracy))
                        rows.append(Row(**key, phase=phase, split=split, metric="log_loss", value=1.0))
                rows += [Row(**key, phase="chosen", split="train", metric=name, value=1.0 + number) for name in COSTS]
    return rows


def curve_lines(arms, labels, seeds, phases=PHASES) -> list[dict]:
    return [
        {
            "arm": arm,
            "backbone": f"{arm}-net" if arm == SCRIPT else "net",
            "labels": budget,
            "seed": seed,
            "phase": phase,
            "epoch": 1,
            "step": step,
            "split": "validation",
            "metric": "accuracy",
            "value": min(1.0, 0.5 + 0.01 * step * (1 + number) + 0.001 * seed * number),
        }
        for number, arm in enumerate(arms)
        for budget in labels
        for seed in seeds
        for phase in phases
        for step in (10, 20)
    ]


def write_comparison(
    folder, arms=("scratch", "simclr"), labels=("5", "all"), seeds=(0, 1, 2), name="digits", phases=PHASES, plan=None
):
    rows, curves = (make(arms, labels, seeds, phases) for make in (result_rows, curve_lines))
    write_tables.write(folder, Results(rows, curves=curves))
    comparison = {
        "data": f"{name}: 10 train",
        "source": name,
        "image_size": 16,
        "data_fingerprint": "abc",
        "num_pool": 30,
        "backbones": {f"{name} net": {"name": "net", "stem": "small", "arguments": [name]}},
        "num_test": 40,
        "labels": list(labels),
        "images": {budget: [5 * 4**number, 5] for number, budget in enumerate(labels)},
        "num_classes": 2,
        "seeds": list(seeds),
        "pretrain_seeds": 1,
        "epochs": dict.fromkeys(arms, 3),
        "plan": {"finetune_rate": 0.1} if plan is None else plan,
    }
    environment = {
        "command": f"compare --data {name}",
        "devices": "CPU",
        "python": "3",
        "platform": "x",
        "packages": {"torch": "2"},
        "git_commit": "",
    }
    (folder / "comparison.json").write_text(json.dumps(comparison))
    (folder / "environment.json").write_text(json.dumps(environment))


def test_a_report_is_drawn_whole(tmp_path):
    write_comparison(tmp_path)
    (tmp_path / "summary.csv").unlink()
    report.draw(Results.read(tmp_path))
    for name in ("label_efficiency", "learning_curves", "cost"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "summary.csv").read_text().startswith("arm,backbone")
    markdown, page = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("md", "html"))
    for text in (markdown, page):
        assert "Yes: this pretrained network (simclr) helps" in text
        assert "51.0 [48.5, 53.5]" in text
        assert "+10.1 [+9.9, +10.3]" in text
    assert page.count("data:image/png;base64,") == 3
    # One file: nothing is fetched from elsewhere.
    assert 'src="http' not in page
    assert "<link" not in page


def test_one_arm_one_seed_one_budget(tmp_path):
    write_comparison(tmp_path, arms=("scratch",), labels=("all",), seeds=(0,))
    report.draw(Results.read(tmp_path))
    assert "[one seed]" in (tmp_path / "report.md").read_text()


def test_names_from_outside_are_escaped(tmp_path):
    write_comparison(tmp_path, arms=("scratch", SCRIPT), labels=("5", SCRIPT), name=SCRIPT)
    report.draw(Results.read(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    # Arms, labels, backbones, the source, the command: each stands there as text.
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    # In Markdown too, where only code may hold it as it is.
    assert "<script" not in re.sub(r"`[^`]*`", "", (tmp_path / "report.md").read_text())


def test_drawing_again_gives_the_same(tmp_path):
    write_comparison(tmp_path)
    report.draw(Results.read(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report.draw(Results.read(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_reads_each_table_once(owned, tmp_path, monkeypatch, capsys):
    """Page, pictures, verdict and terminal table share what was read."""
    write_comparison(tmp_path)
    opened: Counter[str] = Counter()
    plain = builtins.open

    def counting(file, mode="r", *arguments, **settings):
        if "r" in mode and Path(file).parent == tmp_path and not Path(file).name.startswith("."):
            opened[Path(file).name] += 1
        return plain(file, mode, *arguments, **settings)

    for place in (builtins, io):
        monkeypatch.setattr(place, "open", counting)
    report.main([str(tmp_path)])
    assert "report.html" in capsys.readouterr().out
    names = ("results.csv", "curves.csv", "test_hits.npz", "comparison.json", "environment.json")
    assert opened == dict.fromkeys(names, 1)


def test_the_table_is_shown(tmp_path, capsys):
    write_comparison(tmp_path)
    report.draw(Results.read(tmp_path))
    report.show(Results.read(tmp_path))
    said = capsys.readouterr().out
    assert "simclr" in said
    assert "report.html" in said


def test_a_collapsed_pretraining_is_said(tmp_path, capsys):
    write_comparison(tmp_path)
    report.draw(Results.read(tmp_path))
    report.show(Results.read(tmp_path))
    assert not any("Warning" in (tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert "Warning" not in capsys.readouterr().out
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    (tmp_path / "comparison.json").write_text(json.dumps({**comparison, "warnings": [f"mae collapsed {SCRIPT}"]}))
    report.draw(Results.read(tmp_path))
    report.show(Results.read(tmp_path))
    assert "**Warning:** mae collapsed &lt;script&gt;alert(1)&lt;/script&gt;" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "mae collapsed" in page
    assert SCRIPT not in page
    assert "Warning: mae collapsed" in capsys.readouterr().out


def test_a_folder_without_a_comparison_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no comparison\.json"):
        report.main([str(tmp_path)])
    with pytest.raises(ValueError, match="Which comparison"):
        report.main([])


def test_one_seed_is_said_in_the_table_too(tmp_path, capsys):
    write_comparison(tmp_path, seeds=(0,))
    report.show(Results.read(tmp_path))
    assert "[one seed]" in capsys.readouterr().out


def test_shares_are_budgets_too(tmp_path, capsys):
    write_comparison(tmp_path, labels=("0.1", "5", "all"))
    report.draw(Results.read(tmp_path))
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "10% of each class" in text
        assert "Budget 10%: 5 labelled images" in text
        assert "Budget 5: 20 labelled images" in text
        assert "at 10% of the labels" in text
    assert {row.labels for row in Results.read(tmp_path).rows} == {"0.1", "5", "all"}


def test_phases_of_any_number_and_name(tmp_path, capsys):
    phases = ("head", "last-1", "last-2", "full")
    write_comparison(tmp_path, phases=phases, plan={"phases": list(phases)})
    report.draw(Results.read(tmp_path))
    report.show(Results.read(tmp_path))
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "validation chose between its phases: head, last-1, last-2, full." in text
        assert "finetune" not in text.lower()
        # In the table of phases: two arms.
        assert text.count("last-2") == 1 + 2


def test_one_phase_leaves_nothing_to_choose(tmp_path):
    write_comparison(tmp_path, phases=("full",), plan={})
    report.draw(Results.read(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "## The phase" in text
    assert "validation chose" not in text


def test_the_benefits_of_transfer_are_in_the_report_and_in_a_table(tmp_path, owned, capsys):
    write_comparison(tmp_path)
    report.draw(Results.read(tmp_path))
    rows = (tmp_path / "transfer_benefits.csv").read_text().splitlines()
    assert rows[0].startswith("arm,backbone,labels,baseline,benefit,num_seeds,ours,theirs,difference")
    assert len(rows) == 1 + 2 * 3
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        # Scratch has 0.6 at the first measurement and 0.7 at the end, SimCLR 0.7 and 0.9 and a little more by seed.
        assert "+10.1 [+9.9, +10.3]" in text
        assert "+20.1 [+19.9, +20.3]" in text
        assert "first measured at step 10, when training had begun" in text
        # 0.63 is reached at step 20 by scratch, at step 10 by SimCLR.
        assert "10 instead of 20 (-10)" in text
    report.main([str(tmp_path), "--threshold", "0.65"])
    assert "threshold 0.650;" in (tmp_path / "report.md").read_text()
    with pytest.raises(ValueError, match="--threshold 65"):
        report.main([str(tmp_path), "--threshold", "65"])


def test_without_scratch_there_is_no_table_of_benefits(tmp_path):
    write_comparison(tmp_path, arms=("simclr", "mae"))
    report.draw(Results.read(tmp_path))
    assert "What transfer gave" not in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "transfer_benefits.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("phases", [("full",), PHASES, ("head", "last-1", "full")])
def test_every_table_of_the_markdown_stands_apart(tmp_path, phases):
    write_comparison(tmp_path, phases=phases)
    report.draw(Results.read(tmp_path))
    lines = (tmp_path / "report.md").read_text().splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith(("| arm", "| labels"))]
    # Accuracy, label values, phases, benefits, cost, where it pays, and the least differences.
    assert len(heads) == 7
    assert all(lines[number - 1] == "" and lines[number + 1].startswith("|---") for number in heads)


def test_what_goes_on_from_imagenet_shows_both_differences(tmp_path):
    write_comparison(tmp_path, arms=ARMS, labels=("5",))
    report.draw(Results.read(tmp_path))
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    # Accuracies rise by ten points from arm to arm. The first of an arm's lines is that of the main table.
    first = {arm: next(line for line in lines if line.startswith(f"| {arm} |")) for arm in ARMS}
    assert [first[arm].count("<br>") for arm in ARMS] == [0, 1, 1, 2]
    assert "**+30.3" in first["imagenet+simclr"]
    assert "**+20.2" in first["imagenet+simclr"]
    assert first["imagenet+simclr"].count(" to imagenet**") == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(" to imagenet</span>") == 1
    assert "imagenet+METHOD" in page


def test_pairs_are_told_apart():
    """64 of them by colour and marker; one that goes on from ImageNet by its line and an open marker."""
    plain = [(f"method{number}", "net") for number in range(64)]
    styles = figures.styles_of([*plain, *((f"imagenet+{arm}", backbone) for arm, backbone in plain)])
    assert len({(style.colour, style.marker) for style in styles.values()}) == 64
    assert len(set(styles.values())) == 128
    method, continued = styles["method3", "net"], styles["imagenet+method3", "net"]
    assert (method.colour, method.marker) == (continued.colour, continued.marker)
    assert (method.filled, continued.filled) == (True, False)
    assert method.dash != continued.dash


def test_what_labels_are_worth_is_in_the_report_and_in_a_table(tmp_path):
    write_comparison(tmp_path, labels=("5", "20", "all"))
    rows = Results.read(tmp_path).rows
    # Scratch gains ten points with each budget, and SimCLR is ten ahead of it.
    places = {"5": 0.0, "20": 0.1, "all": 0.2}
    write_tables.write(
        tmp_path,
        Results(
            [replace(row, value=row.value + places[row.labels]) for row in rows],
            curves=Results.read(tmp_path).curve_lines,
        ),
    )
    report.draw(Results.read(tmp_path))
    lines = (tmp_path / "label_value.csv").read_text().splitlines()
    assert lines[0].startswith("arm,backbone,labels,images_per_class,baseline,num_seeds,equals,equals_low,equals_high")
    assert len(lines) == 1 + 3
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "What the labels are worth" in text
        # 2.5, 10 and 40 images a class: four times the labels for ten points, and a little more.
        assert "simclr at 5 labels a class equals scratch with 10 [9.8, 10] labels a class." in text
        assert "more than 40 [39, more than 40]" in text
        assert "+3.1" in text


def test_a_comparison_of_an_older_version_has_no_label_values(tmp_path):
    write_comparison(tmp_path)
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    del comparison["num_classes"]
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    (tmp_path / "test_hits.npz").unlink()
    report.draw(Results.read(tmp_path))
    assert "What the labels are worth" not in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "label_value.csv").read_text().splitlines()) == 1


def test_one_seed_is_over_images_in_table_and_sentence(tmp_path, capsys):
    write_comparison(tmp_path, seeds=(0,), labels=("5",))
    rows = Results.read(tmp_path).rows
    hits = {
        (arm, "net", "5", "chosen", "accuracy"): {0: (np.arange(40) < share * 40).astype(np.uint8)}
        for arm, share in (("scratch", 0.5), ("simclr", 0.6))
    }
    write_tables.write(tmp_path, Results(rows, curves=Results.read(tmp_path).curve_lines, hits=hits))
    report.draw(Results.read(tmp_path))
    report.show(Results.read(tmp_path))
    for text in ((tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text(), capsys.readouterr().out):
        assert "] over images" in text
        assert "[one seed]" not in text.split("All phases")[0]
        assert "no interval over runs" in text
    for name in ("report.md", "report.html"):
        text = " ".join((tmp_path / name).read_text().split())
        assert (
            "One seed: intervals are over test images alone, by bootstrap; another draw of labels is not covered."
            in text
        )
        assert "Mean over 1" not in text
        assert "mean over 1" not in text
    # The interval leaves out zero, and has no colour all the same.
    assert "+10.0 [+2.5, +20.0] over images" in (tmp_path / "report.md").read_text()
    assert 'class="difference open"' in (tmp_path / "report.html").read_text()
    assert 'class="difference better"' not in (tmp_path / "report.html").read_text()
