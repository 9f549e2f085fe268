import pytest
import torch

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError


@pytest.mark.parametrize(
    "settings", [{"test_fraction": 1.0}, {"validation_fraction": 0.0}, {"max_unreadable": -0.1}, {"test_fraction": 0.0}]
)
def test_impossible_shares_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        LoadingConfig(**settings)


def test_statistics_are_those_of_the_pool(make_dataset):
    data = make_dataset()
    mean, deviation = data.statistics()
    values = data.pixels[data.pool].double() / 255.0
    assert torch.allclose(torch.tensor(mean).double(), values.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(torch.tensor(deviation).double(), values.std(dim=(0, 2, 3), correction=0), atol=1e-6)
    other = make_dataset()
    other.pixels[torch.cat([other.splits["validation"], other.splits["test"]])] = 0
    assert other.statistics() == (mean, deviation)


def test_blank_images_are_an_error(make_dataset):
    data = make_dataset(channels=1)
    data.pixels[:] = 7
    with pytest.raises(InputError, match="all of one colour"):
        data.statistics()
