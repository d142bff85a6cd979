"""Reads the recorder's sensors when they are due, on as few threads as possible.

Waking a thread takes more processor time than most readings do. All sensors are therefore read on
one thread, several at a time, and what they give waits until the recorder takes it. Only a sensor
that does not answer in time is left behind on its thread: the others continue on a new one.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from joulelab.sensors.sensor import Gap, Reading, Sensor, SensorEvent

USUAL_READ_S = 0.05
"""A sensor that has not answered by then hangs, and is not waited for until it answers."""
ALONE_S = 600.0
"""A sensor that hung is read on a thread of its own for at least this long. It may just have been a
moment in which the machine was busy."""
POLL_S = 0.001


class ScheduledSensor:
    """A sensor that is read at multiples of its interval, so that one waking up serves many.

    Attributes:
        position: Identifies it.
        due_s: When it is read next, CLOCK_MONOTONIC seconds.
        begun_s: When the call began that is under way; ``None`` if there is none.
    """

    def __init__(self, position: int, sensor: Sensor, interval_s: float) -> None:
        self.position = position
        self.sensor = sensor
        self.interval_s = interval_s
        self.due_s = 0.0
        self.begun_s: float | None = None

    @property
    def hangs(self) -> bool:
        """Whether the call that is under way takes longer than usual."""
        begun_s = self.begun_s
        return begun_s is not None and time.monotonic() - begun_s > USUAL_READ_S

    def begin(self) -> float | None:
        """Begin a call if it is due, and return when; otherwise ``None``."""
        now_s = time.monotonic()
        if now_s < self.due_s:
            return None
        self.begun_s = now_s
        self.due_s = (math.floor(now_s / self.interval_s) + 1) * self.interval_s
        return now_s

    def read(self) -> Sequence[Reading | Gap | SensorEvent]:
        """Return what the sensor gives; if it raises although it must not, gaps."""
        try:
            return self.sensor.read()
        except Exception as error:  # noqa: BLE001  (a sensor may come from any package)
            t_ns, reason = time.monotonic_ns(), f"{type(error).__name__}: {error}"
            return [Gap(t_ns, k, reason) for k in range(len(self.sensor.channels))]


class Answer(NamedTuple):
    """What a call gave of the sensor at ``position``; it began at ``begun_s``."""

    position: int
    begun_s: float
    found: Sequence[Reading | Gap | SensorEvent]


class _ReadingThread:
    """A thread that reads its sensors one after another, each when it is due."""

    def __init__(self, sensors: Iterable[ScheduledSensor], answers: SimpleQueue[Answer]) -> None:
        self._sensors = list(sensors)
        self._answers = answers
        self._asleep = threading.Lock()
        self._lock = threading.Lock()
        self._called: ScheduledSensor | None = None
        threading.Thread(target=self._serve, daemon=True, name="joulelab-sensors").start()

    def wake(self, sensors: Collection[ScheduledSensor]) -> None:
        """Read its own of these sensors now."""
        with self._lock:
            for one in self._sensors:
                if one in sensors:
                    one.due_s = 0.0
        self._awake()

    def add(self, sensors: Iterable[ScheduledSensor]) -> None:
        """Take over sensors of a thread that stopped."""
        with self._lock:
            self._sensors = [*self._sensors, *sensors]
        self._awake()

    def release(self) -> list[ScheduledSensor]:
        """Keep only the sensor that hangs, if one does, and return the others."""
        with self._lock:
            called = self._called
            if called is None or not called.hangs:
                return []
            others = [one for one in self._sensors if one is not called]
            self._sensors = [called]
            return others

    def stop(self, *, even_in_call: bool = True) -> list[ScheduledSensor]:
        """Begin no further call, and return the sensors; or none if it may not stop in a call."""
        with self._lock:
            if not even_in_call and self._called is not None:
                return []
            sensors, self._sensors = self._sensors, []
        self._awake()
        return sensors

    def _awake(self) -> None:
        with contextlib.suppress(RuntimeError):  # It is awake.
            self._asleep.release()

    def _serve(self) -> None:
        while sensors := self._sensors:
            now_s = time.monotonic()
            for one in sensors:
                if one.due_s > now_s:
                    continue
                with self._lock:
                    # By now it may be another thread's.
                    begun_s = one.begin() if one in self._sensors else None
                    self._called = None if begun_s is None else one
                if begun_s is not None:
                    self._answers.put(Answer(one.position, begun_s, one.read()))
                    self._called = one.begun_s = None
            due_s = min([one.due_s for one in self._sensors], default=0.0)
            # A queue or an event would take a fifth more processor time, ten times a second.
            self._asleep.acquire(timeout=max(due_s - time.monotonic(), 0.0))


class SensorReader:
    """Reads sensors from now on, each when it is due. One that hangs delays the others only once.

    Args:
        sensors: Each with the interval at which it is read, s.
    """

    def __init__(self, sensors: Iterable[tuple[Sensor, float]]) -> None:
        self._scheduled = [ScheduledSensor(i, *one) for i, one in enumerate(sensors)]
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._shared = _ReadingThread(self._scheduled, self._answers)
        self._alone: list[tuple[float, _ReadingThread]] = []

    def take(self) -> list[Answer]:
        """Return the answers since the last call."""
        now_s = time.monotonic()
        if others := self._shared.release():
            self._alone.append((now_s, self._shared))
            self._shared = _ReadingThread(others, self._answers)
        for since_s, thread in list(self._alone):
            if now_s - since_s > ALONE_S and (quick := thread.stop(even_in_call=False)):
                self._alone.remove((since_s, thread))
                self._shared.add(quick)
        return [self._answers.get() for _ in range(self._answers.qsize())]

    def begin(self) -> list[Answer]:
        """Return the first answers of the sensors that do not hang: nothing is measured before."""
        return self._wait_for(self._scheduled, 0.0)

    def read_now(self, positions: Collection[int]) -> list[Answer]:
        """Read sensors now. Return all answers since the last call, those of others too."""
        asked_s = time.monotonic()
        asked = [self._scheduled[one] for one in positions if not self._scheduled[one].hangs]
        for thread in (self._shared, *(thread for _, thread in self._alone)):
            thread.wake(asked)
        return self._wait_for(asked, asked_s)

    def _wait_for(self, sensors: Sequence[ScheduledSensor], since_s: float) -> list[Answer]:
        """Return all answers when those of sensors that do not hang are there.

        It takes no longer than all need that are just quick enough.
        """
        until_s = time.monotonic() + USUAL_READ_S * (len(sensors) + 1)
        answers = self.take()
        waiting = list(sensors)
        while True:
            answered = {one.position for one in answers if one.begun_s >= since_s}
            waiting = [one for one in waiting if one.position not in answered and not one.hangs]
            if not waiting or time.monotonic() > until_s:
                return answers
            with contextlib.suppress(Empty):
                answers.append(self._answers.get(timeout=USUAL_READ_S))
            answers += self.take()

    def stop(self) -> tuple[list[Answer], list[Sensor]]:
        """Stop reading. Return the last answers, and the sensors that are not in a call."""
        for thread in (self._shared, *(thread for _, thread in self._alone)):
            thread.stop()
        while any(one.begun_s is not None and not one.hangs for one in self._scheduled):
            time.sleep(POLL_S)
        return self.take(), [one.sensor for one in self._scheduled if one.begun_s is None]
