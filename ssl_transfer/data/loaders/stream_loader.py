"""Batches of a stream: shuffled, shared out over processes, decoded while the caller works.

The order is a function of (seed, epoch, number of processes): the stream's files are shuffled and shared out, and
within each process images pass through a buffer from which the next is drawn at random. A process whose share is short
goes on with another one until the epoch's steps are done; of a long share the end is left out, which is another end in
every epoch.
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
"""Encoded images of each process from which the next is drawn."""


class StreamLoader:
    """Batches of a stream, as `loaders.Loader` makes them of images that can be looked up. Every label is -1.

    Args:
        stream: the images.
        batch_size: images per optimiser step over all processes.
        seed: of the order and of the images' random keys.
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
        """This process's share of each batch of an epoch, from `first` on, read and decoded while the caller works."""
        device, unreadable = self._runtime.device, list[str]()
        with ThreadPoolExecutor(self._workers) as decoders, ThreadPoolExecutor(1) as reader:
            # Which images are in a batch depends on which before it could be read.
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
        """None: of a stream only the order is known."""
        return []

    def _batches(
        self, epoch: int, decoders: ThreadPoolExecutor, unreadable: list[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end: (B, C, H, W) stored pixels of B readable images, and (B,) int64 places in the epoch.

        Why others cannot be read is appended to `unreadable`.
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
                    # Later ones have come before, in an earlier share.
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
        """Without end: this process's rows, each with its place in the epoch, which no other process has."""
        from datasets.distributed import split_dataset_by_node

        rank, world = self._runtime.process_index, self._runtime.num_processes
        place = rank
        for turn in itertools.count():
            # The same order of files on every process: each then takes those that are its own.
            shuffled = self._stream.rows.shuffle(seed=seed_from(self._seed, epoch, turn), buffer_size=BUFFER)
            before = place
            try:
                for row in split_dataset_by_node(shuffled, rank=rank, world_size=world):
                    yield place, row[self._stream.column]
                    place += world
            except Exception as error:  # Of the network there are many; the run can go on later.
                raise InputError(
                    f"{self._stream.sample.source}: the stream broke off ({type(error).__name__}: {error}). The same "
                    "command goes on from the last checkpoint."
                ) from error
            if place == before:
                raise InputError(
                    f"{self._stream.sample.source}: no images for process {rank} of {world}. Launch fewer."
                )

    def _square(self, value: Any) -> np.ndarray | str:
        """(C, side, side), or why the image cannot be read."""
        try:
            return square(fetched(value), self._stream.layout)
        except Exception as error:  # Libraries raise many kinds for a broken image; each is counted and named.
            return f"{(value or {}).get('path') or 'an image'}: {error}"
