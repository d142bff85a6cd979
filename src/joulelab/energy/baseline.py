"""Idle power over time, and how it is subtracted from an energy.

The paper subtracts the idle energy of a fixed interval T_m (Eqs. 1 and 2), which is right only if
T_m is as long as the run. Here idle *power* is measured over T_m, before and after, and idle power
times the span's own length is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from joulelab.arrays import Floats
from joulelab.energy.energy import Energy, sensor_of
from joulelab.format import join_words, percent
from joulelab.validation import Finite, NotNegative, convert

UNKNOWN_DRIFT = 0.04
"""Relative standard uncertainty of idle power measured on one side of a span only.

An H100's idle power rose from 119 to 128 W (7 %) within three minutes of work; a rectangular
distribution of that width has a standard deviation of 2 %, doubled since boards differ."""

IDLE_NOTE = "idle power"
"""Beginning of every note that concerns only the net energy."""
BUSY_IDLE = f"{IDLE_NOTE} was measured on a busy machine"
"""Beginning of the note of an energy whose idle power is doubtful."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much other processes used a component while its idle power was measured."""

    fraction: NotNegative  # Mean part that they used, 0 to 1; 0: they only had a context on a GPU.
    users: str = ""  # Their names with pids, the busiest first.


def describe_load(load: Mapping[str, Load]) -> str:
    """Describe who used which component.

    Example:
        >>> describe_load({"cpu": Load(0.5, "make (pid 7)"), "gpu:0": Load(1.0)})
        '50 % of the CPU used by make (pid 7) and 100 % of gpu:0 used'
        >>> describe_load({"gpu:0": Load(0.0, "python (pid 7)")})
        'gpu:0 held by python (pid 7)'
    """
    texts = []
    for component, one in load.items():
        if not one.fraction:
            texts.append(f"{component} held by {one.users}")
            continue
        label = "the CPU" if component == "cpu" else component
        who = f" by {one.users}" if one.users else ""
        texts.append(f"{percent(one.fraction, 2)} of {label} used{who}")
    return join_words(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePoint:
    """Idle power measured once.

    On a busy machine ``power_w`` is the middle of what idle power may be, and ``uncertainty_w``
    covers all of it; see :mod:`joulelab.energy.idle`.
    """

    time_s: Finite  # Middle of the measurement, on a clock of the caller's choice.
    duration_s: NotNegative  # T_m.
    power_w: Mapping[str, NotNegative]  # Mean idle power by component.
    uncertainty_w: Mapping[str, NotNegative]  # Standard; gain and offset are in the gross energy.
    source: Mapping[str, str]  # The channel of each; idle power of another does not apply.
    load: Mapping[str, Load] = field(default_factory=dict)  # Of components that were not idle.
    busy_w: Mapping[str, NotNegative] = field(default_factory=dict)
    """As measured, of the components where load matters."""
    unknown: tuple[str, ...] = ()  # Components for which use by other processes is unknown.
    load_uncertainty_w: Mapping[str, NotNegative] = field(default_factory=dict)
    """The part of ``uncertainty_w`` that comes from use by others: one error in all points."""

    def __post_init__(self) -> None:
        if not self.power_w.keys() == self.uncertainty_w.keys() == self.source.keys():
            raise ValueError("power_w, uncertainty_w and source are of different components")

    @classmethod
    def from_energy(cls, energy: Energy, time_s: float) -> IdlePoint:
        """Take the mean power of an idle span."""
        parts = energy.all_parts
        return cls(
            time_s=time_s,
            duration_s=energy.duration_s,
            power_w={name: max(part.mean_power_w, 0.0) for name, part in parts.items()},
            uncertainty_w={
                name: part.edge_uncertainty_j / part.duration_s for name, part in parts.items()
            },
            source={name: part.source for name, part in parts.items()},
        )

    @property
    def load_text(self) -> str:
        """Who used the machine during the measurement; empty if no other process did."""
        return describe_load(self.load)

    def uncertainties_w(self, component: str) -> tuple[float, float]:
        """Return a component's standard uncertainty without that from use by others, and that."""
        load_w = self.load_uncertainty_w.get(component, 0.0)
        return math.sqrt(max(self.uncertainty_w[component] ** 2 - load_w**2, 0.0)), load_w

    def at(self, time_s: float) -> IdlePoint:
        """Return the same point at another time or on another clock."""
        return replace(self, time_s=time_s)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Idle power over time: measured points, straight lines between them.

    Example:
        >>> cold = IdlePoint(time_s=0.0, duration_s=5.0, power_w={"gpu:0": 119.0},
        ...     uncertainty_w={"gpu:0": 0.1}, source={"gpu:0": "nvml.samples"})
        >>> warm = replace(cold, time_s=180.0, power_w={"gpu:0": 128.0})
        >>> power_w, uncertainty_w = Baseline((cold, warm)).power("gpu:0", "nvml.samples", 60.0)
        >>> round(power_w, 1), round(uncertainty_w, 1)
        (122.0, 2.6)
    """

    points: tuple[IdlePoint, ...]
    problem: str = ""
    """What is wrong with idle power that was saved, with the fix."""
    _columns: dict[tuple[str, str], tuple[Floats, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda p: p.time_s)))

    def power(self, component: str, source: str, time_s: float) -> tuple[float, float]:
        """Return a component's idle power at a time, and its standard uncertainty, in watts.

        Between two points: the straight line; its uncertainty is that of each point, where use by
        others is one error in both, and of the drift between them (rectangular: the true curve lies
        anywhere between the two). Outside: the nearest point, with an uncertainty of
        :data:`UNKNOWN_DRIFT` or of the drift between the nearest two, whichever is more. NaN if the
        source never measured the component. Points that were measured on a busy machine count only
        if there is no other.
        """
        power_w, uncertainty_w = self.powers(component, source, np.array([time_s]))
        return float(power_w[0]), float(uncertainty_w[0])

    def powers(self, component: str, source: str, time_s: Floats) -> tuple[Floats, Floats]:
        """Return :meth:`power` at many times. Shape: (times,)."""
        at_s, power_w, own_w, load_w = self._columns_of(component, source)
        if not at_s.size:
            return np.full(time_s.size, math.nan), np.full(time_s.size, math.nan)
        after = np.searchsorted(at_s, time_s, side="right")
        i, j = np.maximum(after - 1, 0), np.minimum(after, at_s.size - 1)
        is_between = i < j
        length_s = np.where(is_between, at_s[j] - at_s[i], 1.0)
        share = np.where(is_between & (after > 0), (time_s - at_s[i]) / length_s, 0.0)
        spread_w = np.abs(power_w[j] - power_w[i]) / math.sqrt(12)
        point_w = np.hypot(
            np.hypot((1 - share) * own_w[i], share * own_w[j]),
            (1 - share) * load_w[i] + share * load_w[j],
        )
        between_w = power_w[i] + share * (power_w[j] - power_w[i])
        drift_w = np.abs(np.diff(power_w))
        nearest_drift_w = np.where(after > 0, drift_w[-1], drift_w[0]) if drift_w.size else 0.0
        unknown_w = np.maximum(UNKNOWN_DRIFT * power_w[i], nearest_drift_w / math.sqrt(3))
        inside = (after > 0) & (after < at_s.size)
        return (
            np.where(inside, between_w, power_w[i]),
            np.where(inside, np.hypot(spread_w, point_w), np.hypot(unknown_w, point_w)),
        )

    def notes(self, component: str, source: str) -> list[str]:
        """Return the caveats of a component's idle power; none if the machine was idle."""
        found = [self.problem] if self.problem else []
        points = self._points_of(component, source)
        if points and component in points[0].busy_w:
            found.append(
                f"{BUSY_IDLE} ({points[0].load_text}): net of idle is uncertain; measure idle "
                "again when no other process works"
            )
        held = [one.load[component] for one in points if component in one.load]
        if held and not held[0].fraction:
            found.append(
                f"{IDLE_NOTE} of {component} was measured while {held[0].users} held it, which may "
                "raise it"
            )
        if any(component in one.unknown for one in points):
            found.append(
                f"{IDLE_NOTE} of {component} may include what other processes used: whether any "
                "did is unknown"
            )
        return found

    def _columns_of(self, component: str, source: str) -> tuple[Floats, ...]:
        """Return the times of a component's points, in order, their powers and the uncertainties.

        Standard uncertainties of each point's own, and from use by others.
        """
        key = component, source
        if key not in self._columns:
            rows = [
                (point.time_s, point.power_w[component], *point.uncertainties_w(component))
                for point in self._points_of(component, source)
            ]
            self._columns[key] = tuple(np.array(rows, dtype=np.float64).reshape(-1, 4).T)
        return self._columns[key]

    def _points_of(self, component: str, source: str) -> list[IdlePoint]:
        """Return the points of a component's sensor: those of an idle machine, if there are any."""
        sensor = sensor_of(source)
        points = [one for one in self.points if sensor_of(one.source.get(component, "")) == sensor]
        return [one for one in points if component not in one.busy_w] or points

    def subtract(self, energy: Energy, start_s: float, stop_s: float) -> Energy:
        """Return an energy with its idle part; start and stop are on the baseline's clock.

        Idle power is taken at the middle of the span, which is exact for a straight line.
        """
        parts = energy.all_parts
        notes = dict.fromkeys(energy.notes)
        for name, part in parts.items():
            power_w, off_w = self.power(part.component, part.source, (start_s + stop_s) / 2)
            if not math.isnan(power_w):
                idle_j, uncertainty_j = power_w * part.duration_s, off_w * part.duration_s
                parts[name] = replace(part, idle_j=idle_j, idle_uncertainty_j=uncertainty_j)
                notes |= dict.fromkeys(self.notes(part.component, part.source))
        return replace(energy.with_parts(parts), notes=tuple(notes))

    def to_json(self) -> list[dict[str, Any]]:
        """Return a plain list of points."""
        return [point.to_json() for point in self.points]

    @classmethod
    def from_json(cls, data: Any) -> Baseline:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidData: It is damaged.
        """
        return cls(convert(data, tuple[IdlePoint, ...]))
