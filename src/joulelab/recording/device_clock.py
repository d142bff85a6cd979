"""When a GPU reached a point in its work, on the host's clock, without waiting for it.

A CUDA event is recorded on the current stream where a span begins and ends. Its time is calculated
later, from the time that passed on the device between it and *references*: events whose host times
are known, recorded every few seconds by the thread that passes spans on. The same thread reads how
far events are from a reference soon after the device has reached them, so that their CUDA events
can be reused. Two references around an event give the offset of the device's clock and its drift.
PyTorch is used only if the program has imported it and has started CUDA itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from sys import modules
from typing import Any, NamedTuple

REFERENCE_INTERVAL_NS = 10 * 10**9
"""Distance of references: over it the events' float32 milliseconds stay finer than 1 µs."""
REFERENCE_REACH_NS = 10**9
"""An event this much younger than the last reference needs a new one."""
MOST_REFERENCES = 64
UNRESOLVED_FOR_NS = 60 * 10**9
"""Events get their times before this, so that references are near them."""
MOST_REUSED = 4096
"""Number of used events that are kept for reuse: making one takes a µs."""
SHARED_WITHIN_NS = 3_000
"""Two events on the same stream within this time are one: passing a kernel to CUDA takes longer, so
the device has no work between them."""

EVENT_RESOLUTION_NS = 500
"""CUDA Runtime API, cudaEventElapsedTime: "a resolution of around 0.5 microseconds"."""
FLOAT32 = 2**-24
"""Relative error by which that time is rounded to single precision, at most."""
DRIFT_UNCERTAINTY = 50e-6
"""k = 1, before two references show the drift: ordinary crystals are within 100 ppm."""
DRIFT_CHANGE = 5e-6
"""k = 1. Change of the drift between two references, by temperature and by NTP."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""


class DeviceTime(NamedTuple):
    """When the device reached an event (CLOCK_MONOTONIC), with its standard uncertainty."""

    t_ns: int
    uncertainty_ns: int


class DeviceWindow(NamedTuple):
    """A span on a GPU."""

    start_ns: int  # When the GPU started its work, CLOCK_MONOTONIC.
    stop_ns: int  # When it finished; not before ``start_ns``.
    uncertainty_ns: int  # Standard uncertainty of both times (k = 1), which share one error.


class DeviceEvent:
    """A point in a stream's work, which the device may not have reached yet.

    Its CUDA event is reused, and ``None`` here, once its distance from a reference is known.
    """

    __slots__ = ("device", "event", "host_ns", "near", "stream", "time", "x_ns")

    def __init__(self, device: int, stream: int, event: Any) -> None:
        self.device = device
        self.stream = stream
        self.event = event
        self.host_ns = 0
        self.near: Reference | None = None
        self.x_ns = 0.0  # On the device, after ``near``.
        self.time: DeviceTime | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A completed CUDA event whose host time is known.

    It lies anywhere in the time that recording and completing took (rectangular, GUM 4.3.7).
    """

    event: Any
    host_ns: int
    uncertainty_ns: float


def call_when_cuda_starts(notice: Callable[[], None]) -> None:
    """Have PyTorch call a function when the program starts CUDA, so that spans need not check.

    Repeat this with each flush of spans: PyTorch may be imported later, which takes longer than the
    time between two flushes and precedes CUDA. ``torch.cuda._lazy_call`` is PyTorch's own way to
    postpone what needs CUDA, such as seeds; if CUDA has started, it calls immediately.
    """
    lazy_call = getattr(modules.get("torch.cuda"), "_lazy_call", None)
    if lazy_call is not None:
        _register_once(lazy_call, notice)


@functools.lru_cache(maxsize=1)
def _register_once(
    lazy_call: Callable[[Callable[[], None]], None], notice: Callable[[], None]
) -> None:
    lazy_call(notice)


def device_clock() -> DeviceClock | None:
    """Return a clock for the GPUs of this process, once the program has started CUDA."""
    torch: Any = modules.get("torch")
    started = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    # Another thread may be importing PyTorch at this moment.
    return DeviceClock(torch) if started is not None and started() else None


class DeviceClock:
    """Records events on the current stream of a program that has started CUDA with PyTorch.

    An error of CUDA ends the recording of events and does not reach the program, which will meet
    it in its own next call; ``failure`` then states it.
    """

    def __init__(self, torch: Any) -> None:
        cuda = self._cuda = torch.cuda
        self.failure = ""
        self._unresolved: deque[DeviceEvent] = deque()
        self._uncollected: deque[DeviceEvent] = deque()
        self._leaves_captures_alone = False
        # PyTorch's own binding, if it has these names: half the calls, and no new objects.
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
        self._query: Callable[[Any], bool] = events.query
        self._streams: dict[tuple[int, int], Any] = {}
        self._reusable: dict[int, deque[Any]] = {}
        self._last: DeviceEvent | None = None
        self._references: dict[int, list[Reference]] = {}
        self._reference_streams: dict[int, Any] = {}

    def record(self) -> DeviceEvent | None:
        """Record an event in the current stream; nothing while a graph is being captured."""
        if self.failure:
            return None
        try:
            return self._record_event()
        except RuntimeError as error:
            self._fail(error)
            return None

    def resolve(self, leave: int, *, wait: bool) -> None:
        """Calculate the times of the oldest events.

        Only ``leave`` of them may wait, and none longer than :data:`UNRESOLVED_FOR_NS`. With
        ``wait``, wait for those that the device has not reached yet.
        """
        events = self._unresolved
        old_ns = time.monotonic_ns() - UNRESOLVED_FOR_NS
        while events and (len(events) > leave or events[0].host_ns < old_ns):
            if not wait and not self._reached(events[0]):
                break
            self.time(events.popleft())

    def _reached(self, event: DeviceEvent) -> bool:
        """Report whether the device has reached an event, or probably never will."""
        if event.near is not None or self.failure:
            return True
        try:
            return self._query(event.event)
        except RuntimeError as error:
            self._fail(error)
            return True

    def time(self, event: DeviceEvent) -> DeviceTime | None:
        """Return when the device reached an event; wait until it has. ``None`` if CUDA failed."""
        if event.time is None and not self.failure:
            try:
                if event.near is None:
                    event.event.synchronize()
                    self._collect(event)
                event.time = self._time(event)
            except RuntimeError as error:
                self._fail(error)
        return event.time

    def collect(self) -> None:
        """Free the CUDA events that the device has reached, which keeps their distances.

        The calling thread must use CUDA for nothing else: see :func:`_leave_captures_alone`.
        """
        events = self._uncollected
        newest = {(one.device, one.stream): one for one in events.copy()}
        # A stream that has reached its newest event has reached the others.
        reached = {stream for stream, one in newest.items() if self._reached(one)}
        while events and not self.failure:
            event = events[0]
            if (event.device, event.stream) not in reached and not self._reached(event):
                break
            events.popleft()
            if event.near is None:
                try:
                    self._collect(event)
                except RuntimeError as error:
                    self._fail(error)

    def record_references(self) -> None:
        """Record a reference for each device in use that is due for one.

        The calling thread must use CUDA for nothing else: see :func:`_leave_captures_alone`.
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

    def _record_event(self) -> DeviceEvent | None:
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
            cuda_event = self._reusable[device].popleft()
        except (KeyError, IndexError):
            cuda_event = self._cuda.Event(enable_timing=True)
        event = DeviceEvent(device, raw, cuda_event)
        self._record(cuda_event, stream)
        event.host_ns = time.monotonic_ns()
        self._last = event
        self._unresolved.append(event)
        self._uncollected.append(event)
        return event

    def _collect(self, event: DeviceEvent) -> None:
        """Read how far an event that the device has reached is from a reference."""
        references = self._references.get(event.device) or self._new_reference(event.device)
        at = len(references) - 1
        while at > 0 and references[at].host_ns > event.host_ns:
            at -= 1
        event.x_ns = _elapsed_ns(references[at].event, event.event)
        event.near = references[at]
        reusable = self._reusable.setdefault(event.device, deque(maxlen=MOST_REUSED))
        reusable.append(event.event)
        event.event = None

    def _time(self, event: DeviceEvent) -> DeviceTime:
        near, references = event.near, self._references[event.device]
        assert near is not None
        if event.host_ns - references[-1].host_ns > REFERENCE_REACH_NS:
            references = self._new_reference(event.device)
        at = len(references) - 1
        while at > 0 and references[at] is not near:
            at -= 1
        others = references[at + 1 : at + 2] or references[:at][-1:]
        return event_time(event.x_ns, near, others)

    def _new_reference(self, device: int) -> list[Reference]:
        """Record an event on a stream that has nothing waiting."""
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
        del references[:-MOST_REFERENCES]
        return references

    def _fail(self, error: RuntimeError) -> None:
        self.failure = f"CUDA failed: {str(error).splitlines()[0]}"
        self._unresolved.clear()
        self._uncollected.clear()


def event_time(x_ns: float, near: Reference, others: list[Reference]) -> DeviceTime:
    """Calculate a CUDA event's time on the host's clock.

    With references at host times ``a`` and ``b``, ``D`` apart on the device, an event that came
    ``x`` after the first was at ``a + x (b - a) / D``: the drift of the clocks is in ``(b - a) /
    D``. Its uncertainty is that of ``a`` and ``b`` by their weights ``1 - x/D`` and ``x/D``, and
    that of a change of the drift. With one reference, no drift is assumed, within
    :data:`DRIFT_UNCERTAINTY`.

    Args:
        x_ns: Time on the device between ``near`` and the event; negative if that came before.
        near: A reference before the event, if there is one.
        others: The reference after it, otherwise the one before ``near``, or none.
    """
    rate, weight, drift = 1.0, 0.0, DRIFT_UNCERTAINTY
    apart_ns, other_uncertainty_ns = math.inf, 0.0
    if others:
        apart_ns = _apart_ns(near, others[0])
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


@functools.lru_cache(maxsize=16)
def _apart_ns(near: Reference, other: Reference) -> float:
    return _elapsed_ns(near.event, other.event)


def _elapsed_ns(first: Any, second: Any) -> float:
    return float(first.elapsed_time(second)) * 1e6


def _leave_captures_alone() -> None:
    """Let this thread query events while another captures a graph.

    By default CUDA forbids it, which would spoil the other thread's capture (CUDA Driver API,
    cuThreadExchangeStreamCaptureMode).
    """
    with contextlib.suppress(OSError, AttributeError):
        mode = ctypes.c_int(THREAD_LOCAL)
        ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))


class CudaContexts:
    """Reports on which GPUs this process has a CUDA context, whenever that changes.

    PyTorch is queried only once the program has started CUDA, which makes no context.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._reported: list[int] = []

    def lines(self) -> list[bytes]:
        """Return a line for the trace; none while nothing has changed."""
        started = getattr(modules.get("torch.cuda"), "_initialized", False)
        # A forked child can use no CUDA of its parent's.
        if not started or os.getpid() != self._pid:
            return []
        indices = _contexts(modules["torch"])
        if indices == self._reported:
            return []
        self._reported = indices
        gpus = [[index, _uuid(modules["torch"], index)] for index in indices]
        event = {"event": "cuda", "pid": self._pid, "t_ns": time.monotonic_ns(), "gpus": gpus}
        return [json.dumps(event).encode() + b"\n"]


def gpus_with_context() -> list[str]:
    """Return the UUIDs, without ``GPU-``, of the GPUs on which PyTorch has a CUDA context."""
    if not getattr(modules.get("torch.cuda"), "_initialized", False):
        return []
    torch = modules["torch"]
    return [uuid for index in _contexts(torch) if (uuid := _uuid(torch, index)) is not None]


def _contexts(torch: Any) -> list[int]:
    """Return CUDA's indices of devices with a context; none if this PyTorch cannot list them."""
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    if has_context is None:
        return []
    try:
        return [index for index in range(torch.cuda.device_count()) if has_context(index)]
    except RuntimeError:
        # The program will meet the same error in its own next call.
        return []


def _uuid(torch: Any, index: int) -> str | None:
    """Return the UUID in NVML's form but without ``GPU-``; ``None`` if this PyTorch lacks it."""
    try:
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    except RuntimeError:
        return None
    return None if uuid is None else str(uuid)
