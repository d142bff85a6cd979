"""Power over time that is known exactly: straight pieces, repeated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Waveform:
    """Power as straight lines between points, repeated with a period for ever.

    Attributes:
        points: ``(t_s, power_w)`` in order of time, the first at 0, the last at the period.
            Two points at one time are a jump.

    Example:
        >>> wave = Waveform.square(low_w=100, high_w=600, period_s=0.2)
        >>> wave.power_w(0.05), wave.power_w(0.15), wave.energy_j(0.0, 1.0)
        (600.0, 100.0, 350.0)
    """

    points: tuple[tuple[float, float], ...]
    _times: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _energies: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = tuple((float(t), float(p)) for t, p in self.points)
        times = tuple(t for t, _ in points)
        if len(points) < 2 or times[0] != 0 or times[-1] <= 0 or list(times) != sorted(times):
            raise ValueError("a waveform needs points in order of time, the first at 0")
        energies = [0.0]
        for (t0, p0), (t1, p1) in pairwise(points):
            energies.append(energies[-1] + (t1 - t0) * (p0 + p1) / 2)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_energies", tuple(energies))

    @property
    def period_s(self) -> float:
        """After this time the waveform begins again."""
        return self._times[-1]

    def power_w(self, t_s: float) -> float:
        """Power at a time; at a jump, the value after it."""
        return self._piece(t_s % self.period_s)[0]

    def energy_j(self, start_s: float, stop_s: float) -> float:
        """The exact integral of power from start to stop."""
        return self._since_zero(stop_s) - self._since_zero(start_s)

    def _since_zero(self, t_s: float) -> float:
        periods, rest_s = divmod(t_s, self.period_s)
        return periods * self._energies[-1] + self._piece(rest_s)[1]

    def _piece(self, t_s: float) -> tuple[float, float]:
        """Power at a time within the period, and the energy since its beginning."""
        i = min(bisect_right(self._times, t_s), len(self._times) - 1) - 1
        (t0, p0), (t1, p1) = self.points[i], self.points[i + 1]
        power_w = p0 + (p1 - p0) * (t_s - t0) / (t1 - t0) if t1 > t0 else p1
        return power_w, self._energies[i] + (t_s - t0) * (p0 + power_w) / 2

    @classmethod
    def constant(cls, power_w: float) -> Waveform:
        """The same power always."""
        return cls(((0.0, power_w), (1.0, power_w)))

    @classmethod
    def square(cls, *, low_w: float, high_w: float, period_s: float, duty: float = 0.5) -> Waveform:
        """High for a share ``duty`` of each period, then low."""
        edge_s = duty * period_s
        return cls(((0.0, high_w), (edge_s, high_w), (edge_s, low_w), (period_s, low_w)))

    @classmethod
    def ramp(cls, *, low_w: float, high_w: float, period_s: float) -> Waveform:
        """From low to high over the first half of the period and back over the second."""
        return cls(((0.0, low_w), (period_s / 2, high_w), (period_s, low_w)))

    @classmethod
    def steps(cls, powers_w: Sequence[float], *, step_s: float) -> Waveform:
        """Each power for ``step_s`` in turn."""
        points: list[tuple[float, float]] = []
        for i, power_w in enumerate(powers_w):
            points += [(i * step_s, power_w), ((i + 1) * step_s, power_w)]
        return cls(tuple(points))

    def to_json(self) -> list[list[float]]:
        """The points; ``Waveform(points)`` is the inverse."""
        return [list(point) for point in self.points]

    @classmethod
    def from_json(cls, points: Any) -> Waveform:
        """What :meth:`to_json` wrote."""
        return cls(tuple((t, p) for t, p in points))
