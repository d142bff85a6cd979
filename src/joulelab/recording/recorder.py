"""The recorder: a process of its own that reads the sensors and appends to a trace.

It imports only the standard library, msgspec and the sensors, so that it starts in a tenth of a
second and stays small. It serves the process that started it and those that join. It ends on
request, with the last of them, or at SIGTERM; however it ends, what it has written stays readable.

Programs append their lines of JSON to ``events.jsonl`` themselves. *Lines* of forked children,
which must not wait for a disk, come through one pipe for all of them. They are taken whenever the
recorder wakes up, so sending them never wakes it. *Requests* come on a connection to
each process (:mod:`joulelab.recording.connections`) and wake it: ``{"join": {...}}`` introduces a
process and asks for the pipe, ``{"sync": t_ns}`` asks it to read until every energy channel has
covered that time, ``{"stop": t_ns}`` the same and then to end, for all.

The sensors are read on another thread (:mod:`joulelab.recording.sensor_reader`). The recorder takes
and writes what they gave some times a second, since each waking up takes processor time.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.errors import JoulelabError, RecorderError
from joulelab.recording.connections import (
    Client,
    Clients,
    Message,
    MessageSocket,
)
from joulelab.recording.launcher import Launch, current_batch_job, host_name
from joulelab.recording.sensor_reader import Answer, SensorReader
from joulelab.recording.trace_format import TEMPORARY, TraceWriter, pack_all
from joulelab.sensors.discovery import discover
from joulelab.sensors.host import ClockSensor, boot_id
from joulelab.sensors.interfaces import InterfaceBytes
from joulelab.sensors.network import NetworkSensor, with_network
from joulelab.sensors.nvml import NvmlSensor, visible_components
from joulelab.sensors.sensor import Channel, Discovery, Reading, Sensor, SensorEvent
from joulelab.sensors.sharing import SharingSensor, with_sharing
from joulelab.storage import in_use, remove_abandoned
from joulelab.validation import Count, InvalidData, Nanoseconds, convert

SYNC_EVERY_S = 30.0
LONGEST_COVER_S = 2.0
SLOW_UPDATE_S = 1.0
"""Only the end of the recording waits for sensors that update this rarely: a program that asks for
the energy of each epoch would lose a second each time."""
TAKE_EVERY_S = 0.5
"""How often readings are written: what a kill of the recorder loses, and how long a sensor that
hangs may delay the others."""
OTHER_CLOCK_NS = 60 * 10**9
"""A process whose clock differs this much from the recorder's is in another time namespace."""
OBJECTS_PER_COLLECTION = 10_000
"""The usual 700 are fewer than the readings that wait to be written, which are no garbage."""
PIPE_BYTES = 1 << 20
_PIPE_READ = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Description of a process that joins, by itself."""

    pid: Count
    now_ns: Nanoseconds
    cuda_visible_devices: str | None
    cuda_device_order: str | None
    launch: Launch | None
    gpus_on_host: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a process: one of these."""

    join: Introduction | None = None
    sync: Nanoseconds | None = None
    stop: Nanoseconds | None = None


class Recorder:
    """Writes what sensors give.

    Its ``pipe`` takes the lines of all forked children. Processes can join at ``socket_path``.
    """

    def __init__(
        self,
        directory: Path,
        discovery: Discovery,
        interval_s: float | None,
        *,
        parent_pid: int,
        socket_path: Path | None,
        complements: bool = False,
    ) -> None:
        job = current_batch_job()
        self._sensors: list[Sensor] = [*discovery.sensors, ClockSensor()]
        self._intervals_s = [
            min(sensor.interval_s, interval_s) if interval_s else sensor.interval_s
            for sensor in self._sensors
        ]
        self._first_channel: list[int] = []
        channels: list[Channel] = []
        for sensor in self._sensors:
            self._first_channel.append(len(channels))
            channels.extend(sensor.channels)
        self._latest_ns = [0] * len(channels)
        self._reasons: dict[int, str] = {}
        self.pipe = _nonblocking_pipe()
        self._partial_line = b""
        self.writer = TraceWriter(
            directory,
            {
                "channels": [channel.to_json() for channel in channels],
                "intervals_s": [
                    interval_s
                    for sensor, least_s in zip(self._sensors, self._intervals_s, strict=True)
                    for interval_s in _channel_intervals_s(sensor, least_s)
                ],
                "absent": [absence.to_json() for absence in discovery.absent],
                "gpus": {
                    sensor.component: sensor.uuids
                    for sensor in discovery.sensors
                    if isinstance(sensor, NvmlSensor)
                },
                "pid": os.getpid(),
                "parent_pid": parent_pid,
                "socket": None if socket_path is None else str(socket_path),
                "host": host_name(),
                "boot_id": boot_id(),
                "job": None if job is None else job.to_json(),
                "complements": complements,
                "start_ns": time.monotonic_ns(),
                "start_unix_s": time.time(),
            },
        )
        self._reader = SensorReader(zip(self._sensors, self._intervals_s, strict=True))

    def begin(self) -> None:
        """Write the first readings."""
        self._write(self._reader.begin())

    def take_readings(self) -> None:
        """Write what the sensors gave since the last call."""
        self._write(self._reader.take())

    def _write(self, answers: Iterable[Answer]) -> None:
        """Write what calls gave."""
        latest_ns, reasons = self._latest_ns, self._reasons
        readings: list[tuple[int, float, int]] = []
        for answer in answers:
            first = self._first_channel[answer.position]
            for one in answer.found:
                if isinstance(one, SensorEvent):
                    self.writer.event(**one.fields, t_ns=one.t_ns)
                    continue
                t_ns, channel, value = one.t_ns, first + one.channel, math.nan
                if isinstance(one, Reading):
                    value = one.value
                    latest_ns[channel] = max(latest_ns[channel], t_ns)
                    reasons.pop(channel, None)
                elif reasons.get(channel) != one.reason:
                    reasons[channel] = one.reason
                    self.writer.event(event="gap", channel=channel, t_ns=t_ns, reason=one.reason)
                readings.append((t_ns, value, channel))
        self.writer.readings([pack_all(readings)])

    def take_lines(self) -> None:
        """Move the lines that have arrived to the trace; an incomplete one waits."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.pipe[0], _PIPE_READ):
                whole, newline, rest = (self._partial_line + data).rpartition(b"\n")
                self._partial_line = rest
                if newline:
                    self.writer.events(whole + newline)

    def cover(self, t_ns: int, *, is_end: bool = False) -> None:
        """Read until every working energy channel has a reading at or after ``t_ns``.

        Slow sensors are waited for at the end of the recording only. Gives up on a channel after
        two of its update periods, at most :data:`LONGEST_COVER_S`, and on one that does not answer
        after that time. A time in the future is not waited for.
        """
        t_ns = min(t_ns, time.monotonic_ns())
        waiting = {
            i
            for i, sensor in enumerate(self._sensors)
            if any(
                channel.gives_energy and (is_end or channel.update_period_s < SLOW_UPDATE_S)
                for channel in sensor.channels
            )
        }
        for i in waiting:
            sensor = self._sensors[i]
            if isinstance(sensor, NvmlSensor):
                sensor.request()
        begin_s = time.monotonic()
        answered: set[int] = set()
        while waiting:
            answers = self._reader.read_now(waiting)
            answered.update(one.position for one in answers if one.begun_s >= begin_s)
            self._write(answers)
            for i in sorted(waiting):
                first = self._first_channel[i]
                behind = [
                    channel
                    for k, channel in enumerate(self._sensors[i].channels)
                    if channel.gives_energy
                    and channel.update_period_s <= LONGEST_COVER_S
                    and first + k not in self._reasons
                    and self._latest_ns[first + k] < t_ns + _staleness_ns(channel)
                ]
                patience_s = max((2 * channel.update_period_s for channel in behind), default=0.0)
                spent_s = time.monotonic() - max(begin_s, t_ns * 1e-9)
                if i in answered:
                    longest_s = min(patience_s + 0.05, LONGEST_COVER_S)
                else:
                    longest_s = LONGEST_COVER_S
                if not behind or spent_s > longest_s:
                    waiting.discard(i)
            if waiting:
                time.sleep(0.005)
        asked = set()
        for i, sensor in enumerate(self._sensors):
            if isinstance(sensor, SharingSensor):
                sensor.request()
            if isinstance(sensor, (NetworkSensor, SharingSensor)):
                asked.add(i)
        self._write(self._reader.read_now(asked))
        self.take_lines()

    def event(self, **fields: Any) -> None:
        """Write an event with the current time."""
        self.writer.event(**fields, t_ns=time.monotonic_ns())

    def finish(self, reason: str) -> None:
        """Write why the recording stopped, and close everything."""
        answers, idle = self._reader.stop()
        self._write(answers)
        self.take_lines()
        self.event(event="stop", reason=reason)
        self.writer.close()
        for sensor in idle:
            sensor.close()


def _channel_intervals_s(sensor: Sensor, least_s: float) -> list[float]:
    """Return how often each channel is read: a GPU's do not all have a value each time."""
    if isinstance(sensor, NvmlSensor):
        return [max(interval_s, least_s) for interval_s in sensor.intervals_s]
    return [least_s] * len(sensor.channels)


def _staleness_ns(channel: Channel) -> int:
    """Return how much older than its timestamp a value may be."""
    return round(channel.update_period_s * 1e9) if channel.polled else 0


def _nonblocking_pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return ends


def serve(recorder: Recorder, clients: Clients) -> str:
    """Record and answer requests until there is a reason to stop, and return it."""
    synced_s = time.monotonic()
    while clients.members:
        recorder.take_readings()
        recorder.take_lines()
        if time.monotonic() - synced_s > SYNC_EVERY_S:
            recorder.writer.sync()
            synced_s = time.monotonic()
        syncs: list[tuple[Client, int]] = []
        for client, request in clients.requests(TAKE_EVERY_S):
            if request is None:
                if client.introduced_pid is not None:
                    recorder.event(event="left", pid=client.introduced_pid)
            elif (known := _checked(client, request)) is None:
                continue
            elif known.join is not None:
                client.connection.send(*_welcome(recorder, client, known.join))
            elif known.stop is not None and client.owner:
                recorder.cover(known.stop, is_end=True)
                return "asked to stop"
            elif known.sync is not None:
                syncs.append((client, known.sync))
        if syncs:
            # Once for all of them: ranks request it at about the same time.
            recorder.cover(max(t_ns for _, t_ns in syncs))
        for client, t_ns in syncs:
            client.connection.send({"synced": t_ns})
    return "the measured process ended"


def _checked(client: Client, request: Message) -> Request | None:
    """Check a request, which may be another version's; a strange one is logged and ignored."""
    try:
        return convert(request, Request)
    except InvalidData as error:
        sys.stderr.write(f"ignored a request of process {client.pid}: {error}\n")
        if "join" in request:
            client.connection.send({"error": "this recorder is of another version of JouleLab"})
        return None


def _welcome(
    recorder: Recorder, client: Client, introduction: Introduction
) -> tuple[Message, Sequence[int]]:
    """Answer a process that wants to join: with the pipe, or with why it cannot."""
    now_ns = time.monotonic_ns()
    if abs(introduction.now_ns - now_ns) > OTHER_CLOCK_NS:
        return {"error": "this recorder's clock differs, as in another time namespace"}, ()
    if not client.owner:
        gpus = visible_components(introduction.cuda_visible_devices, introduction.cuda_device_order)
        recorder.event(
            event="joined",
            pid=introduction.pid,
            launch=introduction.launch and introduction.launch.to_json(),
            gpus_on_host=introduction.gpus_on_host,
            gpus=gpus,
        )
        client.introduced_pid = introduction.pid
    return {"ready": now_ns, "pid": os.getpid()}, recorder.pipe


class _Terminated(Exception):
    """SIGTERM arrived."""


def _on_sigterm(_signal: int, _frame: Any) -> None:
    raise _Terminated


def _complementing(discovery: Discovery, gpus_read: Sequence[str]) -> Discovery:
    """Leave only GPUs that no other recorder of the job reads on this host.

    Raises:
        RecorderError: There is none.
    """
    sensors = tuple(
        sensor
        for sensor in discovery.sensors
        if isinstance(sensor, NvmlSensor) and not set(sensor.uuids) <= set(gpus_read)
    )
    if not sensors:
        raise RecorderError("this process sees no further GPU")
    return Discovery(sensors, ())


def main() -> None:
    """Run ``python -m joulelab.recording.recorder CONFIG``, with CONFIG in JSON."""
    config = json.loads(sys.argv[1])
    first = MessageSocket(socket.socket(fileno=config["connection"]))
    if config["detached"] and os.fork():
        # The recorder must not be a child of a process that it may outlive.
        os._exit(0)
    # The process that started it may have blocked signals.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    directory = Path(config["directory"])
    clients = Clients(first, owner=not config["detached"])
    gpus_read, before = config["gpus_read"], InterfaceBytes(*config["network"])
    try:
        found = discover(config["sensors"])
        if gpus_read is None:
            found = with_network(found, before)
        else:
            found = _complementing(found, gpus_read)
        recorder = Recorder(
            directory,
            with_sharing(
                found, lambda: clients.pids, directory.absolute(), launched_ns=before.t_ns
            ),
            config["interval_s"],
            parent_pid=config["parent_pid"],
            socket_path=clients.listen(),
            complements=gpus_read is not None,
        )
    except (JoulelabError, OSError) as error:
        clients.end({"error": str(error), "exit_code": getattr(error, "exit_code", 1)})
        sys.exit(1)
    temporary = config["temporary"]
    if clients.obstacle:
        recorder.event(event="obstacle", reason=clients.obstacle)
    _in_use = in_use(directory)  # Until this process ends.
    remove_abandoned(TEMPORARY)
    try:
        recorder.begin()
        reason = serve(recorder, clients)
    except _Terminated:
        # The remaining processes will want to read the trace.
        reason, temporary = "terminated", False
    except OSError as error:
        # The disk is full or gone: what is written stays, and the programs get the reason.
        clients.end({"error": str(error), "exit_code": 1})
        sys.exit(1)
    clients.stop_listening()
    recorder.finish(reason)
    if temporary:
        shutil.rmtree(directory, ignore_errors=True)
    clients.end({"stopped": reason})
    # Skip interpreter shutdown: a client is waiting for this process to exit.
    os._exit(0)


if __name__ == "__main__":
    main()
