"""Batches ahead of the step: an exact order, built by threads into a ring of reused memory.

index int64[B] on the CPU · x[B, C, S, S] on the device. Copying rows and decoding JPEGs release Python's
lock: threads scale, and share one memory map and one device. Processes (a plain DataLoader) are the slower
road: their shared memory is new pages twice over.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glczoo.data.patches import PatchBuilder

__all__ = ["default_threads", "load", "load_by_processes", "shares"]

Turn = Callable[[Tensor], Tensor]


def load(
    build: PatchBuilder, batches: Sequence[Tensor], turn: Turn | None = None, threads: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Build (index, x) of every batch, in the order of `batches` whatever the number of threads.

    A batch's x is valid until the next batch is asked for: its memory is then filled again.

    Args:
        build: makes the patches.
        batches: int64[B] of each batch.
        turn: how the points of a batch are flipped and turned (see `patches.dihedral`); None: not at all.
        threads: 0 builds in the caller, when a batch is asked for; None: as `default_threads` says.

    Raises:
        GlczooError, MissingError: what building the batch that is asked for has raised.
    """
    threads = default_threads(build.device) if threads is None else threads
    ahead = threads + 1  # each thread's batch and one that is ready, besides the one in the caller's hands
    cuda = build.device.type == "cuda"
    stream = torch.cuda.Stream(build.device) if cuda else None
    largest = max(map(len, batches), default=0)
    ring = [None if cuda else build.empty(largest) for _ in range(ahead + 1 if threads else 1)]

    def make(number: int) -> Tensor:
        with torch.cuda.stream(stream) if cuda else nullcontext():
            index = batches[number]
            return build(index, turn(index) if turn else None, ring[number % len(ring)])

    if not threads:
        yield from ((index, make(number)) for number, index in enumerate(batches))
        return
    pool = ThreadPoolExecutor(threads, "loader", initializer=torch.set_num_threads, initargs=(1,))
    try:
        built = deque(pool.submit(make, number) for number in range(min(len(ring), len(batches))))
        for number, index in enumerate(batches):
            x = built.popleft().result()
            if cuda:  # made on another stream: its memory is not to be given away before this one is done
                x.record_stream(torch.cuda.current_stream(build.device))
            yield index, x
            if number + len(ring) < len(batches):
                built.append(pool.submit(make, number + len(ring)))
    finally:
        pool.shutdown(cancel_futures=True)


def load_by_processes(
    build: PatchBuilder, batches: Sequence[Tensor], turn: Turn | None = None, processes: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches by a plain DataLoader: its processes (None: 2) read the JPEGs. Slower than `load`.

    Raises:
        GlczooError, MissingError: as `load`.
    """
    dataset = _Satellite(build, batches)
    generator = torch.Generator().manual_seed(0)  # its own: an iterator must not draw global numbers
    loader = DataLoader(dataset, None, num_workers=2 if processes is None else processes, generator=generator)
    for index, satellite in zip(batches, loader, strict=True):
        yield index, build(index, turn(index) if turn else None, satellite=satellite)


def default_threads(device: torch.device) -> int:
    """Two beside a GPU. None on a CPU: building takes one or two percent of a step that wants every core."""
    return 0 if device.type == "cpu" else 2


class _Satellite(Dataset):
    """The satellite bytes of every batch."""

    def __init__(self, build: PatchBuilder, batches: Sequence[Tensor]) -> None:
        self._build, self._batches = build, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Tensor:
        return self._build.read_satellite(self._batches[number])


def shares(number: int, batch_size: int, process: int = 0, processes: int = 1) -> list[Tensor]:
    """One process's batches of the points 0 … number - 1; every process has as many, the last may be empty.

    Each batch of `batch_size` times `processes` points is dealt out in turn.
    """
    return [part[process::processes] for part in torch.arange(number).split(batch_size * processes)]
