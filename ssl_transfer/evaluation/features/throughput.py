"""Measure images a second of a model: on the GPU, or on one CPU core."""

import time

import torch

from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.heads import Head, features_for

BATCH_SIZE = 256
SECONDS = 1.0


@torch.inference_mode()
def images_per_second(backbone: Backbone, head: Head, device: torch.device) -> float:
    """Time batches of `BATCH_SIZE` views within `SECONDS`; the fastest counts, as interference only slows them down.

    Both modules are moved to the device and put into evaluation mode. A CPU uses one thread, as small models gain
    little by more and large ones much. Time there is the thread's own, which excludes other processes' use of the core.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec = backbone.spec
    backbone.to(device).eval()
    head.to(device).eval()
    views = torch.rand(BATCH_SIZE, spec.in_chans, spec.image_size, spec.image_size, device=device)
    # The first forward chooses algorithms and takes memory.
    best, end = float("inf"), clock() + SECONDS
    number = 0
    while number < 2 or clock() < end:
        started = clock()
        # Reading a number waits for the device.
        float(head(features_for(head, backbone, views)).sum())
        best = min(best, clock() - started) if number else best
        number += 1
    torch.set_num_threads(threads)
    return BATCH_SIZE / best
