"""Name initialisations: prefixes of arms with public weights, runs, or continued pretraining."""

CONTINUED = "imagenet+"
"""Prefix of arms that continue pretraining from ImageNet weights: imagenet+simclr."""
TIMM, RUN = "timm:", "run:"
"""Prefixes of arms with weights as they are: of timm (timm:resnet18.a1_in1k), or of a run."""
