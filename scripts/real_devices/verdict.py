"""What makes a scenario fail, and the time that it may take."""

from __future__ import annotations

import reprlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Failure(Exception):
    """The reason that stands behind FAIL."""


def check(holds: bool, reason: str) -> None:
    if not holds:
        raise Failure(reason)


def check_equal(found: object, wanted: object, what: str) -> None:
    check(found == wanted, f"{what}: {reprlib.repr(found)} instead of {reprlib.repr(wanted)}")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Failure in the main thread once the block has taken longer."""

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise Failure(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
