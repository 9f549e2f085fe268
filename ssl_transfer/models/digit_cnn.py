"""Build the feature extractor of DANN's authors for digits of 28 px.

Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, figure 4a: a 5 x 5 convolution of
32 maps, ReLU, 2 x 2 maximum pooling, a 5 x 5 convolution of 48 maps, ReLU, pooling, without BatchNorm. Its features are
the last maps, flattened: 2,352 at 28 px. Label predictor (`--head.kind hidden-100-100`) and domain classifier take
these. The figure leaves the padding open; here convolutions are padded. Unpadded, with 768 features, DANN stayed ten
points behind on MNIST-M (docs/decisions.md). The authors' input is centred; here it is divided by its deviation too.

Shapes: B images, C channels, S pixels a side.
"""

from torch import Tensor, nn


class DigitCnn(nn.Module):
    """Compute features of digits by two convolutions."""

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 32, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) to maps (B, 48, G, G), G = S // 2 // 2."""
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) to features (B, 48 * G * G): 2,352 at 28 px."""
        return self.forward_features(images).flatten(1)
