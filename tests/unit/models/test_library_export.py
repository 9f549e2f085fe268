"""A backbone with a head as a model of timm or torchvision: built anew by its lines, it gives the same scores."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig, first_blocks
from ssl_transfer.models.classifier import Classifier, Scoring
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.models.library_export import library_model


def with_head(backbone: Backbone, num_classes: int = 4, **settings) -> Classifier:
    torch.manual_seed(1)
    head = make_head(HeadConfig(**settings), backbone, num_classes).eval()
    head.scale.fill_(0.4)
    torch.nn.init.normal_(head.layers[-1].weight)
    torch.nn.init.normal_(head.layers[-1].bias)
    return Classifier(backbone.eval(), head, torch.arange(num_classes))


def assert_same(backbone: Backbone, classifier: Classifier | None, folder: Path) -> None:
    """The model that the lines build takes the state strictly and gives what the run's own gives."""
    found = library_model(backbone, classifier)
    script = folder / "build.py"
    script.write_text("\n".join(found.lines))
    built = runpy.run_path(str(script))["model"].eval()
    built.load_state_dict(found.model.state_dict())
    spec = backbone.spec
    images = torch.rand(2, spec.in_chans, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = Scoring(backbone.eval(), classifier)(images)
        outputs = built(backbone.normalize(images))
    assert outputs.shape == expected.shape
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("headed", [True, False])
def test_every_family(family: str, make_family: Callable[..., Backbone], tmp_path: Path, headed: bool) -> None:
    backbone = make_family(family)
    classifier = with_head(backbone) if headed else None
    if family == "simple_cnn":
        with pytest.raises(InputError, match="is a network of this project"):
            library_model(backbone, classifier)
        return
    assert_same(backbone, classifier, tmp_path)


@pytest.mark.parametrize(
    ("name", "num_changes"),
    [
        ("resnet18", 2),
        ("mobilenetv3_small_050", 1),
        ("torchvision/resnet18", 2),
        ("torchvision/mobilenet_v2", 1),
        ("vit_tiny_patch16_224", 0),
    ],
)
def test_the_small_stem_of_grey_images(tmp_path: Path, name: str, num_changes: int) -> None:
    config = BackboneConfig(name=name, stem="small")
    spec = backbones.make_spec(config, in_chans=1, image_size=16, mean=(0.3,), std=(0.2,))
    backbone = pretrained.scratch(spec, seed=0)
    found = library_model(backbone, with_head(backbone))
    # Fewer lines where the constructor takes the change as an argument.
    assert len(found.changes) == num_changes
    assert_same(backbone, with_head(backbone), tmp_path)


def test_one_logit_becomes_two_and_classes_keep_their_order(make_backbone: Callable, tmp_path: Path) -> None:
    backbone = make_backbone()
    assert_same(backbone, with_head(backbone, 2, one_logit=True, dropout=0.5), tmp_path)
    turned = replace(with_head(backbone), order=torch.tensor([2, 0, 3, 1]))
    assert_same(backbone, turned, tmp_path)
    plain = library_model(backbone, with_head(backbone)).model.state_dict()["fc.bias"]
    assert torch.equal(library_model(backbone, turned).model.state_dict()["fc.bias"], plain[[2, 0, 3, 1]])


@pytest.mark.parametrize("settings", [{"kind": "hidden"}, {"kind": "flatten-256"}, {"pooling": "average"}])
def test_other_heads_are_refused(make_backbone: Callable, settings: dict) -> None:
    backbone = make_backbone()
    with pytest.raises(InputError, match="which no model of timm or torchvision has"):
        library_model(backbone, with_head(backbone, **settings))


def test_what_no_library_builds_is_refused(make_backbone: Callable) -> None:
    with pytest.raises(InputError, match="keeps only some blocks"):
        library_model(first_blocks(make_backbone(), 2), None)
    spec = backbones.make_spec(
        BackboneConfig(name="torchvision/squeezenet1_1"), in_chans=3, image_size=64, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    backbone = pretrained.scratch(spec, seed=0)
    with pytest.raises(InputError, match="classifies there by no linear layer"):
        library_model(backbone, with_head(backbone))
