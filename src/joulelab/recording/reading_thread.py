"""Reads the recorder's sensors when they are due, on as few threads as possible.

Waking a thread takes more processor time than most readings. All sensors are therefore read on one
thread, those of the same interval at one waking up, and what they give is queued for the recorder,
which takes it some times a second. Only a sensor that did not answer in time once is left alone on
its thread: the others go on on another one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from queue import Empty, SimpleQueue

from joulelab.sensors.sensor import Gap, Reading, Sensor, SensorEvent

USUAL_READ_S = 0.05
"""A sensor that has not answered by then hangs, and is not waited for until it answers."""

Found = Sequence[Reading | Gap | SensorEvent]


class ScheduledSensor:
    """A sensor, and when it is read: at multiples of ``interval_s``, to read several at a time.

    Attributes:
        due_s: When it is read next, CLOCK_MONOTONIC seconds.
        begun_s: When the call began that is under way; ``None`` if there is none.
    """

    def __init__(self, sensor: Sensor, interval_s: float) -> None:
        self.sensor = sensor
        self.interval_s = interval_s
        self.due_s = 0.0
        self.begun_s: float | None = None

    @property
    def hangs(self) -> bool:
        """Whether the sensor takes longer to answer than it may."""
        begun_s = self.begun_s
        return begun_s is not None and time.monotonic() - begun_s > USUAL_READ_S

    def begin(self, now_s: float) -> bool:
        """Begin a call if it is due, and return whether it is."""
        if now_s < self.due_s:
            return False
        self.begun_s = now_s
        self.due_s = (math.floor(now_s / self.interval_s) + 1) * self.interval_s
        return True

    def finish(self) -> Found:
        """Return what the sensor gives; if it raises although it must not, gaps."""
        try:
            return self.sensor.read()
        except Exception as error:  # noqa: BLE001  (a sensor may come from any package)
            t_ns, reason = time.monotonic_ns(), f"{type(error).__name__}: {error}"
            return [Gap(t_ns, k, reason) for k in range(len(self.sensor.channels))]


class ReadingThread:
    """Reads some sensors, one after another, from :meth:`start` on."""

    def __init__(
        self,
        sensors: Iterable[ScheduledSensor],
        found: SimpleQueue[tuple[ScheduledSensor, Found]],
    ) -> None:
        self._sensors = list(sensors)
        self._found = found
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start reading."""
        threading.Thread(target=self._serve, daemon=True, name="joulelab-sensors").start()

    def ask(self, sensors: Collection[ScheduledSensor]) -> None:
        """Read those of these sensors that are this thread's now, and not when they are due."""
        with self._lock:
            own = [one for one in self._sensors if one in sensors]
            for one in own:
                one.due_s = 0.0
        if own:
            self._asked.put(None)

    def divide(self) -> ReadingThread | None:
        """Leave a sensor that hangs alone. Return a thread for the others, if there are any."""
        with self._lock:
            hanging = [one for one in self._sensors if one.hangs]
            others = [one for one in self._sensors if not one.hangs]
            if not hanging or not others:
                return None
            self._sensors = hanging
        return ReadingThread(others, self._found)

    def stop(self) -> None:
        """Begin no further call."""
        with self._lock:
            self._sensors = []

    def _serve(self) -> None:
        while sensors := self._sensors:
            for one in sensors:
                with self._lock:
                    # Another thread may read it meanwhile.
                    if one not in self._sensors or not one.begin(time.monotonic()):
                        continue
                found = one.finish()
                one.begun_s = None
                self._found.put((one, found))
            wait_s = min(one.due_s for one in sensors) - time.monotonic()
            try:
                while True:
                    self._asked.get(timeout=max(wait_s, 0.0))
                    wait_s = 0.0
            except Empty:
                continue


class SensorReader:
    """All sensors, each on the one thread unless it hung."""

    def __init__(self, sensors: Sequence[ScheduledSensor]) -> None:
        self._sensors = sensors
        self._found: SimpleQueue[tuple[ScheduledSensor, Found]] = SimpleQueue()
        self._threads = [ReadingThread(sensors, self._found)]

    def start(self) -> None:
        """Start reading."""
        self._threads[0].start()

    def take(self) -> list[tuple[ScheduledSensor, Found]]:
        """Return what was read since the last call, and do without the sensors that hang."""
        for thread in list(self._threads):
            if (other := thread.divide()) is not None:
                self._threads.append(other)
                other.start()
        return [self._found.get() for _ in range(self._found.qsize())]

    def ask(self, sensors: Collection[ScheduledSensor]) -> list[tuple[ScheduledSensor, Found]]:
        """Read these sensors now. Return what was read, of others too.

        It waits for those that do not hang, at most :data:`USUAL_READ_S` for each.
        """
        asked = [one for one in sensors if not one.hangs]
"""TODO"""
