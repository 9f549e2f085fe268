import pytest
import timm
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.weight_files import WeightFile
from ssl_transfer.methods.mae import MAE, METHOD, MAEConfig
from ssl_transfer.models import pretrained

SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
NUM_PATCHES = 64
"""Of 16 px images with patches of 2 px."""


def build(backbone, **settings) -> MAE:
    return MAE(backbone, MAEConfig(**{**SMALL, **settings}))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_patches_there_and_back(make_backbone, channels):
    method = build(make_backbone("transformer", channels=channels))
    images = torch.rand(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    patches = method.patchify(images)
    assert patches.shape == (2, NUM_PATCHES, 2 * 2 * channels)
    # Row 1, column 3 of the grid is patch 1 * 8 + 3; its pixels lie row by row, channels last.
    assert torch.equal(patches[0, 11], images[0, :, 2:4, 6:8].permute(1, 2, 0).flatten())
    assert torch.equal(method.unpatchify(patches), images)


@pytest.fixture
def oblong(make_backbone):
    """`oblong(4)`: MAE on images of four channels and 8 x 24 pixels in patches of 2 x 3, a grid of 4 x 8."""

    def make(channels=3, **settings) -> MAE:
        backbone = make_backbone("transformer", channels=channels)
        backbone.model = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=(8, 24),
            patch_size=(2, 3),
            in_chans=channels,
            num_classes=0,
            embed_dim=16,
            depth=2,
            num_heads=2,
        )
        return build(backbone, **settings)

    return make


@pytest.mark.parametrize("channels", [1, 4])
def test_patches_of_images_that_are_not_square(oblong, channels):
    method = oblong(channels)
    images = torch.rand(2, channels, 8, 24, generator=torch.Generator().manual_seed(0))
    patches = method.patchify(images)
    assert patches.shape == (2, 4 * 8, 2 * 3 * channels)
    # Row 2, column 5.
    assert torch.equal(patches[1, 2 * 8 + 5], images[1, :, 4:6, 15:18].permute(1, 2, 0).flatten())
    assert torch.equal(method.unpatchify(patches), images)


def test_images_that_are_not_square_are_encoded_and_painted(oblong):
    method = oblong(1).eval()
    images = torch.rand(2, 1, 8, 24, generator=torch.Generator().manual_seed(0))
    order = method.random_order(torch.arange(2))
    assert torch.equal(order.sort(dim=1).values, torch.arange(32).expand(2, -1))
    prefix, tokens = method.encode(images, order)
    expected = method.backbone.model.forward_features(images)
    assert torch.allclose(prefix, expected[:, :1], atol=1e-5)
    assert torch.allclose(tokens, expected[:, 1:].gather(1, order[:, :, None].expand(-1, -1, 16)), atol=1e-5)
    painted = method.decode(method.encode(images, order[:, :8])[1], order)
    assert painted.shape == (2, 24, 6)
    assert method.decoder_position.shape == (1, 32, 16)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_perfect_decoder_paints_the_image(make_backbone, make_batch, monkeypatch, normalize):
    """Undoing the normalisation gives back each patch's own mean and deviation: nothing but rounding is lost."""
    method, batch = (
        build(make_backbone("transformer", channels=4), normalize_target=normalize),
        make_batch(4, channels=4),
    )
    targets = []
    plain = method.target
    monkeypatch.setattr(method, "target", lambda *given: targets.append(plain(*given)) or targets[-1])
    method(batch)
    monkeypatch.setattr(method, "decode", lambda _encoded, _order: targets[0])
    found = METHOD.reconstruct(method, batch)
    assert torch.allclose(found.reconstructed, found.target, atol=1e-5)


def test_what_is_seen_and_painted(make_backbone, make_batch):
    method, batch = build(make_backbone("transformer")), make_batch(4)
    found = METHOD.reconstruct(method, batch)
    hidden = method.random_order(batch.keys)[:, 16:]
    covered = torch.zeros(4, NUM_PATCHES).scatter(1, hidden, 1.0)[:, :, None]
    seen, painted, target = (method.patchify(images) for images in found)
    assert torch.equal(seen, torch.where(covered > 0, 0.5, target))
    # Where it sees, the image; where it does not, something else.
    assert torch.equal(torch.where(covered > 0, 0.0, painted), torch.where(covered > 0, 0.0, target))
    assert (painted - target).abs().mean(dim=2).gather(1, hidden).min() > 1e-3


def test_a_size_that_patches_do_not_divide_is_refused(make_backbone):
    with pytest.raises(InputError, match=r"4 x 4 pixels, which do not divide 34.*--image-size"):
        build(make_backbone("transformer", size=34))


def test_targets_are_normalised_patch_by_patch(make_backbone):
    method = build(make_backbone("transformer"), noise_floor=0.0)
    images = 3.0 + 2.0 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    everything = torch.arange(NUM_PATCHES).expand(2, -1)
    target = method.target(images, everything)
    assert torch.allclose(target.mean(dim=2), torch.zeros(2, NUM_PATCHES), atol=1e-5)
    assert torch.allclose(target.std(dim=2), torch.ones(2, NUM_PATCHES), atol=1e-4)
    plain = build(make_backbone("transformer"), normalize_target=False)
    assert torch.equal(plain.target(images, everything), plain.patchify(images))
    assert torch.equal(method.target(images, everything[:, [5, 3]]), target[:, [5, 3]])


def test_a_nearly_constant_patch_counts_little(make_backbone):
    method = build(make_backbone("transformer"))
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, :2, :2] = 0.5 + 0.01 * images[:, :, :2, :2]
    size = method.target(images, torch.arange(NUM_PATCHES)[None]).square().mean(dim=2)[0]
    assert float(size[0]) < 0.02
    assert float(size[1:].min()) > 0.7


@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 16), (0.5, 32), (0.9, 6)])
def test_the_encoder_runs_on_visible_patches_only(make_backbone, make_batch, ratio, visible):
    method = build(make_backbone("transformer"), mask_ratio=ratio)
    lengths = []
    for block in method.backbone.model.blocks:
        block.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[1]))
    method(make_batch(4))
    # The class token goes with them.
    assert lengths == [visible + 1] * 2


def test_masks_are_a_function_of_the_key(make_backbone, make_batch):
    method = build(make_backbone("transformer"))
    keys = make_batch(8).keys
    orders = method.random_order(keys)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(NUM_PATCHES).expand(8, -1))
    assert len({tuple(order.tolist()) for order in orders}) == 8
    chosen = torch.tensor([6, 1])
    assert torch.equal(method.random_order(keys[chosen]), orders[chosen])


def test_every_patch_is_hidden_as_often_as_any_other(make_backbone):
    method = build(make_backbone("transformer"))
    hidden = method.random_order(torch.arange(4000))[:, 16:]
    share = torch.bincount(hidden.flatten(), minlength=NUM_PATCHES) / 4000
    # The deviation of a share of 0.75 in 4,000 is 0.007.
    assert (share - 0.75).abs().max() < 0.035


def test_the_loss_is_taken_on_hidden_patches_only(make_backbone, make_batch, monkeypatch):
    method = build(make_backbone("transformer"))
    batch = make_batch(4)
    order = method.random_order(batch.keys)

    def decode(encoded, given):
        assert torch.equal(given, order)
        assert encoded.shape[1] == 16
        return torch.full((4, NUM_PATCHES - 16, 12), 3.0)

    def target(_images, hidden):
        # Each place counts as its number.
        assert torch.equal(hidden, order[:, 16:])
        return hidden[:, :, None].expand(-1, -1, 12).float()

    monkeypatch.setattr(method, "decode", decode)
    monkeypatch.setattr(method, "target", target)
    expected = (order[:, 16:].float() - 3.0).square().mean()
    assert float(method(batch).loss) == pytest.approx(float(expected))


def test_hidden_pixels_do_not_reach_the_encoder(make_backbone, make_batch):
    method = build(make_backbone("transformer")).eval()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    order = method.random_order(make_batch(1).keys)
    patches = method.patchify(images)
    patches[0, order[0, 16:]] = 77.0
    for before, after in zip(
        method.encode(images, order[:, :16]), method.encode(method.unpatchify(patches), order[:, :16]), strict=True
    ):
        assert torch.equal(before, after)


def test_encoding_all_patches_is_timms_own_forward(make_backbone):
    method = build(make_backbone("transformer")).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = method.backbone.model.forward_features(images)
    order = method.random_order(torch.arange(2))
    prefix, tokens = method.encode(images, order)
    assert torch.allclose(prefix, expected[:, :1], atol=1e-5)
    places = order[:, :, None].expand(-1, -1, 16)
    assert torch.allclose(tokens, expected[:, 1:].gather(1, places), atol=1e-5)


@pytest.mark.parametrize("visible", [NUM_PATCHES, 16])
def test_the_decoder_puts_patches_back_where_they_were(make_backbone, visible):
    method = build(make_backbone("transformer"), decoder_width=12, decoder_heads=3)
    for name in ("decoder_embed", "decoder", "decoder_norm", "decoder_head"):
        setattr(method, name, nn.Identity())
    decoded = []
    method.decoder.register_forward_hook(lambda _module, _given, tokens: decoded.append(tokens))
    torch.nn.init.constant_(method.mask_token, 5.0)
    patches = torch.rand(2, NUM_PATCHES, 12, generator=torch.Generator().manual_seed(0))
    order = method.random_order(torch.arange(2))
    seen = patches.gather(1, order[:, :visible, None].expand(-1, -1, 12))
    expected = torch.full_like(patches, 5.0).scatter(1, order[:, :visible, None].expand(-1, -1, 12), seen)
    expected = expected + method.decoder_position
    painted = method.decode(seen, order)
    assert torch.allclose(decoded[0], expected, atol=1e-6)
    # Of these the hidden ones, in the order's order.
    assert torch.equal(painted, decoded[0].gather(1, order[:, visible:, None].expand(-1, -1, 12)))


def test_decoder_positions_differ_and_are_not_learned(make_backbone):
    method = build(make_backbone("transformer"))
    assert method.decoder_position.shape == (1, NUM_PATCHES, 16)
    distances = torch.cdist(method.decoder_position[0], method.decoder_position[0]) + torch.eye(NUM_PATCHES)
    assert float(distances.min()) > 0.1
    assert "decoder_position" not in dict(method.named_parameters())


def test_the_export_loads_strictly_into_timms_plain_transformer(make_backbone, make_batch, tmp_path):
    method = build(make_backbone("transformer"))
    method(make_batch(4)).loss.backward()
    pretrained.export(method.backbone, tmp_path, {})
    loaded = pretrained.from_export(WeightFile(tmp_path, "backbone"))
    plain = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    plain.load_state_dict(loaded.model.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = plain.eval().forward_features((images - 0.5) / 0.25)
    assert torch.allclose(method.backbone.eval()(images), expected[:, 1:].mean(dim=1), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mask_ratio": 0.0}, "mask_ratio"), ({"mask_ratio": 1.0}, "mask_ratio"), ({"decoder_heads": 3}, "decoder_width")],
)
def test_impossible_settings_are_refused(make_backbone, settings, message):
    with pytest.raises(InputError, match=message):
        build(make_backbone("transformer"), **settings)


def test_the_mask_token_is_not_decayed(make_backbone):
    method = build(make_backbone("transformer"))
    assert method.undecayed() == {"mask_token"}
    assert method.undecayed() <= {name for name, _ in method.named_parameters()}
