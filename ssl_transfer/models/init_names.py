"""Name initialisations: baselines, public weights, runs, continued pretraining."""

BASELINES = ("scratch", "imagenet")
"""Starts without pretraining on the images of a comparison."""
CONTINUED = "imagenet+"
"""Prefix of arms whose pretraining continues from ImageNet weights: imagenet+simclr."""
TIMM, RUN = "timm:", "run:"
"""Prefixes of arms that use finished weights: of timm (timm:resnet18.a1_in1k), of a run."""


def is_continued(arm: str) -> bool:
    """Check whether an arm's pretraining continues from ImageNet weights."""
    return arm.startswith(CONTINUED)


def is_timm(name: str) -> bool:
    """Check whether an arm or initialisation is public weights of timm."""
    return name.startswith(TIMM)


def is_run(arm: str) -> bool:
    """Check whether an arm is a finished run, as tables name it."""
    return arm.startswith(RUN)


def is_public(arm: str) -> bool:
    """Check whether an arm is public weights as they are: of ImageNet or of timm."""
    return arm == "imagenet" or is_timm(arm)


def is_pretrained(arm: str) -> bool:
    """Check whether an arm was pretrained by a method, here or in a run; baselines and weights of timm were not."""
    return arm not in BASELINES and not is_timm(arm)


def starts_of(arm: str) -> tuple[str, ...]:
    """Return the baselines that show what an arm's pretraining added; the last one is the nearest."""
    return BASELINES if is_continued(arm) else BASELINES[:1]
