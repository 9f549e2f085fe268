"""Load batches of a stream: shuffled, shared among processes, decoded in the background.

The order is a function of (seed, epoch, number of processes). The files of the stream are shuffled and shared among
processes, and each process draws its next image at random from a buffer. A process with a short share continues with
another pass until the epoch's steps are done. The end of a long share is left out, a different end in each epoch.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import LOOK_AHEAD, to_unit
from ssl_transfer.data.store.decode import square
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys, seed_from
from ssl_transfer.engine.training.objective import Batch

from .stream import Stream, fetched

BUFFER = 2048
"""Encoded images of each process, from which it draws the next."""


class StreamLoader:
    """Load batches of a stream as `Loader` does of stored images. Every label is -1.

    Args:
        stream: the images.
        batch_size: images per optimiser step over all processes.
        seed: determines the order and the random keys of the images.
        runtime: device and processes.
    """

    def __init__(self, stream: Stream, *, batch_size: int, seed: int, runtime: Runtime) -> None:
        if batch_size < 1 or batch_size % runtime.num_processes:
            raise InputError(
                f"--batch-size {batch_size}: it must be a multiple of the {runtime.num_processes} processes."
            )
        if stream.num_images < batch_size:
            raise InputError(f"--batch-size {batch_size}: the stream has only {stream.num_images} images.")
        self.batch_size = batch_size
        self.steps_per_epoch = stream.num_images // batch_size
        self._stream, self._seed, self._runtime = stream, seed, runtime
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._workers = stream.config.workers or max(1, joblib.cpu_count() // local)
        if stream.rows.num_shards % runtime.num_processes:
            runtime.say(
                f"{stream.sample.source}: {stream.rows.num_shards} files cannot be shared out evenly over "
                f"{runtime.num_processes} processes, so that each process reads all of them and uses its share."
            )

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of the batches of an epoch, from `first` on, decoded ahead by threads."""
        device, unreadable = self._runtime.device, list[str]()
        with ThreadPoolExecutor(self._workers) as decoders, ThreadPoolExecutor(1) as reader:
            # The images of a batch depend on which earlier images were readable.
            batches = itertools.islice(self._batches(epoch, decoders, unreadable), first, None)
            waiting = deque(reader.submit(next, batches) for _ in range(min(LOOK_AHEAD, self.steps_per_epoch - first)))
            try:
                for step in range(first, self.steps_per_epoch):
                    pixels, positions = waiting.popleft().result()
                    if step + LOOK_AHEAD < self.steps_per_epoch:
                        waiting.append(reader.submit(next, batches))
                    yield Batch(
                        images=to_unit(pixels.to(device, non_blocking=True), self._stream.sample.value_range),
                        labels=torch.full((len(pixels),), -1, device=device),
                        keys=sample_keys(self._seed, epoch, positions).to(device, non_blocking=True),
                    )
            finally:
                for future in waiting:
                    future.cancel()
        if unreadable:
            self._runtime.say(
                f"{self._stream.sample.source}: {len(unreadable)} images that cannot be read were left out of epoch "
                f"{epoch + 1} (first: {unreadable[0]})."
            )

    def names(self, epoch: int, number: int) -> list[str]:  # noqa: ARG002
        """Return no names: a stream has only an order."""
        return []

    def _batches(
        self, epoch: int, decoders: ThreadPoolExecutor, unreadable: list[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate without end over (B, C, H, W) pixels of readable images and their (B,) int64 places in the epoch.

        Reasons for unreadable images are appended to `unreadable`.
        """
        share = self.batch_size // self._runtime.num_processes
        rows = self._places(epoch)
        squares: list[tuple[int, np.ndarray]] = []
        allowed = self._stream.config.max_unreadable * self._stream.num_images / self._runtime.num_processes
        while True:
            wanted = list(itertools.islice(rows, share - len(squares)))
            decoded = decoders.map(self._square, [item for _, item in wanted])
            for (place, _), answer in zip(wanted, decoded, strict=True):
                if not isinstance(answer, str):
                    squares.append((place, answer))
                elif place < self._stream.num_images:
                    # Places after the epoch repeat images that were counted before.
                    unreadable.append(answer)
            if len(unreadable) > allowed:
                raise InputError(
                    f"{self._stream.sample.source}: {len(unreadable)} images of this epoch cannot be read (first: "
                    f"{unreadable[0]}), more than --loading.max-unreadable {self._stream.config.max_unreadable} allows."
                )
            if len(squares) == share:
                pixels = torch.from_numpy(np.stack([pixels for _, pixels in squares]))
                yield pixels, torch.tensor([place for place, _ in squares])
                squares = []

    def _places(self, epoch: int) -> Iterator[tuple[int, Any]]:
        """Iterate without end over this process's rows, each with its unique place in the epoch."""
        from datasets.distributed import split_dataset_by_node

        rank, world = self._runtime.process_index, self._runtime.num_processes
        place = rank
        for turn in itertools.count():
            # Every process shuffles the files alike, then takes its own.
            shuffled = self._stream.rows.shuffle(seed=seed_from(self._seed, epoch, turn), buffer_size=BUFFER)
            before = place
            try:
                for row in split_dataset_by_node(shuffled, rank=rank, world_size=world):
                    yield place, row[self._stream.column]
                    place += world
            except Exception as error:  # Networks raise many types; the run can continue later.
                raise InputError(
                    f"{self._stream.sample.source}: the stream broke off ({type(error).__name__}: {error}). The same "
                    "command goes on from the last checkpoint."
                ) from error
            if place == before:
                raise InputError(
                    f"{self._stream.sample.source}: no images for process {rank} of {world}. Launch fewer."
                )

    def _square(self, value: Any) -> np.ndarray | str:
        """Decode to (C, side, side), or return why the image is unreadable."""
        try:
            return square(fetched(value), self._stream.layout)
        except Exception as error:  # Libraries raise many types for a broken image; each is counted and named.
            return f"{(value or {}).get('path') or 'an image'}: {error}"
