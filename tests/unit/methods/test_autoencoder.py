import pytest
import torch

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.autoencoder import METHOD, Autoencoder, AutoencoderConfig

UNCHANGED = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)


def build(backbone, **settings) -> Autoencoder:
    return Autoencoder(backbone, AutoencoderConfig(**{"decoder_width": 16, "augment": UNCHANGED, **settings}))


def test_noise_has_the_deviation_asked_for(make_backbone, make_batch):
    method = build(make_backbone(), noise=0.3)
    keys = make_batch(64).keys
    noise = method.corrupt(torch.zeros(64, 3, 16, 16), keys)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noise.mean())) < 0.01
    assert torch.equal(method.corrupt(torch.zeros(2, 3, 16, 16), keys[3:5]), noise[3:5])


def test_squares_are_hidden_in_the_share_asked_for(make_backbone, make_batch):
    method = build(make_backbone(), mask_ratio=0.4)
    keys = make_batch(400).keys
    seen = method.corrupt(torch.ones(400, 3, 16, 16), keys)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    # The deviation of a share of 0.4 in 6,400 squares is 0.006.
    assert float((seen == 0.0).float().mean()) == pytest.approx(0.4, abs=0.03)
    squares = seen.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    assert torch.equal(squares.amin(dim=3), squares.amax(dim=3))
    assert torch.equal(method.corrupt(torch.ones(2, 3, 16, 16), keys[3:5]), seen[3:5])


def test_the_plain_autoencoder_sees_the_image_as_it_is(make_backbone, make_batch):
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(build(make_backbone()).corrupt(images, make_batch(4).keys), images)


def test_the_target_is_the_clean_image(make_backbone, make_batch):
    method = build(make_backbone(), noise=1.0, mask_ratio=0.5)
    batch = make_batch(8)
    clean = method.backbone.normalize(batch.images)
    inputs = []
    method.backbone.model.register_forward_hook(lambda _module, given, _output: inputs.append(given[0]))
    method.decoder.register_forward_hook(lambda _module, _given, _output: clean)
    loss = float(method(batch).loss)
    assert loss < 1e-9
    assert (inputs[0] - clean).square().mean() > 0.1


def test_the_loss_is_the_mean_squared_error(make_backbone, make_batch):
    method = build(make_backbone())
    batch = make_batch(8)
    method.decoder.register_forward_hook(lambda _module, _given, output: torch.zeros_like(output))
    clean = method.backbone.normalize(batch.images)
    assert float(method(batch).loss) == pytest.approx(float(clean.square().mean()), rel=1e-5)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (20, 3), (24, 4), (56, 1)])
def test_the_painted_image_has_the_images_size(make_backbone, make_batch, size, channels):
    method = build(make_backbone(channels=channels, size=size))
    painted = method.decoder(torch.zeros(2, 16))
    assert painted.shape[1] == channels
    assert size <= painted.shape[2] < 2 * size
    assert torch.isfinite(method(make_batch(4, channels=channels, size=size)).loss)


def test_the_code_is_what_the_backbone_hands_on(make_backbone, make_batch):
    method = build(make_backbone()).eval()
    batch = make_batch(4)
    codes = []
    method.decoder.register_forward_hook(lambda _module, given, _output: codes.append(given[0]))
    method(batch)
    assert torch.allclose(codes[0], method.backbone(batch.images), atol=1e-5)


def test_a_transformers_code_is_its_pooled_tokens(make_backbone, make_batch):
    method, batch = build(make_backbone("transformer")).eval(), make_batch(4)
    codes = []
    method.decoder.register_forward_hook(lambda _module, given, _output: codes.append(given[0]))
    method(batch).loss.backward()
    tokens = method.backbone.model.forward_features(method.backbone.normalize(batch.images))
    assert torch.allclose(codes[0], tokens[:, 1:].mean(dim=1), atol=1e-5)
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(("size", "doublings", "side"), [(32, 3, 4), (64, 4, 4), (96, 4, 6), (224, 5, 7)])
def test_the_decoder_grows_from_a_small_map(make_backbone, size, doublings, side):
    method = Autoencoder(make_backbone(size=size), AutoencoderConfig())
    upsamplings = [module for module in method.decoder if isinstance(module, torch.nn.Upsample)]
    widths = [module.out_channels for module in method.decoder if isinstance(module, torch.nn.Conv2d)]
    assert len(upsamplings) == doublings
    assert method.decoder[1].unflattened_size == (128, side, side)
    # Each doubling halves the channels, down to 16.
    assert widths == [*[64, 32, 16, 16, 16][:doublings], 3]


@pytest.mark.parametrize("settings", [{}, {"noise": 0.5}, {"mask_ratio": 0.5}])
def test_what_is_seen_and_painted(make_backbone, make_batch, settings):
    method, batch = build(make_backbone(), **settings).eval(), make_batch(8)
    found = METHOD.reconstruct(method, batch)
    assert torch.allclose(found.target, batch.images, atol=1e-6)
    assert torch.equal(found.seen, found.target) == (not settings)
    assert found.reconstructed.shape == batch.images.shape
    # The loss is that of this picture, in deviations of the data set.
    error = ((found.reconstructed - found.target) / 0.25).square().mean()
    assert float(method(batch).loss.detach()) == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("settings", [{"noise": -0.1}, {"mask_ratio": 1.0}, {"mask_ratio": -0.1}])
def test_impossible_settings_are_refused(make_backbone, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        build(make_backbone(), **settings)
