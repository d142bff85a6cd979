"""The sensor of a meter: it asks from a thread of its own and never makes anything else wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from joulelab.errors import UserError
from joulelab.format import printable
from joulelab.sensors.meters.entries import KINDS, Entry, absence, read_entries
from joulelab.sensors.meters.readers import Reader, Value, open_reader, quantities
from joulelab.sensors.meters.replies import MeterError
from joulelab.sensors.plausibility import implausible, max_power_w
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Gap,
    Provenance,
    Quantity,
    Reading,
    unknown_window_delay,
)

LONGEST_WAIT_S = 10.0
"""A meter that does not answer is asked again after 1, 2, 4, 8 s, and then this often."""
GRACE_S = 1.0
STRIDE = 1.03
"""A load that repeats with this period would be read at the same moments each time. A little
longer, and all moments come; much longer, and a meter's own updates of 1 s would be missed."""
MOST_WAITING = 10_000
NEGATIVE_W = -1.0
"""Meters read a little below zero when nothing is drawn."""
DELAY_UNCERTAINTY_S = 1.2
"""Meters filter for a second or two, or not at all, and say nothing about it: twice this, next to
their averaging window and the age of a value that is polled."""
UNKNOWN_DELAY = "its delay and averaging window are not known (included in the interval)"


class MeterSensor:
    """Asks a meter every ``interval_s``, and more rarely while it fails.

    A reading has the time halfway between the request and the reply. The meter is asked from the
    first :meth:`read` on.
    """

    def __init__(self, channels: Sequence[Channel], reader: Reader, entry: Entry) -> None:
        self.channels = tuple(channels)
        self.interval_s = entry.interval_s
        self.reader = reader
        self._timeout_s = entry.timeout_s
        self._found: deque[Reading | Gap] = deque(maxlen=MOST_WAITING)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked_s = math.inf
        self._next_report_s = 0.0

    def read(self) -> list[Reading | Gap]:
        """Return what the meter answered since the last call; a gap if it does not answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, daemon=True, name="joulelab-meter")
            self._thread.start()
        found = [self._found.popleft() for _ in range(len(self._found))]
        now_s = time.monotonic()
        if now_s - self._asked_s > self._timeout_s + GRACE_S and now_s >= self._next_report_s:
            self._next_report_s = now_s + self.interval_s
            found += self._gaps(time.monotonic_ns(), f"no answer within {self._timeout_s:g} s")
            self.reader.abort()
        return found

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        self.reader.abort()

    def _poll(self) -> None:
        failures = 0
        while not self._closed.is_set():
            start_s = time.monotonic()
            found, wait_s = self.ask()
            failures = 0 if wait_s is None else failures + 1
            self._found.extend(found)
            if wait_s is None:
                wait_s = self.interval_s * STRIDE
            else:
                backoff_s = self.interval_s * 2.0 ** min(failures - 1, 16)
                wait_s = max(wait_s, min(backoff_s, LONGEST_WAIT_S), self.interval_s)
            self._closed.wait(max(start_s + wait_s - time.monotonic(), 0.0))
        self.reader.close()

    def ask(self) -> tuple[list[Reading | Gap], float | None]:
        """Ask the meter once.

        Returns:
            The readings, and how long at least to leave it alone if it gave none; ``None`` if it
            did.
        """
        self._asked_s, start_ns = time.monotonic(), time.monotonic_ns()
        try:
            values = self.reader.read()
        except MeterError as error:
            # It may quote what a server or a program said.
            return self._gaps(time.monotonic_ns(), printable(str(error))), error.wait_s
        except Exception as error:  # noqa: BLE001  (whatever a strange reply causes is a gap)
            reason = f"its answer cannot be read ({type(error).__name__})"
            return self._gaps(time.monotonic_ns(), reason), 0.0
        finally:
            self._asked_s = math.inf
        t_ns = (start_ns + time.monotonic_ns()) // 2
        return [
            _checked(channel, value, t_ns, position)
            for position, (channel, value) in enumerate(zip(self.channels, values, strict=True))
        ], None

    def _gaps(self, t_ns: int, reason: str) -> list[Reading | Gap]:
        return [Gap(t_ns, position, reason) for position in range(len(self.channels))]


def _checked(channel: Channel, value: Value, t_ns: int, position: int) -> Reading | Gap:
    """Return a reading, or a gap with the reason where the value cannot be."""
    if isinstance(value, str):
        return Gap(t_ns, position, value)
    if not math.isfinite(value):
        return Gap(t_ns, position, f"{channel.source} reports {value}, which is not a number")
    if channel.quantity is Quantity.POWER and not NEGATIVE_W <= value <= max_power_w(channel):
        return Gap(t_ns, position, implausible(channel, value))
    if channel.quantity is Quantity.ENERGY and value < 0:
        return Gap(t_ns, position, f"{channel.source} counts below zero")
    return Reading(t_ns, position, value)


def open_meter(name: str, entry: Entry) -> MeterSensor:
    """Make the sensor of an entry. Nothing is sent yet.

    Raises:
        UserError: Its password or token is missing.
    """
    return MeterSensor(channels_of(name, entry), open_reader(entry), entry)


def open_configured(kinds: Collection[str]) -> tuple[list[MeterSensor], list[Absence]]:
    """Open the meters of some kinds of components; state why others are absent."""
    entries, errors = read_entries()
    sensors, absent = [], []
    if "plug" in kinds or "node" in kinds:
        # A broken entry does not say what it would measure.
        absent = [absence(error, f"plug:{name}") for name, error in errors.items()]
    for name, entry in entries.items():
        component = channels_of(name, entry)[0].component
        if component.partition(":")[0] not in kinds:
            continue
        try:
            sensors.append(open_meter(name, entry))
        except UserError as error:
            absent.append(absence(error, component))
    return sensors, absent


def channels_of(name: str, entry: Entry) -> list[Channel]:
    """Return the channels of a meter."""
    kind, source = KINDS[entry.kind], f"{entry.kind}.{name}"
    percent = entry.uncertainty_pct
    period_s = entry.update_period_s or entry.interval_s
    delay_s, delay_uncertainty_s = _delay(entry, period_s)
    steps = {
        Quantity.POWER: entry.resolution_w or kind.step_w,
        Quantity.ENERGY: entry.resolution_j or kind.step_j,
    }
    found = []
    for position, quantity in enumerate(quantities(entry)):
        is_power = quantity is Quantity.POWER
        is_supply = entry.power_supplies > 0
        component = f"psu:{position}" if is_supply else entry.component_of(name)
        found.append(
            Channel(
                component=component,
                quantity=quantity,
                source=source if is_power else f"{source}.counter",
                provenance=Provenance.MEASURED,
                update_period_s=period_s,
                window_s=entry.window_s if is_power else 0.0,
                delay_s=delay_s,
                polled=True,
                time_uncertainty_s=delay_uncertainty_s,
                resolution=steps[quantity],
                gain_uncertainty=kind.uncertainty if percent is None else percent / 100,
                # A steady power is rounded the same way each time (rectangular, GUM 4.3.7).
                offset_uncertainty_w=steps[quantity] / math.sqrt(12) if is_power else 0.0,
                # A counter misses nothing between two readings. One whose steps are far apart comes
                # after power (:func:`joulelab.energy.signal.observed`).
                priority=1 if is_power else 0,
                max_power_w=entry.max_power_w,
                contains=entry.contained_in(component),
                note=UNKNOWN_DELAY if entry.delay_s is None else "",
            )
        )
    return found


def _delay(entry: Entry, period_s: float) -> tuple[float, float]:
    """Return the delay of a meter's values, and its standard uncertainty."""
    if entry.delay_s is not None:
        return entry.delay_s, entry.delay_uncertainty_s or 0.0
    window_delay_s, off_s = (0.0, 0.0) if entry.window_s else unknown_window_delay(period_s)
    off_s = math.hypot(DELAY_UNCERTAINTY_S, off_s)
    return window_delay_s, entry.delay_uncertainty_s or off_s
