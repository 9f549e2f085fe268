"""Build a plain convolutional network, the baseline of many projects.

Six 3 x 3 convolutions (two of 128, two of 256, two of 512 channels), each with BatchNorm and ReLU, maximum pooling
after the first and the second pair, average pooling over the last map, and a layer of 128. With one logit and three
input channels it has 4,645,761 trained parameters, and BatchNorm keeps 3,584 statistics.

Shapes: B images, C channels, S pixels a side.
"""

from torch import Tensor, nn

WIDTHS = (128, 256, 512)
NUM_FEATURES = 128


class SimpleCnn(nn.Module):
    """Compute features by six convolutions and a hidden layer."""

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, width) in enumerate(zip((in_chans, *WIDTHS), WIDTHS, strict=False)):
            if number:
                layers.append(nn.MaxPool2d(2))
            for given in (before, width):
                layers += [nn.Conv2d(given, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(WIDTHS[-1], NUM_FEATURES)
        self.activation = nn.ReLU(inplace=True)

    def forward_features(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) to maps (B, 512, S // 4, S // 4)."""
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) to features (B, 128)."""
        return self.activation(self.hidden(self.pool(self.forward_features(images)).flatten(1)))
