import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

import ssl_transfer
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods import METHODS
from ssl_transfer.stages.compare import compare
from ssl_transfer.stages.compare.compare import CompareConfig
from ssl_transfer.stages.pretrain import config as pretraining

PACKAGE = Path(ssl_transfer.__file__).parent


def parse_compare(settings: dict, *flags: str) -> CompareConfig:
    return configuration.parse(CompareConfig, settings, flags, program="compare", default=CompareConfig())


def pretrain_default(name: str):
    recipe = pretraining.default_recipe(name)
    return pretraining.PretrainConfig[METHODS[name].config](**configuration.shallow(recipe))


def parse_pretrain(name: str, settings: dict, *flags: str):
    default = pretrain_default(name)
    kind = pretraining.PretrainConfig[METHODS[name].config]
    return configuration.parse(kind, settings, flags, program="pretrain", default=default)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


COMPARE_FLAGS = (
    *("--arms", "scratch", "mae", "--labels", "2", "all", "--seeds", "3", "4", "--epochs", "7"),
    *("--backbone.name", "resnet10t", "--backbone.arguments", "stem_type=", "channels=(8,8,16,16)"),
    *("--simclr.optimizer.learning-rate", "3e-4", "--simclr.method.augment.crop-scale", "0.5", "1.5"),
    *("--moco.method.no-symmetric", "--mixed-precision", "no", "--fresh", "--transfer.augment.padding", "zeros"),
    *("--output", "runs/elsewhere", "--loading.cache", "elsewhere/cache"),
)


@pytest.mark.parametrize("flags", [(), COMPARE_FLAGS])
def test_compare_round_trip(tmp_path, flags):
    config = parse_compare({}, *flags)
    dumped = configuration.dump(compare._settings(config))
    again = parse_compare(configuration.read_yaml(write(tmp_path / "config.yaml", dumped)))
    assert again == config
    assert configuration.dump(compare._settings(again)) == dumped


@pytest.mark.parametrize("name", METHODS)
def test_pretrain_round_trip(tmp_path, name):
    flags = ("--epochs", "3", "--optimizer.learning-rate", "3e-4", "--method.augment.flip", "0", "--seed", "5")
    config = parse_pretrain(name, {}, *flags, "--mixed-precision", "bf16", "--backbone.stem", "small")
    dumped = configuration.dump(pretraining.settings_of(config))
    settings = configuration.read_yaml(write(tmp_path / "config.yaml", dumped))
    assert settings["method"].pop("name") == name
    assert parse_pretrain(name, settings) == config


def test_values_of_a_file_stay_verbatim(tmp_path):
    text = """
    data: no
    mixed_precision: no
    output: null
    fresh: true
    optimizer: {learning_rate: 3e-4, weight_decay: 1E-2}
    method:
      symmetric: false
      augment:
        crop_scale: [0.6, 1.6]
    backbone:
      name: resnet10t
      arguments: ['stem_type=', stem_width=8, zero_init_last=False]
    """
    settings = configuration.read_yaml(write(tmp_path / "config.yaml", text))
    assert settings["optimizer"]["learning_rate"] == "3e-4"
    assert settings["data"] == "no"
    config = parse_pretrain("moco", settings)
    assert (config.data, config.mixed_precision, config.output, config.fresh) == ("no", "no", None, True)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (3e-4, 1e-2)
    assert config.method.symmetric is False
    assert config.method.augment.crop_scale == (0.6, 1.6)
    assert config.backbone.arguments == ("stem_type=", "stem_width=8", "zero_init_last=False")


def test_null_takes_back_a_value(tmp_path):
    settings = configuration.read_yaml(write(tmp_path / "config.yaml", "epochs: null\nimagenet_weights: ~\n"))
    config = parse_compare(settings)
    assert config.epochs is None
    assert config.imagenet_weights is None


def test_flags_win_over_the_file(tmp_path):
    path = write(tmp_path / "config.yaml", "epochs: 5\nfresh: true\nseed: 9\nbackbone: {stem: small}\n")
    settings, rest = configuration.take_config(["--epochs", "6", "--config", str(path), "--no-fresh"])
    assert rest == ["--epochs", "6", "--no-fresh"]
    config = parse_pretrain("simclr", settings, *rest)
    assert (config.epochs, config.fresh, config.seed, config.backbone.stem) == (6, False, 9, "small")
    assert configuration.take_config([f"--config={path}"]) == (settings, [])


def test_unknown_names_exit_2(capsys):
    for settings, flags in (({"epoch": "3"}, ()), ({}, ("--backbone.nam", "resnet18")), ({"epochs": "many"}, ())):
        with pytest.raises(SystemExit) as stop:
            parse_pretrain("simclr", settings, *flags)
        assert stop.value.code == 2
    assert "--config file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        configuration.read_yaml(write(tmp_path / "config.yaml", text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        configuration.read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="needs the path"):
        configuration.take_config(["--config"])


def test_a_file_cannot_run_code(tmp_path):
    text = "data: !!python/object/apply:os.mkdir ['made']\n"
    settings = configuration.read_yaml(write(tmp_path / "config.yaml", text))
    assert settings == {"data": ["made"]}


def test_flatten_and_fingerprint():
    assert configuration.flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
    config = CompareConfig()
    assert configuration.fingerprint(config) == configuration.fingerprint(CompareConfig())
    assert configuration.fingerprint(config) != configuration.fingerprint(dataclasses.replace(config, jobs=2))


def config_classes() -> dict[str, list[tuple[str, bool]]]:
    """Each configuration dataclass in the sources: its fields, and whether a docstring follows the field."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Recipe")):
                fields = []
                for here, after in zip(node.body, [*node.body[1:], None], strict=True):
                    if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
                        told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                        fields.append((here.target.id, told))
                found[node.name] = fields
    return found


def code_without_checks(path: Path) -> str:
    """The code of a file without `__post_init__`: a setting that is only checked is not read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [item for item in node.body if getattr(item, "name", "") != "__post_init__"]
    return ast.unparse(tree)


def test_every_setting_has_help_and_is_read():
    classes = config_classes()
    assert len(classes) >= 14
    code = "\n".join(map(code_without_checks, PACKAGE.rglob("*.py")))
    checked = 0
    for name, fields in classes.items():
        for field, told in fields:
            assert told, f"{name}.{field} has no docstring, which would be its help"
            assert re.search(rf"\.{field}\b", code), f"{name}.{field} is read nowhere"
            checked += 1
    assert checked >= 80


def test_docstrings_are_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_pretrain("mae", {}, "--help")
    assert stop.value.code == 0
    text = " ".join(re.sub(r"[^\w.-]+", " ", capsys.readouterr().out).split())
    for sentence in ("Share of the patches that the encoder does not see", "Pixels a side of the models input"):
        assert sentence in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epochs: 3\nrate: 3e-4\nnames: [no, 'x', ~]\nat: 2020-01-01\n",
        "a: &x {b: 1}\nc: *x\n",
        f"name: {'ü' * 300}\n",
        "a: " + "[" * 60 + "]" * 60,
    ],
    ids=["empty", "plain", "anchors", "long line", "nested"],
)
def test_settings_of_a_run_are_parsed_as_yaml(text):
    assert configuration.load(text) == yaml.safe_load(text)
    settings = {"a": {"b": [1, 2.5, "x", None, True]}, "c": "3e-4", "d": "no"}
    assert configuration.load(configuration.dump(settings)) == settings


@pytest.mark.parametrize("text", ["a: [1\n", "a: b: c\n", "\0", "a: !!python/object:os.system x"])
def test_damaged_settings_have_one_message(text):
    """Whichever parser found the damage."""
    said = []
    for parse in (configuration.load, yaml.safe_load):
        with pytest.raises(yaml.YAMLError) as caught:
            parse(text)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000 + "x", "{a: " * 100_000])
def test_settings_without_end_are_refused(text):
    """The parser in C would end the process."""
    with pytest.raises(RecursionError):
        configuration.load(text)
