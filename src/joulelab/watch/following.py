"""Follows a trace that grows, and says what is known of it by now.

What changes from second to second is worked out of the last readings alone. The energy since the
beginning is brought up to date seldom, and what came since is added to it. Both are done no oftener
than keeps them to a share of one processor's time, whatever they take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace, TraceReader
from joulelab.recording.trace_spans import Window
from joulelab.watch.forecasting import Outlook, outlook, prepare
from joulelab.watch.history import History
from joulelab.watch.model import Component, Ended, Gauge
from joulelab.watch.pace import Pace
from joulelab.watch.recent import covered_ns, gauges, grain_s, in_order, lost_s, source_of
from joulelab.watch.running import RunningEnergy
from joulelab.watch.spans import SpanBook
from joulelab.watch.totals import Totals

NOW_S = 1.0
"""Power now is the mean over this time, or over two readings of the slowest sensor."""
MARGIN_S = 5.0
"""Readings from so long before and after what is asked for are looked at too."""
RECENT_SHARE, LEAST_RECENT_S = 0.008, 0.9
"""Share of a processor's time for the last readings, and the least time between two accounts."""
RUNNING_SHARE, LEAST_RUNNING_S = 0.004, 2.0
"""The same for the energy since the beginning."""
_ALWAYS_NS = 1 << 62
_NO_OUTLOOK = Outlook()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a trace says; see :class:`~joulelab.watch.model.View` for what is not told here.

    Attributes:
        until_ns: Up to when it says it, CLOCK_MONOTONIC; 0 before there is enough.
        newest_ns: When the last reading of all was.
        read_share: How much of a long recording was read by now.
        accounted: The energy when it was last brought up to date.
        outlook: What the run will take.
    """

    until_ns: int
    newest_ns: int
    gauges: tuple[Gauge, ...]
    read_share: float = 1.0
    components: tuple[Component, ...] = ()
    power_w: float = math.nan
    energy: Energy | None = None
    accounted: Energy | None = None
    ended: tuple[Ended, ...] = ()
    outlook: Outlook = _NO_OUTLOOK


class Following:
    """A trace that grows.

    Args:
        directory: Holds it.
        baseline: Idle power on the trace's clock.
        start_ns: Where what is watched began; ``None``: with the recording.
        epochs: How many there will be, where that is known.

    Raises:
        TraceError: There is no trace, or it is not one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        baseline: Baseline | None = None,
        start_ns: int | None = None,
        epochs: int | None = None,
    ) -> None:
        self._reader = TraceReader(directory)
        nothing = self._reader.read_between(_ALWAYS_NS, _ALWAYS_NS)
        self.header, self.absent = nothing.header, nothing.absent
        self.start_ns = int(self.header.get("start_ns", 0) if start_ns is None else start_ns)
        self.book = SpanBook(self.start_ns)
        self._reader.spans = self.book.fold
        self.baseline, self._epochs = baseline, epochs
        self._gives_energy = any(channel.gives_energy for channel in nothing.channels)
        self._tail_ns = round(max(MARGIN_S, 2 * lost_s(nothing)) * 1e9)
        self._history = History(self.start_ns)
        self._totals = Totals()
        self._running = RunningEnergy(self._read, self.start_ns, self._totals)
        self._outlook = _NO_OUTLOOK
        self._figures: Figures | None = None
        self._recent_pace = Pace(RECENT_SHARE, LEAST_RECENT_S)
        self._running_pace = Pace(RUNNING_SHARE, LEAST_RUNNING_S)

    def look(self, *, final: bool = False) -> Figures:
        """What the trace says by now. Of a long recording the first few looks read a part each.

        Args:
            final: It will not grow any more, so that everything is accounted for once more.
        """
        self.book.add(self._reader.new_events())
        self._totals.add(self.book.newly_ended())
        if self._figures is None:
            # The first time takes longest, and says nothing of how long the others do.
            beginning = self._bring_up_to_date(final=final)
            if beginning is not None:
                return beginning
            self._figures = self._account_recent()
        if final or self._running_pace.due:
            with self._running_pace:
                self._bring_up_to_date(final=final)
        if final or self._recent_pace.due:
            with self._recent_pace:
                self._figures = self._account_recent()
        return replace(self._figures, newest_ns=self._reader.latest_ns())

    def unix_s(self, t_ns: int) -> float:
        """The wall clock's time at a time of the trace, as it went when the recording began."""
        start_ns = int(self.header.get("start_ns", 0))
        return float(self.header.get("start_unix_s", math.nan)) + (t_ns - start_ns) * 1e-9

    def _read(self, start_ns: int, stop_ns: int) -> Trace:
        margin_ns = round(MARGIN_S * 1e9)
        start_ns -= margin_ns
        events, spans = self.book.events(start_ns), self.book.spans(start_ns)
        return self._reader.read_between(start_ns, stop_ns + margin_ns, events, spans)

    def _bring_up_to_date(self, *, final: bool) -> Figures | None:
        """EnergyEstimator for everything; what is known before that is done, where it is not."""
        newest_ns = self._reader.latest_ns()
        tail = self._read(newest_ns - self._tail_ns, _ALWAYS_NS)
        until_ns = covered_ns(tail, was_seen=self._figures is not None)
        if not until_ns and self._figures is None and self._gives_energy:
            # What gave energy may all be lost by now.
            until_ns = covered_ns(self._read(self.start_ns, _ALWAYS_NS))
        seen_s = (until_ns - self.start_ns) * 1e-9
        if seen_s <= 0 or (seen_s < NOW_S and not final):
            return Figures(until_ns=0, newest_ns=newest_ns, gauges=gauges(tail))
        epochs = self._epochs or self.book.epochs
        if epochs:
            prepare()
        self._running.advance(until_ns, self.baseline)
        while final and self._running.until_ns < until_ns:
            self._running.advance(until_ns, self.baseline)
        if self._running.until_ns >= until_ns:
            self._outlook = outlook(self.book, self._totals, self._read, epochs)
            return None
        read_s = (self._running.until_ns - self.start_ns) * 1e-9
        return Figures(
            until_ns=0, newest_ns=newest_ns, gauges=gauges(tail), read_share=read_s / seen_s
        )

    def _account_recent(self) -> Figures:
        accounted, accounted_ns = self._running.energy, self._running.until_ns
        assert accounted is not None
        since_ns = min(self._history.since_ns(accounted_ns), accounted_ns)
        trace = self._read(since_ns, _ALWAYS_NS)
        until_ns = max(covered_ns(trace, was_seen=True), accounted_ns)
        now_ns = round(max(NOW_S, 2 * grain_s(trace)) * 1e9)
        steps = self._history.due(until_ns)
        ended = self._totals.waiting(since_ns, until_ns)
        now, since, *others = EnergyEstimator(trace, self.baseline).energies(
            [
                Window(max(until_ns - now_ns, self.start_ns), until_ns),
                Window(accounted_ns, until_ns),
                *(self._history.window(step) for step in steps),
                *(span.window for span in ended),
            ]
        )
        self._history.fill(steps, others[: len(steps)])
        self._totals.fill(ended, others[len(steps) :])
        energy = _sum(accounted, since)
        components = self._components(trace, now, energy)
        return Figures(
            until_ns=until_ns,
            newest_ns=self._reader.latest_ns(),
            gauges=gauges(trace),
            components=components,
            power_w=math.fsum(one.power_w for one in components) if components else math.nan,
            energy=energy,
            accounted=accounted,
            ended=self._totals.rows(),
            outlook=self._outlook,
        )

    def _components(self, trace: Trace, now: Energy, energy: Energy) -> tuple[Component, ...]:
        names = {channel.component for channel in trace.channels if channel.gives_energy}
        rows = []
        for name in sorted(names, key=in_order):
            part, so_far = now.components.get(name), energy.components.get(name)
            channel = source_of(name, trace.channels)
            known = part or so_far
            rows.append(
                Component(
                    name=name,
                    power_w=part.mean_power_w if part else math.nan,
                    history_w=self._history.of(name),
                    gross_j=so_far.gross_j if so_far else math.nan,
                    source=known.source if known else channel.source,
                    provenance=(known or channel).provenance,
                )
            )
        return tuple(rows)


def _sum(accounted: Energy, since: Energy) -> Energy:
    """Both together, where the same components were seen in both."""
    if set(accounted.components) != set(since.components) or not since.duration_s:
        return accounted
    return accounted + since
