"""How many images a second a model classifies, on the machine at hand: on its GPU, or on one of its cores."""

import time

import torch

from ..models.backbones import Backbone
from ..models.heads import Head, features_for

BATCH_SIZE = 256
SECONDS = 1.0


@torch.inference_mode()
def images_per_second(backbone: Backbone, head: Head, device: torch.device) -> float:
    """The best of the batches of `BATCH_SIZE` views that go through in `SECONDS`: what disturbs can only slow it down.

    Both are moved to the device and put into evaluation mode. A CPU works with one thread, as small models gain little
    by more and large ones much.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec = backbone.spec
    backbone.to(device).eval()
    head.to(device).eval()
    views = torch.rand(BATCH_SIZE, spec.in_chans, spec.image_size, spec.image_size, device=device)
    # The first forward chooses algorithms and takes memory.
    best, end = float("inf"), time.perf_counter() + SECONDS
    number = 0
    while number < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        # Reading a number waits for the device.
        float(head(features_for(head, backbone, views)).sum())
        best = min(best, time.perf_counter() - started) if number else best
        number += 1
    torch.set_num_threads(threads)
    return BATCH_SIZE / best
