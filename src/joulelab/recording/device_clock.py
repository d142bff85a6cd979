"""When a GPU came to a point in its work, on the host's clock, without waiting for it.

A CUDA event is recorded on the current stream where a span begins and ends. Its time is worked
out later, from the time that passed on the device between it and *references*: events whose host
times are known, recorded every few seconds by the thread that hands spans over. Two references on
either side of a mark give the offset of the device's clock and its drift. PyTorch is used only if
the program has imported it and has started CUDA itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from sys import modules
from typing import Any, NamedTuple

REFERENCE_INTERVAL_NS = 10 * 10**9
"""References are this far apart: over it events' float32 milliseconds stay finer than 1 µs."""
REFERENCE_REACH_NS = 10**9
"""A mark this much younger than the last reference is not worked out without a new one."""
KEPT_REFERENCES = 64
UNRESOLVED_FOR_NS = 60 * 10**9
"""Marks are worked out before this, so that references are near them."""
KEPT_EVENTS = 4096
"""Events that have served are kept for use again, up to this many: making one costs a µs."""
SHARED_WITHIN_NS = 3_000
"""A mark this soon after another on the same stream is the same mark: handing a kernel to CUDA
takes the host longer, so that there is no work of the device between the two."""

EVENT_RESOLUTION_NS = 500
"""CUDA Runtime API, cudaEventElapsedTime: "a resolution of around 0.5 microseconds"."""
FLOAT32 = 2**-24
"""It is rounded to single precision, by this share at most."""
DRIFT_UNCERTAINTY = 50e-6
"""k = 1, before two references have shown the drift: ordinary crystals are within 100 ppm."""
DRIFT_CHANGE = 5e-6
"""k = 1. How much drift changes between two references: crystals with their temperature, and
CLOCK_MONOTONIC by NTP."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""


class DeviceTime(NamedTuple):
    """When the device came to a mark.

    Attributes:
        t_ns: CLOCK_MONOTONIC.
        uncertainty_ns: Standard uncertainty (k = 1).
    """

    t_ns: int
    uncertainty_ns: int


class DeviceWindow(NamedTuple):
    """A span on a GPU.

    Attributes:
        start_ns: When the GPU came to its work, CLOCK_MONOTONIC.
        stop_ns: When it was done with it; not before ``start_ns``.
        uncertainty_ns: Standard uncertainty of both times (k = 1), which are wrong together.
    """

    start_ns: int
    stop_ns: int
    uncertainty_ns: int


class DeviceMark:
    """A point in a stream's work, perhaps still to come.

    Attributes:
        device: CUDA's index.
        stream: The stream's address.
        event: Recorded at that point; ``None`` once ``time`` is known, as it may serve again.
        host_ns: When it was recorded, CLOCK_MONOTONIC.
        time: When the device came to it.
    """

    __slots__ = ("device", "event", "host_ns", "stream", "time")

    def __init__(self, device: int, stream: int, event: Any) -> None:
        self.device = device
        self.stream = stream
        self.event = event
        self.host_ns = 0
        self.time: DeviceTime | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """An event whose host time is known.

    Attributes:
        event: It has completed.
        host_ns: CLOCK_MONOTONIC when it was recorded.
        uncertainty_ns: Standard uncertainty of that; it lies anywhere in the time that recording
            and completing took (rectangular distribution, GUM 4.3.7).
    """

    event: Any
    host_ns: int
    uncertainty_ns: float


def cuda_started() -> bool:
    """Whether the program has started CUDA with PyTorch: only a look, which starts nothing."""
    return getattr(modules.get("torch.cuda"), "_initialized", False)


def tell_when_cuda_starts(notice: Callable[[], None]) -> None:
    """Has PyTorch say when the program starts CUDA, so that no span need ask whether it has.

    To be called again now and then: PyTorch may be imported later, which takes longer than the
    time between two spans being handed over, and comes before CUDA. ``torch.cuda._lazy_call`` is
    PyTorch's own way to put off what needs CUDA, as seeds, until that is there.

    Args:
        notice: Called at once where CUDA was started already. It must not raise.
    """
    lazy_call = getattr(modules.get("torch.cuda"), "_lazy_call", None)
    if lazy_call is not None:
        _ask_once(lazy_call, notice)


@functools.lru_cache(maxsize=1)
def _ask_once(lazy_call: Callable[[Callable[[], None]], None], notice: Callable[[], None]) -> None:
    lazy_call(notice)


def device_clock() -> DeviceClock | None:
    """A clock for the GPUs of this process, once the program has started CUDA with PyTorch."""
    torch: Any = modules.get("torch")
    started = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    # Another thread may be importing PyTorch at this moment.
    return DeviceClock(torch) if started is not None and started() else None


class DeviceClock:
    """Makes marks on the current CUDA device's current stream.

    Whatever CUDA refuses, the program is not told: it will meet the same error in its own next
    call. From then on there are no marks, and :attr:`failure` says why.

    Args:
        torch: PyTorch. The program has started CUDA with it.

    Attributes:
        failure: Why there are no more marks; empty while there are.
    """

    def __init__(self, torch: Any) -> None:
        cuda = self._cuda = torch.cuda
        self.failure = ""
        self._unresolved: deque[DeviceMark] = deque()
        self._leaves_captures_alone = False
        # Of PyTorch's own binding, where it has that name: half the calls, and no new objects.
        own = torch._C
        self._current_device = getattr(own, "_cuda_getDevice", cuda.current_device)
        self._is_capturing = getattr(
            own, "_cuda_isCurrentStreamCapturing", cuda.is_current_stream_capturing
        )
        self._raw_stream = getattr(
            own, "_cuda_getCurrentRawStream", lambda device: cuda.current_stream(device).cuda_stream
        )
        # What torch.cuda.Event.record calls once it has a stream.
        events = getattr(own, "_CudaEventBase", cuda.Event)
        self._record: Callable[[Any, Any], None] = events.record
        self._streams: dict[tuple[int, int], Any] = {}
        self._served: dict[int, deque[Any]] = {}
        self._last: DeviceMark | None = None
        self._references: dict[int, list[Reference]] = {}
        self._reference_streams: dict[int, Any] = {}

    def mark(self) -> DeviceMark | None:
        """A mark at this point of the current stream; nothing while that is being captured."""
        if self.failure:
            return None
        try:
            return self._mark()
        except RuntimeError as error:
            self._fail(error)
            return None

    def resolve(self, leave: int, *, wait: bool) -> None:
        """Works out the times of the oldest marks.

        Args:
            leave: So many may wait, but none for longer than :data:`UNRESOLVED_FOR_NS`.
            wait: Also for the device, where it has not come to them yet.
        """
        marks = self._unresolved
        old_ns = time.monotonic_ns() - UNRESOLVED_FOR_NS
        while marks and (len(marks) > leave or marks[0].host_ns < old_ns):
            if not wait and not self._reached(marks[0]):
                break
            self.time(marks.popleft())

    def _reached(self, mark: DeviceMark) -> bool:
        """Whether the device has come to a mark, or never will as far as one can tell."""
        if mark.time is not None or self.failure:
            return True
        try:
            return bool(mark.event.query())
        except RuntimeError as error:
            self._fail(error)
            return True

    def time(self, mark: DeviceMark) -> DeviceTime | None:
        """When the device came to a mark; waits until it has. ``None`` where CUDA failed."""
        if mark.time is None and not self.failure:
            try:
                mark.event.synchronize()
                mark.time = self._time(mark)
            except RuntimeError as error:
                self._fail(error)
            else:
                served = self._served.setdefault(mark.device, deque(maxlen=KEPT_EVENTS))
                served.append(mark.event)
                mark.event = None
        return mark.time

    def refer(self) -> None:
        """Makes a reference for each device that has marks, where one is due.

        For a thread that does nothing else with CUDA: see :func:`_leave_captures_alone`.
        """
        if self.failure:
            return
        if not self._leaves_captures_alone:
            _leave_captures_alone()
            self._leaves_captures_alone = True
        now_ns = time.monotonic_ns()
        for device in {device for device, _ in self._streams.copy()}:
            references = self._references.get(device)
            if not references or now_ns - references[-1].host_ns > REFERENCE_INTERVAL_NS:
                try:
                    self._new_reference(device)
                except RuntimeError as error:
                    self._fail(error)

    def _mark(self) -> DeviceMark | None:
        device = self._current_device()
        raw = self._raw_stream(device)
        last = self._last
        if (
            last is not None
            and time.monotonic_ns() - last.host_ns < SHARED_WITHIN_NS
            and last.stream == raw
            and last.device == device
        ):
            return last
        if self._is_capturing():
            return None
        try:
            stream = self._streams[device, raw]
        except KeyError:
            stream = self._streams[device, raw] = self._cuda.current_stream(device)
        try:
            event = self._served[device].popleft()
        except (KeyError, IndexError):
            event = self._cuda.Event(enable_timing=True)
        mark = DeviceMark(device, raw, event)
        self._record(event, stream)
        mark.host_ns = time.monotonic_ns()
        self._last = mark
        self._unresolved.append(mark)
        return mark

    def _time(self, mark: DeviceMark) -> DeviceTime:
        references = self._references.get(mark.device, [])
        if not references or mark.host_ns - references[-1].host_ns > REFERENCE_REACH_NS:
            references = self._new_reference(mark.device)
        at = len(references) - 1
        while at > 0 and references[at].host_ns > mark.host_ns:
            at -= 1
        others = references[at + 1 : at + 2] or references[:at][-1:]
        return _placed(mark.event, references[at], others)

    def _new_reference(self, device: int) -> list[Reference]:
        """Records an event on a stream of its own, where nothing is waiting before it."""
        if device not in self._reference_streams:
            self._reference_streams[device] = self._cuda.Stream(device=device)
        stream = self._reference_streams[device]
        best: Reference | None = None
        for _ in range(3):
            event = self._cuda.Event(enable_timing=True)
            before_ns = time.monotonic_ns()
            event.record(stream)
            event.synchronize()
            half_ns = (time.monotonic_ns() - before_ns) / 2
            if best is None or half_ns / math.sqrt(3) < best.uncertainty_ns:
                best = Reference(event, before_ns + round(half_ns), half_ns / math.sqrt(3))
        assert best is not None
        references = self._references.setdefault(device, [])
        references.append(best)
        del references[:-KEPT_REFERENCES]
        return references

    def _fail(self, error: RuntimeError) -> None:
        self.failure = f"CUDA failed: {str(error).splitlines()[0]}"
        self._unresolved.clear()


def _placed(event: Any, near: Reference, others: list[Reference]) -> DeviceTime:
    """An event's time on the host's clock.

    With references at host times ``a`` and ``b``, ``D`` apart on the device, an event that came
    ``x`` after the first was at ``a + x (b - a) / D``: the drift of the clocks is in ``(b - a) /
    D``. Its uncertainty is that of ``a`` and ``b`` by their weights ``1 - x/D`` and ``x/D``, and
    that drift may change. With one reference alone the drift is taken as none, within
    :data:`DRIFT_UNCERTAINTY`.

    Args:
        event: It has completed.
        near: A reference before it, if there is one.
        others: The reference after it, or else the one before ``near``, or none.
    """
    x_ns = _elapsed_ns(near.event, event)
    rate, weight, drift = 1.0, 0.0, DRIFT_UNCERTAINTY
    apart_ns, other_uncertainty_ns = math.inf, 0.0
    if others:
        apart_ns = _elapsed_ns(near.event, others[0].event)
        rate = (others[0].host_ns - near.host_ns) / apart_ns
        weight, drift = x_ns / apart_ns, DRIFT_CHANGE
        other_uncertainty_ns = others[0].uncertainty_ns
    uncertainty_ns = math.hypot(
        (1 - weight) * near.uncertainty_ns,
        weight * other_uncertainty_ns,
        drift * min(abs(x_ns), abs(apart_ns - x_ns)),
        EVENT_RESOLUTION_NS / math.sqrt(12),
        FLOAT32 * x_ns / math.sqrt(3),
        SHARED_WITHIN_NS / math.sqrt(12),
    )
    return DeviceTime(near.host_ns + round(x_ns * rate), math.ceil(uncertainty_ns))


def _elapsed_ns(first: Any, second: Any) -> float:
    return float(first.elapsed_time(second)) * 1e6


def _leave_captures_alone() -> None:
    """Lets this thread ask about events while another captures a graph.

    By default CUDA forbids it, and would spoil the other thread's capture (CUDA Driver API,
    cuThreadExchangeStreamCaptureMode).
    """
    import ctypes  # noqa: PLC0415

    with contextlib.suppress(OSError, AttributeError):
        mode = ctypes.c_int(THREAD_LOCAL)
        ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
