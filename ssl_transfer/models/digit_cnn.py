"""The feature extractor of DANN's authors for digits of 28 px.

Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, figure 4a: a 5 x 5 convolution of
32 maps, ReLU, 2 x 2 maximum pooling, a 5 x 5 convolution of 48 maps, ReLU, pooling, without BatchNorm. Its features are
the last maps in a row, 768 at 28 px, which both the label predictor (`--head.kind hidden-100-100`) and the domain
classifier take. The rows of convolutions are unpadded, which the figure leaves open; their input is no more than
centred, ours is also divided by its deviation.

Shapes: B images, C channels, S pixels a side.
"""

from torch import Tensor, nn


class DigitCnn(nn.Module):
    """The network without its layers behind the maps.

    Args:
        in_chans: C.
    """

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 32, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 48, G, G), G = ((S - 4) // 2 - 4) // 2."""
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 48 * G * G): 768 at 28 px."""
        return self.forward_features(images).flatten(1)
