import pytest
import torch
from torch import nn

from ssl_transfer.cli import main
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files
from ssl_transfer.models import pretrained
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.stages.summary import SummaryConfig, summarize, summary

ONE_LOGIT = HeadConfig(one_logit=True)


def test_vgg16_with_a_flattening_head(make_family):
    for name in ("vgg16", "torchvision/vgg16"):
        backbone = make_family(name)
        phases = [("head", "head"), ("partial", "from:features.24"), ("last", "last:1"), ("everything", "all")]
        result = summarize(backbone, make_head(HeadConfig(kind="flatten-256", one_logit=True), backbone, 2), phases)
        assert result.num_parameters == 14_846_273
        assert result.num_statistics == 0
        assert result.num_trained == {
            "head": 131_585,
            "partial": 7_211_009,
            "last": 7_211_009,
            "everything": 14_846_273,
        }
        assert [row.shape for row in result.rows] == [
            *((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1), (1,))
        ]


def test_mobilenet_with_one_logit(make_family):
    backbone = make_family("torchvision/mobilenet_v2")
    phases = [("head", "head"), ("partial", "from:features.12.conv.1")]
    result = summarize(backbone, make_head(ONE_LOGIT, backbone, 2), phases)
    assert result.num_parameters + result.num_statistics == 2_259_265
    assert result.num_statistics == 34_112
    assert result.num_trained == {"head": 1_281, "partial": 1_862_721}
    rows = {row.name: row for row in result.rows}
    assert (rows["features.11"].num_trained, rows["head"].num_trained) == ((0, 0), (1_281, 1_281))
    assert 0 < rows["features.12"].num_trained[1] < rows["features.12"].num_parameters


def test_the_simple_network_with_one_logit(make_family):
    backbone = make_family("simple_cnn")
    result = summarize(backbone, make_head(ONE_LOGIT, backbone, 2), [("all", "all")])
    assert result.num_parameters + result.num_statistics == 4_649_345
    assert result.num_trained == {"all": 4_645_761}


def test_a_heads_own_buffers_are_no_statistics(make_family):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))
            self.linear = nn.Linear(512, 3)

    result = summarize(make_family("resnet18"), Scaled(), [("head", "head")])
    assert result.rows[-1].num_parameters == 1_539
    assert result.rows[-1].num_statistics == 0


def test_counting_changes_nothing(make_family):
    backbone = make_family("resnet18")
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    summarize(backbone, nn.Linear(512, 2), [("last", "last:1")])
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.modules())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_the_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    flags = ["--image-size", "32", "--head.kind", "flatten-256", "--head.one-logit"]
    flags += ["--plan", "partial", "from:features.24"]
    main.main(["summary", "vgg16", *flags])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    block = next(line for line in lines if line.startswith("features.24 "))
    assert block.split() == ["features.24", "512", "x", "1", "x", "1", "7,079,424", "frozen", "trained"]
    assert "14,846,273 parameters" in lines
    assert lines[-2:] == [
        "phase head (head): 131,585 trained",
        "phase finetune (from:features.24): 7,211,009 trained",
    ]


def test_long_names_leave_room_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main.main(["summary", "densenet121", "--image-size", "32", "--plan", "partial"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  denselayer16" in [line.rstrip() for line in lines]


def test_a_runs_folder(make_backbone, tmp_path, capsys):
    pretrained.export(make_backbone("transformer", channels=1), tmp_path / "backbone", {})
    result = summary(SummaryConfig(path=str(tmp_path), classes=4))
    assert [row.name for row in result.rows] == ["stem", "blocks.0", "blocks.1", "head"]
    assert "1 x 16 x 16" in capsys.readouterr().out
    with pytest.raises(InputError, match="Leave those flags out"):
        summary(SummaryConfig(path=str(tmp_path), image_size=32))


def test_a_run_with_a_head_is_shown_with_it(make_backbone, tmp_path, capsys):
    backbone, held = make_backbone("transformer", channels=1), HeadConfig(kind="hidden")
    pretrained.export(backbone, tmp_path / "backbone", {})
    description = {"classes": list("abcd"), "head": configuration.to_dict(held)}
    weight_files.save_weights(tmp_path / "head", "head", make_head(held, backbone, 4).state_dict(), description)
    own = summary(SummaryConfig(path=str(tmp_path)))
    assert own.rows[-1].shape == (4,)
    asked = summary(SummaryConfig(path=str(tmp_path), classes=3))
    assert asked.rows[-1].shape == (3,)
    bare = summary(SummaryConfig(path=str(tmp_path / "backbone")))
    assert bare.rows[-1].shape == (2,)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("head") and "score" in line]
    assert told == ["head hidden, 4 scores", "head linear, 3 scores", "head linear, 2 scores"]


def test_phases_that_train_the_same_are_told_apart():
    result = summary(SummaryConfig(path="simple_cnn", image_size=16, plan=("all", "all rate=1e-4")))
    assert list(result.num_trained) == ["finetune-1", "finetune-2"]


def test_a_plan_that_drops_blocks_counts_those_that_stay():
    whole = summary(SummaryConfig(path="simple_cnn", image_size=16))
    short = summary(SummaryConfig(path="simple_cnn", image_size=16, plan=("low-level", "2")))
    assert [row.name for row in short.rows] == [*(row.name for row in whole.rows[:2]), "head"]
    assert [row.num_parameters for row in short.rows[:2]] == [row.num_parameters for row in whole.rows[:2]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "Which backbone"),
        ({"path": "resnet81"}, "no such model"),
        ({"path": "simple_cnn", "classes": 1}, "classes 1"),
        ({"path": "simple_cnn", "plan": ("partial", "last:9")}, "has 4 blocks"),
        ({"path": "simple_cnn", "plan": ("parzial",)}, "Did you mean partial"),
    ],
)
def test_mistakes_are_told(settings, message):
    with pytest.raises(InputError, match=message):
        summary(SummaryConfig(image_size=16, **settings))
