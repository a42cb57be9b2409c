"""How far a long loop is: a bar on a terminal, and a line now and then where the output is kept (a log)."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

from tqdm import tqdm

__all__ = ["Track"]

T = TypeVar("T")

SECONDS = 20.0
"""Between two lines of a log; a loop that is done earlier leaves none."""


class Track(Generic[T]):
    """The items of a loop, or a context whose `update` counts what is done.

        for batch in Track(batches, "predicting", unit="batches"):

    Args:
        items: what is looped over, if anything.
        title: of the loop, such as "predicting".
        total: how many there are in all, if `items` have no length.
        initial: how many were done before, by a process that was interrupted.
        unit: what is counted, in the plural.
        scale: how many units an item is.
        hidden: show nothing, as all processes but one do.
    """

    def __init__(
        self,
        items: Iterable[T] = (),
        title: str = "",
        total: int | None = None,
        *,
        initial: int = 0,
        unit: str = "",
        scale: int = 1,
        hidden: bool = False,
    ) -> None:
        """Start the clock."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        self._items = items
        self._title = title
        self._total = total * scale if total else None
        self._unit = unit
        self._scale = scale
        self._done = self._initial = initial * scale
        self._note = ""
        self._start = time.monotonic()
        self._due = float("inf") if hidden else self._start + SECONDS
        self._bar = None
        if not hidden and sys.stderr.isatty():
            self._due = float("inf")
            self._bar = tqdm(
                desc=title,
                total=self._total,
                initial=self._initial,
                unit=f" {unit}" if unit else "",
                leave=False,
            )

    def __iter__(self) -> Iterator[T]:
        """The items; each counts when the next is asked for."""
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> "Track[T]":
        """This track, to call `update` of."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def update(self) -> None:
        """Count one more."""
        self._done += self._scale
        if self._bar is not None:
            self._bar.update(self._scale)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + SECONDS
            print(self._line(now - self._start), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Show a few words behind the numbers, such as the loss."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def _line(self, seconds: float) -> str:
        """What a log shows: "map: 120 of 400 blocks, 30 %, 6.0 a second, 47 s left"."""
        rate = (self._done - self._initial) / seconds
        parts = [f"{self._done:,} {self._unit}".rstrip(), f"{rate:,.1f} a second"]
        if self._total:
            left = max(self._total - self._done, 0) / rate
            parts[0] = f"{self._done:,} of {self._total:,} {self._unit}".rstrip()
            parts[1:1] = [f"{100 * self._done / self._total:.0f} %"]
            parts.append(f"{_duration(left)} left")
        return f"{self._title}: " + ", ".join([*parts, *([self._note] if self._note else [])])


def _duration(seconds: float) -> str:
    """Seconds as people say them: 47 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
