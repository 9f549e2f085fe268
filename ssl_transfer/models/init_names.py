"""Name initialisations: prefixes of arms with public weights, runs, or continued pretraining."""

CONTINUED = "imagenet+"
"""What the names of arms begin with whose pretraining goes on from ImageNet weights: imagenet+simclr."""
TIMM, RUN = "timm:", "run:"
"""What the names of arms begin with that take weights as they are: of timm (timm:resnet18.a1_in1k), of a run."""
