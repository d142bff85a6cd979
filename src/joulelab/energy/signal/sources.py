"""The sources of one component's energy, reconciled in one curve.

The preferred source (:attr:`Channel.priority`) gives the shape. A counter beside samples of power
gives their scale; where the preferred source has a gap, another fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.averaged import Sharpened, is_averaged, sharpened
from joulelab.energy.signal.curve import EnergyCurve
from joulelab.energy.signal.fill_gaps import filled
from joulelab.energy.signal.integrate import energy_curve
from joulelab.energy.signal.power_states import Marks
from joulelab.energy.signal.scale_to_counter import can_pin, pinned, pins_s
from joulelab.energy.signal.spread import still_averaged
from joulelab.energy.signal.thinning import is_long, thinned
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel

Floats = NDArray[np.float64]


class Source:
    """One channel's readings as energy over time.

    Args:
        channel: What was read.
        readings: All of them.
        interval_s: How often it was read.
        marks: Times at which power may have changed.
    """

    def __init__(
        self, channel: Channel, readings: Readings, interval_s: float, marks: Marks
    ) -> None:
        self.channel = channel
        self._steps: tuple[Sharpened, float] | None = None
        self._readings = readings
        self._interval_s = interval_s
        self._marks = marks
        self.is_long = is_long(readings)

    @property
    def is_averaged(self) -> bool:
        """Whether its readings overlap each other, so that steps of power show as ramps."""
        return is_averaged(self.channel)

    def sharpened(self) -> tuple[Source, Floats]:
        """The same with the steps at marks put back, and the marks at which they could be."""
        t_s, marks_s = np.asarray(self._readings.t_ns * 1e-9, float), self._marks.time_s
        found = sharpened(self.channel, t_s, self._readings.value, self._interval_s, marks_s)
        readings = Readings(np.rint(found.t_s * 1e9).astype(np.int64), found.power_w)
        source = Source(found.channel, readings, found.channel.update_period_s, self._marks)
        source._steps = found, self.channel.window_s
        return source, marks_s[found.could]

    @property
    def extent_s(self) -> tuple[float, float]:
        """The first and the last reading's time; two equal times without readings."""
        t_ns = self._readings.t_ns
        return (float(t_ns[0]) * 1e-9, float(t_ns[-1]) * 1e-9) if t_ns.size else (0.0, 0.0)

    def curve(self, edges_s: Floats) -> EnergyCurve | None:
        """The curve, exact near these times; ``None`` when there are too few readings."""
        kept = thinned(self.channel, self._readings, self._interval_s, edges_s)
        marks = self._marks.only(kept.near(self._marks.time_s))
        channel = replace(self.channel, wrap=kept.wrap)
        curve = energy_curve(channel, kept.t_ns, kept.value, self._interval_s, marks, kept.bridges)
        if curve is None or self._steps is None:
            return curve
        found, window_s = self._steps
        off_w = np.interp(curve.time_s[:-1], found.t_s - found.channel.window_s / 2, found.off_w)
        at = np.searchsorted(found.t_s, curve.time_s[:-1])
        wander = found.wander.at(np.minimum(at, found.t_s.size - 1))
        return replace(still_averaged(curve, off_w, window_s), wander=wander)


class Reconciled(NamedTuple):
    """What a component's sources say together.

    Attributes:
        channel: The preferred source's; its name says what else was used.
        curve: Energy over time.
        sharp: The same with the steps at marks put back, where the preferred source averages.
        sharp_at_s: The marks at which that could be done, in order.
    """

    channel: Channel
    curve: EnergyCurve
    sharp: EnergyCurve | None
    sharp_at_s: Floats

    def energy(self, start_s: Floats, stop_s: Floats) -> tuple[Floats, Floats, Floats]:
        """See :meth:`EnergyCurve.energy`; between marks at which steps were put back, with them."""
        figures = self.curve.energy(start_s, stop_s)
        if self.sharp is None:
            return figures
        chosen = np.isin(start_s, self.sharp_at_s) & np.isin(stop_s, self.sharp_at_s)
        sharp = self.sharp.energy(start_s, stop_s)
        energy_j, uncertainty_j, gap_s = (
            np.where(chosen, with_steps, without)
            for with_steps, without in zip(sharp, figures, strict=True)
        )
        return energy_j, uncertainty_j, gap_s


class ComponentSources:
    """All sources of one component, the preferred one first.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._whole: Reconciled | None = None

    def reconciled(self, edges_s: Floats) -> Reconciled | None:
        """What they say, exact near these times; ``None`` when there are too few readings."""
        if self._whole is not None:
            return self._whole
        found = self._reconciled(edges_s)
        if not any(source.is_long for source in self._sources):
            self._whole = found
        return found

    def _reconciled(self, edges_s: Floats) -> Reconciled | None:
        for position, first in enumerate(self._sources):
            others = [
                other
                for other in self._sources[position + 1 :]
                if other.channel.provenance is first.channel.provenance
            ]
            joined = _joined(first, others, edges_s)
            if joined is None:
                continue
            channel, curve = joined
            if not first.is_averaged:
                return Reconciled(channel, curve, None, np.zeros(0))
            with_steps, at_s = first.sharpened()
            sharp = _joined(with_steps, others, edges_s)
            return Reconciled(channel, curve, sharp[1] if sharp else None, at_s)
        return None


def _joined(
    first: Source, others: Sequence[Source], edges_s: Floats
) -> tuple[Channel, EnergyCurve] | None:
    """A source pinned to the first counter among the others, its gaps filled from all of them."""
    counters = [other for other in others if can_pin(first.channel, other.channel)]
    if counters:
        edges_s = np.concatenate((edges_s, pins_s(counters[0].channel, counters[0].extent_s)))
    curve, channel = first.curve(edges_s), first.channel
    if curve is None:
        return None
    if counters and (counter := counters[0].curve(edges_s)) is not None:
        channel, curve = pinned(channel, curve, counters[0].channel, counter)
    for other in others:
        patch = other.curve(np.concatenate((edges_s, curve.seams_s)))
        if patch is not None:
            curve = filled(curve, patch)
    return channel, curve
