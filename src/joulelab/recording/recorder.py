"""The recorder: a process of its own that reads the sensors and appends to a trace.

It imports the standard library and the sensors, no more, so that it starts in a tenth of a second
and stays small. It outlives neither its parent nor its usefulness: it stops when told, when its
parent is gone, or at SIGTERM, and what it has written stays readable however it ends.

What it is told comes in on two pipes. *Marks* are finished lines of JSON for ``events.jsonl``;
they are taken whenever the recorder wakes, so that marking never wakes it. *Requests* wake it:
``{"sync": t_ns}`` asks it to read until every energy channel has covered that time,
``{"stop": t_ns}`` the same and then to end. It answers each with a line of JSON on its standard
output.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from joulelab.errors import JoulelabError
from joulelab.recording.format import TraceWriter, pack
from joulelab.sensors.clocks import ClockSensor
from joulelab.sensors.discovery import discover
from joulelab.sensors.sensor import Channel, Discovery, Gap, Reading, Sensor

SYNC_EVERY_S = 30.0
LONGEST_SYNC_S = 2.0
_PIPE_READ = 1 << 16


class Recorder:
    """Reads sensors when they are due and writes what they give.

    Args:
        directory: Where the trace is made.
        discovery: The sensors, open, and what is absent.
        interval_s: Read every sensor at least this often; ``None`` for each sensor's own pace.
        marks: Descriptor of the marks' pipe, not blocking.
    """

    def __init__(
        self, directory: Path, discovery: Discovery, interval_s: float | None, marks: int
    ) -> None:
        self._sensors: list[Sensor] = [*discovery.sensors, ClockSensor()]
        self._intervals_s = [
            min(sensor.interval_s, interval_s) if interval_s else sensor.interval_s
            for sensor in self._sensors
        ]
        self._first_id: list[int] = []
        channels: list[Channel] = []
        for sensor in self._sensors:
            self._first_id.append(len(channels))
            channels.extend(sensor.channels)
        self._channels = channels
        self._latest_ns = [0] * len(channels)
        self._reasons: dict[int, str] = {}
        self._due_s = [0.0] * len(self._sensors)
        self._marks, self._partial_mark = marks, b""
        self._writer = TraceWriter(
            directory,
            {
                "channels": [channel.to_json() for channel in channels],
                "intervals_s": self._channel_intervals(),
                "absent": [vars_of(absence) for absence in discovery.absent],
                "pid": os.getpid(),
                "parent_pid": os.getppid(),
                "host": os.uname().nodename,
                "boot_id": boot_id(),
                "start_ns": time.monotonic_ns(),
                "start_unix_s": time.time(),
            },
        )

    def _channel_intervals(self) -> list[float]:
        return [
            interval_s
            for sensor, interval_s in zip(self._sensors, self._intervals_s, strict=True)
            for _ in sensor.channels
        ]

    def read_due(self) -> float:
        """Reads every sensor whose time has come.

        Returns:
            When the next one is due, CLOCK_MONOTONIC seconds.
        """
        for i, interval_s in enumerate(self._intervals_s):
            now_s = time.monotonic()
            if now_s >= self._due_s[i]:
                self._read(i)
                # A recorder that was stopped or starved does not make up for what it missed.
                self._due_s[i] = max(self._due_s[i] + interval_s, now_s + interval_s / 2)
        return min(self._due_s)

    def _read(self, i: int) -> None:
        first = self._first_id[i]
        records = []
        for one in _read_safely(self._sensors[i]):
            channel = first + one.channel
            if isinstance(one, Reading):
                records.append(pack(one.t_ns, one.value, channel))
                self._latest_ns[channel] = max(self._latest_ns[channel], one.t_ns)
                self._reasons.pop(channel, None)
            else:
                records.append(pack(one.t_ns, math.nan, channel))
                if self._reasons.get(channel) != one.reason:
                    self._reasons[channel] = one.reason
                    self._writer.event(
                        event="gap", channel=channel, t_ns=one.t_ns, reason=one.reason
                    )
        self._writer.readings(records)

    def take_marks(self) -> None:
        """Moves the marks that have come in to the trace, whole lines at a time."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._marks, _PIPE_READ):
                whole, newline, rest = (self._partial_mark + data).rpartition(b"\n")
                self._partial_mark = rest
                if newline:
                    self._writer.events(whole + newline)

    def cover(self, t_ns: int) -> None:
        """Reads until every energy channel that works has a reading at or after ``t_ns``.

        Gives up on a channel after two of its update periods, at most :data:`LONGEST_SYNC_S`.
        """
        waiting = {
            i
            for i, sensor in enumerate(self._sensors)
            if any(channel.gives_energy for channel in sensor.channels)
        }
        begin_s = time.monotonic()
        while waiting:
            for i in sorted(waiting):
                self._read(i)
                self._due_s[i] = time.monotonic() + self._intervals_s[i]
                first = self._first_id[i]
                behind = [
                    channel
                    for k, channel in enumerate(self._sensors[i].channels)
                    if channel.gives_energy
                    and first + k not in self._reasons
                    and self._latest_ns[first + k] < t_ns + _staleness_ns(channel)
                ]
                patience_s = max((2 * channel.update_period_s for channel in behind), default=0.0)
                spent_s = time.monotonic() - max(begin_s, t_ns * 1e-9)
                if not behind or spent_s > min(patience_s + 0.05, LONGEST_SYNC_S):
                    waiting.discard(i)
            if waiting:
                time.sleep(0.005)
        self.take_marks()

    def sync(self) -> None:
        """Waits until the trace is on the disk."""
        self._writer.sync()

    def finish(self, why: str) -> None:
        """Writes how the recording ended, and closes everything."""
        self.take_marks()
        self._writer.event(event="stop", t_ns=time.monotonic_ns(), reason=why)
        self._writer.close()
        for sensor in self._sensors:
            sensor.close()


def _read_safely(sensor: Sensor) -> list[Reading | Gap]:
    """What the sensor gives; one that breaks its promise not to raise gives gaps."""
    try:
        return sensor.read()
    except Exception as error:  # noqa: BLE001  (a sensor may come from anyone's package)
        t_ns, reason = time.monotonic_ns(), f"{type(error).__name__}: {error}"
        return [Gap(t_ns, k, reason) for k in range(len(sensor.channels))]


def _staleness_ns(channel: Channel) -> int:
    """A polled value may be this much older than its stamp."""
    return round(channel.update_period_s * 1e9) if channel.polled else 0


def vars_of(absence: Any) -> dict[str, str]:
    """The fields of a slotted dataclass."""
    return {name: getattr(absence, name) for name in absence.__dataclass_fields__}


def boot_id() -> str:
    """Names the time since this machine last started: CLOCK_MONOTONIC means nothing across it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def answer(**fields: Any) -> None:
    """Tells the parent; if it no longer listens there is nobody to tell."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(fields).encode() + b"\n")


class _StopRequested(Exception):
    """SIGTERM came."""


def _on_term(_signal: int, _frame: Any) -> None:
    raise _StopRequested


def record(recorder: Recorder, requests: int, parent_pid: int) -> str:
    """Records until there is a reason to stop, and returns it.

    Args:
        recorder: What to keep busy.
        requests: Descriptor of the requests' pipe.
        parent_pid: The process that is measured; recording ends with it.
    """
    parent = _watch(parent_pid)
    pending = b""
    synced_s = time.monotonic()
    watched = [requests] if parent is None else [requests, parent]
    while True:
        due_s = recorder.read_due()
        recorder.take_marks()
        if time.monotonic() - synced_s > SYNC_EVERY_S:
            recorder.sync()
            synced_s = time.monotonic()
        ready, _, _ = select.select(watched, [], [], max(0.0, due_s - time.monotonic()))
        if requests in ready:
            data = os.read(requests, _PIPE_READ)
            if not data:
                return "the meter closed its end"
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "stop" in request:
                    recorder.cover(request["stop"])
                    return "asked to stop"
                recorder.cover(request["sync"])
                answer(synced=request["sync"])
        if (parent is not None and parent in ready) or os.getppid() != parent_pid:
            return "the process that was measured ended"


def main() -> None:
    """``python -m joulelab.recording.recorder CONFIG``, with CONFIG in JSON."""
    config = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_term)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        discovery = discover(config["sensors"])
        os.set_blocking(config["marks"], False)
        recorder = Recorder(
            Path(config["directory"]), discovery, config["interval_s"], config["marks"]
        )
    except (JoulelabError, OSError) as error:
        answer(error=str(error), exit_code=getattr(error, "exit_code", 1))
        sys.exit(1)
    try:
        recorder.read_due()
        answer(ready=time.monotonic_ns())
        why = record(recorder, config["requests"], config["parent_pid"])
    except _StopRequested:
        why = "terminated"
    except OSError as error:
        # The disk is full or gone: what is written stays, and the parent learns why.
        answer(error=str(error), exit_code=1)
        sys.exit(1)
    recorder.finish(why)
    answer(stopped=why)


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when that process ends, where the kernel has them."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


if __name__ == "__main__":
    main()
