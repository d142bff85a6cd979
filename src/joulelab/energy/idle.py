"""Idle power from a recording in which the program paused, on a machine that may be busy.

*Who else worked* is known from the use of each component by other processes
(:mod:`joulelab.sensors.sharing`). A component is idle if that is at most :data:`IDLE_LOAD`.

*The quietest part counts*: the whole time if every component was idle in it, or else the continuous
half of the requested duration in which the machine was used least.

*What stays unknown* is what the others added: idle power is at most what was measured, P. At least
it is what a component with the smallest idle share s of its full power would draw, and no component
draws more than its bound M (:mod:`joulelab.sensors.plausibility`). If power rose straight with use
from idle to full power, a fraction b of full use would add ``b (1 / s - 1)`` times idle power; the
first busy core costs more than the others, since it wakes the shared parts of the chip and runs at
a higher clock, for which b is replaced by its root g. Less than one of N hardware threads is one
thread for a part of the time, so that g is at most ``b sqrt(N)`` for processors. So

    P / (1 + (1 / s - 1) g) <= idle power <= P,    (P - g M) / (1 - g) <= idle power

If a component was not idle, the middle of this range is taken, with a standard uncertainty whose
95 % interval is all of it. If it was idle, P is taken, because services of the operating system
work during the run, too; the 95 % interval reaches down to the lower end for a typical idle share.
Where power is calculated from a model, idle power is the model's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from joulelab.energy.attribution import MIN_SAMPLED, Attribution, other_processes
from joulelab.energy.baseline import IdlePoint, Load, describe_load
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator, mean_reading
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.plausibility import max_power_w
from joulelab.sensors.processes import REPORT_EVERY_S
from joulelab.sensors.sensor import Channel, Provenance, Quantity
from joulelab.uncertain import COVERAGE_FACTOR

IDLE_LOAD = {"cpu": 0.1, "gpu": 0.02}
"""An idle component is used at most this much by others: hardware threads, and part of a GPU."""
IDLE_CPU_FRACTION = 0.005
"""On large machines: or this part of all hardware threads."""
OWN_LOAD = 0.1
"""The recorder and a program that pauses use at most this many hardware threads: whatever the job
uses beyond that, its other processes and threads do."""
LEAST_IDLE_SHARE = 0.005
"""Least idle power relative to full power. A bound of this project: a laptop's processor in its
deepest state draws about 0.3 W, of 55 W at its turbo limit (Core i7-1255U). A desktop processor
with about 4 of 125 W and a graphics card with 15 of 450 W have 0.03, an H100 0.1 (70 of 700 W), and
cloud machines on average 0.21 (:data:`joulelab.sensors.estimates.IDLE_SHARE`)."""
TYPICAL_IDLE_SHARE = 0.05
"""The same where others used so little of a component that it counts as idle: of hosts whose shares
lie evenly between 0.02 and 0.6, 95 % have more."""
WINDOW_SHARE = 0.5
"""Length of the quietest part relative to the requested duration."""
STEPS = 8
"""Positions of that part per length of it."""
NEAR_S = 5.0
"""Utilisation within this time counts if none was read in a part: GPUs of large nodes are read as
rarely as that."""
SLICES = 10
"""Number of slices whose scatter shows how much idle power varies."""
LEAST_SLICE_S = 0.25

_NS = 1e-9


class IdleMeasurement:
    """The quietest part of a pause, CLOCK_MONOTONIC, and how much others used the machine in it.

    Args:
        trace: Recording of the pause.
        start_ns: When the pause began.
        stop_ns: When it ended, or now.
        duration_s: Duration that was requested (the paper's T_m); the pause may have lasted longer.
        threads: Hardware threads of the machine.

    Attributes:
        window: The quietest part.
        load: Use by others of each component that was not idle; none of a GPU that they only hold.
    """

    def __init__(
        self,
        trace: Trace,
        start_ns: int,
        stop_ns: int,
        duration_s: float,
        threads: int = os.cpu_count() or 1,
    ) -> None:
        self._trace, self._threads = trace, threads
        self._attribution = Attribution(trace)
        self._select(Window(start_ns, stop_ns))
        if not self.is_quiet:
            self._select(min(_parts(start_ns, stop_ns, duration_s), key=self._quietness))

    @property
    def is_quiet(self) -> bool:
        """Whether no component whose idle power has to be measured was used by others."""
        return not any(self._is_busy(name) for name in self._measured())

    @property
    def unknown(self) -> list[str]:
        """Components whose use by others is unknown, so that they may have been busy."""
        simulated = all(
            channel.provenance is Provenance.SIMULATED
            for channel in self._trace.channels
            if channel.gives_energy
        )
        names = [] if simulated else self._components()
        return [name for name in names if math.isnan(self._use_of(name, self.window))]

    @property
    def load_text(self) -> str:
        """Who used the machine in the quietest part."""
        return describe_load(self.load)

    def point(self) -> IdlePoint:
        """Return the idle power, with what the load leaves unknown."""
        slices = _slices(self.window)
        estimator = EnergyEstimator(self._trace)
        whole, *parts = estimator.energies([self.window, *slices])
        middle_s = (self.window.start_ns + self.window.stop_ns) / 2 * _NS
        point = IdlePoint.from_energy(whole, middle_s)
        power_w, uncertainty_w = dict(point.power_w), dict(point.uncertainty_w)
        busy_w: dict[str, float] = {}
        load_uncertainty_w: dict[str, float] = {}
        for name, source in estimator.sources.items():
            if name not in power_w:
                continue
            if source.idle_w is not None:
                power_w[name] = max((source.idle_w - source.offset_w) / source.gain, 0.0)
                uncertainty_w[name] = 0.0
                continue
            range_w = power_w[name] - self._least_w(source, power_w[name])
            if self._is_busy(name):
                busy_w[name] = power_w[name]
                range_w /= 2
                power_w[name] -= range_w
            if range_w > 0:
                load_uncertainty_w[name] = range_w / COVERAGE_FACTOR
            uncertainty_w[name] = math.hypot(
                uncertainty_w[name], _scatter_w(name, parts), range_w / COVERAGE_FACTOR
            )
        unknown = {one for one in self._measured() if {*_by_use([one])} & {*self.unknown}}
        return replace(
            point,
            power_w=power_w,
            uncertainty_w=uncertainty_w,
            load=self.load,
            busy_w=busy_w,
            unknown=tuple(sorted(unknown & power_w.keys())),
            load_uncertainty_w=load_uncertainty_w,
        )

    def _measured(self) -> list[str]:
        """Name the components whose idle power is not known from a model."""
        return [
            channel.component
            for channel in self._trace.channels
            if channel.gives_energy and channel.idle_w is None
        ]

    def _select(self, window: Window) -> None:
        self.window, self._used = window, self._use(window)
        start_ns = window.start_ns - REPORT_EVERY_S / _NS
        held = other_processes(self._trace, start_ns, window.stop_ns, worked=False)
        # Where the use of each process is unknown, those that have a context may have worked.
        users = held | other_processes(self._trace, start_ns, window.stop_ns)
        self.load = {}
        for name, fraction in self._used.items():
            if fraction > self._idle_fraction(name):
                named = users.get(name)
                self.load[name] = Load(min(fraction, 1.0), str(named) if named else "")
        for name, holders in held.items():
            self.load.setdefault(name, Load(0.0, str(holders)))

    def _users_of(self, component: str) -> list[str]:
        """Name what the known use is recorded by that may raise a component's power.

        Components other than GPUs depend on the processors; what encloses others, on all.
        """
        kind = component.partition(":")[0]
        if kind == "gpu":
            found = [component]
        else:
            found = ["cpu"] if kind in ("cpu", "dram") else [*self._used]
        return [name for name in found if name in self._used]

    def _is_busy(self, component: str) -> bool:
        found = (self.load[name] for name in self._users_of(component) if name in self.load)
        return any(load.fraction > 0 for load in found)

    def _least_w(self, source: Channel, power_w: float) -> float:
        """Return the least idle power of a component that drew this much next to others' use."""
        users = self._users_of(source.component)
        growth = max((self._growth(name, self._used[name]) for name in users), default=0.0)
        share = LEAST_IDLE_SHARE if self._is_busy(source.component) else TYPICAL_IDLE_SHARE
        by_share_w = power_w / (1 + (1 / share - 1) * growth)
        by_bound_w = (power_w - growth * max_power_w(source)) / (1 - growth) if growth < 1 else 0.0
        return max(by_share_w, min(by_bound_w, power_w))

    def _growth(self, name: str, fraction: float) -> float:
        """Return how far use may raise power from idle to full power, 0 to 1."""
        threads = self._threads if name == "cpu" else math.inf
        fraction = min(max(fraction, 0.0), 1.0)
        return min(math.sqrt(fraction), fraction * math.sqrt(threads)) if fraction else 0.0

    def _quietness(self, window: Window) -> tuple[int, float]:
        """Return of how many components to measure the use is unknown, and the most of any other.

        The most is relative to what counts as idle.
        """
        used, measured = self._use(window), _by_use(self._measured())
        relative = [used[name] / self._idle_fraction(name) for name in measured if name in used]
        return len(measured) - len(relative), max(relative, default=0.0)

    def _idle_fraction(self, component: str) -> float:
        if component != "cpu":
            return IDLE_LOAD["gpu"]
        return max(IDLE_LOAD["cpu"] / self._threads, IDLE_CPU_FRACTION)

    def _use(self, window: Window) -> dict[str, float]:
        """Return the part of each component that others used, where it is known."""
        found = {name: self._use_of(name, window) for name in self._components()}
        return {name: fraction for name, fraction in found.items() if not math.isnan(fraction)}

    def _components(self) -> list[str]:
        """Name the components by which use is recorded."""
        channels = self._trace.channels
        return _by_use([channel.component for channel in channels if channel.gives_energy])

    def _use_of(self, name: str, window: Window) -> float:
        """Return others' part of a component, by processes or by its utilisation; NaN if unknown.

        The program paused: it does not use the GPU, and hardly the processors. Its children may.
        """
        fraction = math.nan
        used = self._attribution.use(name, np.array([window.of(name)]))
        threads = self._threads if name == "cpu" else 1
        if used is not None and used.unseen[0] <= 1 - MIN_SAMPLED:
            known_s, own_s = float(used.known_s[0]), float(used.job_s[0])
            if name == "cpu":
                own_s = min(own_s, OWN_LOAD * known_s)
            fraction = (float(used.all_s[0]) - own_s) / known_s / threads
            if name == "cpu":
                return fraction
        source, near_ns = "host" if name == "cpu" else name, round(NEAR_S / _NS)
        near = Window(window.start_ns - near_ns, window.stop_ns + near_ns)
        found_pct = (
            mean_reading(self._trace, source, Quantity.UTILIZATION, [one]) for one in (window, near)
        )
        utilization_pct = next((one for one in found_pct if not math.isnan(one)), math.nan)
        return float(np.fmax(fraction, utilization_pct / 100))


def _by_use(components: Sequence[str]) -> list[str]:
    """Name what use is recorded by: each GPU, and the processors for everything else."""
    names = (name if name.startswith("gpu") else "cpu" for name in components)
    return list(dict.fromkeys(names))


def unchecked_since_ns(start_ns: int, checked_ns: int, stop_ns: int, duration_s: float) -> int:
    """Return from when on a pause has parts that end after a time at which it was not quiet.

    The parts from there on are also parts of the whole pause.
    """
    length_ns, step_ns = _part_ns(start_ns, stop_ns, duration_s)
    return start_ns + max(checked_ns - length_ns - start_ns, 0) // step_ns * step_ns


def _part_ns(start_ns: int, stop_ns: int, duration_s: float) -> tuple[int, int]:
    """Return the length of the quietest part, and the distance of its possible positions."""
    length_ns = round(min(WINDOW_SHARE * duration_s / _NS, stop_ns - start_ns))
    return length_ns, max(length_ns // STEPS, 1)


def _parts(start_ns: int, stop_ns: int, duration_s: float) -> list[Window]:
    """Return the continuous parts of a pause to choose from; of equally quiet ones the first is."""
    length_ns, step_ns = _part_ns(start_ns, stop_ns, duration_s)
    starts = range(start_ns, stop_ns - length_ns + 1, step_ns)
    return [Window(one_ns, one_ns + length_ns) for one_ns in starts]


def _slices(window: Window) -> list[Window]:
    """Divide a window into equal slices; none if it is too short for two."""
    length_ns = window.stop_ns - window.start_ns
    number = min(SLICES, int(length_ns * _NS / LEAST_SLICE_S))
    edges = np.linspace(window.start_ns, window.stop_ns, number + 1).round().astype(int).tolist()
    return [Window(*pair) for pair in pairwise(edges)] if number > 1 else []


def _scatter_w(component: str, slices: Sequence[Energy]) -> float:
    """Return the standard uncertainty of a mean power by the scatter of its slices.

    What the sensor adds at the edges of slices does not count.
    """
    parts = [one.all_parts[component] for one in slices if component in one.all_parts]
    if len(parts) < 2:
        return 0.0
    variance = np.var([part.mean_power_w for part in parts], ddof=1)
    edges = np.mean([(part.edge_uncertainty_j / part.duration_s) ** 2 for part in parts])
    return math.sqrt(max(float(variance - edges), 0.0) / len(parts))
