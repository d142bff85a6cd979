"""When a GPU came to a point in its work, on the host's clock, without waiting for it.

A CUDA event is recorded on the current stream where a span begins and ends. Its time is worked
out later, from the time that passed on the device since a reference event whose host time is
known. PyTorch is used only if the program has imported it and has started CUDA itself.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

REFERENCE_LIFETIME_NS = 60 * 10**9
"""A reference is renewed after this time: events' float32 milliseconds stay finer than 4 µs."""
KEPT_EVENTS = 4096
"""Events that have served are kept for use again, up to this many: making one costs a µs."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An event whose host time is known.

    Attributes:
        event: It has completed.
        host_ns: CLOCK_MONOTONIC when it was recorded, within ``uncertainty_ns``.
        uncertainty_ns: Half the time that recording and completing it took.
    """

    event: Any
    host_ns: int
    uncertainty_ns: int


class DeviceMark:
    """A point in a stream's work, perhaps still to come.

    Attributes:
        event: Recorded at that point.
        reference: The event that its time is counted from.
    """

    __slots__ = ("event", "reference")

    def __init__(self, event: Any, reference: Reference) -> None:
        self.event = event
        self.reference = reference

    def reached(self) -> bool:
        """Whether the device has come to this point."""
        return bool(self.event.query())

    def time_ns(self) -> int:
        """When the device came to this point, CLOCK_MONOTONIC. Waits until it has."""
        self.event.synchronize()
        elapsed_ms: float = self.reference.event.elapsed_time(self.event)
        return self.reference.host_ns + round(elapsed_ms * 1e6)


class DeviceClock:
    """Makes marks on the current CUDA device's current stream."""

    def __init__(self) -> None:
        self._cuda: Any = None
        self._references: dict[int, Reference] = {}
        self._served: dict[int, deque[Any]] = {}

    def mark(self) -> DeviceMark | None:
        """A mark at this point of the current stream, or nothing where no GPU is in use."""
        cuda = self._cuda
        if cuda is None:
            torch = sys.modules.get("torch")
            # Another thread may be importing it just now.
            cuda = getattr(torch, "cuda", None)
            if cuda is None or not cuda.is_initialized():
                return None
            self._cuda = cuda
        if cuda.is_current_stream_capturing():
            return None
        device = cuda.current_device()
        reference = self._references.get(device)
        if reference is None or time.monotonic_ns() - reference.host_ns > REFERENCE_LIFETIME_NS:
            reference = self._references[device] = _new_reference(cuda)
        try:
            event = self._served[device].popleft()
        except (KeyError, IndexError):
            event = cuda.Event(enable_timing=True)
        event.record()
        return DeviceMark(event, reference)

    def give_back(self, mark: DeviceMark) -> None:
        """Its time is known: its event can be recorded again."""
        device = mark.event.device.index
        served = self._served.setdefault(device, deque(maxlen=KEPT_EVENTS))
        served.append(mark.event)


def _new_reference(cuda: Any) -> Reference:
    """Records an event on a stream of its own, where nothing is waiting before it."""
    stream = cuda.Stream()
    best: Reference | None = None
    for _ in range(3):
        event = cuda.Event(enable_timing=True)
        before_ns = time.monotonic_ns()
        event.record(stream)
        event.synchronize()
        after_ns = time.monotonic_ns()
        half_ns = (after_ns - before_ns) // 2
        if best is None or half_ns < best.uncertainty_ns:
            best = Reference(event, before_ns + half_ns, half_ns)
    assert best is not None
    return best
