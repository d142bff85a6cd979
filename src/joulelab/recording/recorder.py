"""The recorder: a process of its own that reads the sensors and appends to a trace.

It imports the standard library and the sensors, no more, so that it starts in a tenth of a second
and stays small. It serves the process that started it and those that join; it ends when it is told
to, when the last of them is gone, or at SIGTERM, and what it has written stays readable however it
ends.

*Marks* are finished lines of JSON for ``events.jsonl``, in one pipe for all; they are taken
whenever the recorder wakes, so that marking never wakes it. *Requests* come on a line to each
process (:mod:`joulelab.recording.connection`) and wake it: ``{"join": {...}}`` asks for the pipe
and says who is there, ``{"sync": t_ns}`` asks it to read until every energy channel has covered
that time, ``{"stop": t_ns}`` the same and then to end, for all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joulelab.errors import JoulelabError
from joulelab.recording.clients import Client, Clients
from joulelab.recording.connection import Connection, Message
from joulelab.recording.launcher import host_name
from joulelab.recording.trace_format import TraceWriter, boot_id, pack
from joulelab.sensors.discovery import discover
from joulelab.sensors.host import ClockSensor
from joulelab.sensors.nvml import NvmlSensor, visible_components
from joulelab.sensors.sensor import Channel, Discovery, Gap, Reading, Sensor, SensorEvent
from joulelab.sensors.sharing import SharingSensor, with_sharing

SYNC_EVERY_S = 30.0
LONGEST_SYNC_S = 2.0
OTHER_CLOCK_NS = 60 * 10**9
"""A process whose clock is so far from the recorder's, and not late, has another."""
MARKS_PIPE_BYTES = 1 << 20
_PIPE_READ = 1 << 16


class Recorder:
    """Reads sensors when they are due and writes what they give.

    Args:
        directory: Where the trace is made.
        discovery: The sensors, open, and what is absent.
        interval_s: Read every sensor at least this often; ``None`` for each sensor's own pace.
        parent_pid: The process that started it.
        socket_path: Where processes can join; ``None`` where they cannot.
    """

    def __init__(
        self,
        directory: Path,
        discovery: Discovery,
        interval_s: float | None,
        *,
        parent_pid: int,
        socket_path: Path | None,
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
        self.marks_end = _marks_pipe()
        self._partial_mark = b""
        self._writer = TraceWriter(
            directory,
            {
                "channels": [channel.to_json() for channel in channels],
                "intervals_s": self._channel_intervals(),
                "absent": [vars_of(absence) for absence in discovery.absent],
                "gpus": {
                    sensor.channels[0].component: sensor.uuids
                    for sensor in discovery.sensors
                    if isinstance(sensor, NvmlSensor)
                },
                "pid": os.getpid(),
                "parent_pid": parent_pid,
                "socket": None if socket_path is None else str(socket_path),
                "host": host_name(),
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
            if isinstance(one, SensorEvent):
                self._writer.event(**one.fields, t_ns=one.t_ns)
                continue
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
            while data := os.read(self.marks_end[0], _PIPE_READ):
                whole, newline, rest = (self._partial_mark + data).rpartition(b"\n")
                self._partial_mark = rest
                if newline:
                    self._writer.events(whole + newline)

    def cover(self, t_ns: int) -> None:
        """Reads until every energy channel that works has a reading at or after ``t_ns``.

        Gives up on a channel after two of its update periods, at most :data:`LONGEST_SYNC_S`.
        A time to come is not waited for.
        """
        t_ns = min(t_ns, time.monotonic_ns())
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
        for i, sensor in enumerate(self._sensors):
            if isinstance(sensor, SharingSensor):
                sensor.request()
                self._read(i)
        self.take_marks()

    def event(self, **fields: Any) -> None:
        """Writes down something that happened now."""
        self._writer.event(**fields, t_ns=time.monotonic_ns())

    def sync(self) -> None:
        """Waits until the trace is on the disk."""
        self._writer.sync()

    def finish(self, why: str) -> None:
        """Writes how the recording ended, and closes everything."""
        self.take_marks()
        self.event(event="stop", reason=why)
        self._writer.close()
        for sensor in self._sensors:
            sensor.close()


def _read_safely(sensor: Sensor) -> Sequence[Reading | Gap | SensorEvent]:
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


class _StopRequested(Exception):
    """SIGTERM came."""


def _on_term(_signal: int, _frame: Any) -> None:
    raise _StopRequested


def record(recorder: Recorder, clients: Clients) -> str:
    """Records until there is a reason to stop, and returns it."""
    synced_s = time.monotonic()
    while clients.members:
        due_s = recorder.read_due()
        recorder.take_marks()
        if time.monotonic() - synced_s > SYNC_EVERY_S:
            recorder.sync()
            synced_s = time.monotonic()
        asked: list[tuple[Client, int]] = []
        for client, request in clients.requests(max(0.0, due_s - time.monotonic())):
            if request is None:
                if client.introduced_pid is not None:
                    recorder.event(event="left", pid=client.introduced_pid)
            elif "join" in request:
                client.connection.send(*_welcome(recorder, client, request["join"]))
            elif client.own and "stop" in request:
                recorder.cover(request["stop"])
                return "asked to stop"
            elif isinstance(request.get("sync"), int):
                asked.append((client, request["sync"]))
        if asked:
            # Once for all who ask: ranks do so at about the same time.
            recorder.cover(max(t_ns for _, t_ns in asked))
        for client, t_ns in asked:
            client.connection.send({"synced": t_ns})
    return "the process that was measured ended"


def _welcome(recorder: Recorder, client: Client, who: Message) -> tuple[Message, Sequence[int]]:
    """What a process is answered that wants to join: why it cannot, or the ends of the pipe."""
    now_ns = time.monotonic_ns()
    try:
        apart_ns = abs(who.pop("now_ns") - now_ns)
        gpus = visible_components(who.pop("cuda_visible_devices"), who.pop("cuda_device_order"))
        pid = int(who["pid"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return {"error": "this recorder is of another version of JouleLab"}, ()
    if apart_ns > OTHER_CLOCK_NS:
        return {"error": "this recorder's clock is another, as of another time namespace"}, ()
    if not client.own:
        recorder.event(event="joined", **who, gpus=gpus)
        client.introduced_pid = pid
    return {"ready": now_ns, "pid": os.getpid()}, recorder.marks_end


def main() -> None:
    """``python -m joulelab.recording.recorder CONFIG``, with CONFIG in JSON."""
    config = json.loads(sys.argv[1])
    first = Connection(socket.socket(fileno=config["connection"]))
    if config["detached"] and os.fork():
        # Not a child of a process that it may outlive.
        os._exit(0)
    # Whoever started it may have blocked signals for itself.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_term)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    directory = Path(config["directory"])
    clients = Clients(first, own=not config["detached"])
    try:
        recorder = Recorder(
            directory,
            with_sharing(discover(config["sensors"]), lambda: clients.pids, directory.absolute()),
            config["interval_s"],
            parent_pid=config["parent_pid"],
            socket_path=clients.listen(),
        )
    except (JoulelabError, OSError) as error:
        clients.end({"error": str(error), "exit_code": getattr(error, "exit_code", 1)})
        sys.exit(1)
    temporary = config["temporary"]
    try:
        recorder.read_due()
        why = record(recorder, clients)
    except _StopRequested:
        # Those who are still there will want to read it.
        why, temporary = "terminated", False
    except OSError as error:
        # The disk is full or gone: what is written stays, and the programs learn why.
        clients.end({"error": str(error), "exit_code": 1})
        sys.exit(1)
    clients.stop_listening()
    recorder.finish(why)
    if temporary:
        shutil.rmtree(directory, ignore_errors=True)
    clients.end({"stopped": why})
    # Nothing is left to do, and somebody waits for this end: not for the interpreter's.
    os._exit(0)


def _marks_pipe() -> tuple[int, int]:
    """A pipe for whole lines, of which neither end waits."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, MARKS_PIPE_BYTES)
    return ends


if __name__ == "__main__":
    main()
