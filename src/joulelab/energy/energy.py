"""The energy of a span and of its components, with intervals, sums, text and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from html import escape
from typing import Any, NotRequired, TypedDict

from joulelab.energy.attribution import Share, combine_shares
from joulelab.format import (
    duration,
    finite_or_none,
    interval,
    join_words,
    joules,
    nan_if_none,
    quantity,
    scale,
    with_interval,
)
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import UNKNOWN_RATIO, Interval, Ratio, normal_interval
from joulelab.validation import InvalidData, NotNegative, convert

ROUNDING = 1e-9
"""Differences of less than this share of an energy are rounding errors."""
REPORTED_GAP = 0.01  # Gaps of less than this share of a span only show in its interval.


NEGATIVE_NET = (
    "net of idle is below zero: the machine drew less than in the idle measurement; measure idle "
    "again on a quiet machine"
)


def sensor_of(source: str) -> str:
    """Return the source that gave the readings: ``"a"`` of ``"a+b"``, scaled to the counter b."""
    return source.partition("+")[0]


class StoredComponent(TypedDict):
    """A component's energy in a record; what was not measured is null."""

    component: str
    source: str
    provenance: Provenance
    duration_s: NotNegative | None
    gross_j: NotNegative | None
    idle_j: NotNegative | None
    gain_uncertainty: NotNegative
    offset_uncertainty_w: NotNegative
    edge_uncertainty_j: NotNegative | None
    idle_uncertainty_j: NotNegative | None
    gap_s: NotNegative | None
    share: NotRequired[Share | None]


class StoredEnergy(TypedDict):
    """An energy in a record."""

    duration_s: NotNegative | None
    components: dict[str, StoredComponent]
    absent: dict[str, str]
    notes: NotRequired[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentEnergy:
    """The energy of one component over one or several spans. What was not measured is NaN.

    Uncertainties are kept apart by how they add up: gain and offset are the same error in every
    span, the errors of the edges are independent from span to span.

    Attributes:
        component: ``"gpu:0"``, ``"cpu:0"``, ``"dram:0"``.
        source: The channel that it was estimated from; after a ``+``, the counter that it was
            scaled to.
        provenance: Measured, estimated or simulated.
        duration_s: Length of the span.
        gross_j: Integral of power over the span (Eqs. 1, 2, 4, 5 of the paper, first term).
        idle_j: Idle power times the span's own length; NaN without a baseline.
        gain_uncertainty: Relative standard uncertainty of the source's scale.
        offset_uncertainty_w: Standard uncertainty of the source's zero.
        edge_uncertainty_j: Standard uncertainty from the span's edges, gaps and noise.
        idle_uncertainty_j: Standard uncertainty of ``idle_j`` from the baseline's spread and drift.
        gap_s: Time within the span without readings.
        share: The job's part of ``net_j`` on a shared machine; ``None`` if it is unknown. All other
            values are the whole component's.
    """

    component: str
    source: str
    provenance: Provenance
    duration_s: float
    gross_j: float
    idle_j: float = math.nan
    gain_uncertainty: float = 0.0
    offset_uncertainty_w: float = 0.0
    edge_uncertainty_j: float = 0.0
    idle_uncertainty_j: float = 0.0
    gap_s: float = 0.0
    share: Share | None = None

    @property
    def net_j(self) -> float:
        """Gross minus idle; NaN without a baseline. Rounding errors count as 0."""
        net_j = self.gross_j - self.idle_j
        return 0.0 if abs(net_j) < ROUNDING * abs(self.gross_j) else net_j

    @property
    def mean_power_w(self) -> float:
        """Gross energy over duration; NaN for an empty span."""
        return self.gross_j / self.duration_s if self.duration_s > 0 else math.nan

    @property
    def uncertainty_j(self) -> float:
        """Standard uncertainty of ``gross_j``: gain, offset and edges in quadrature (GUM 5.1.2)."""
        return math.hypot(
            self.gain_uncertainty * self.gross_j,
            self.offset_uncertainty_w * self.duration_s,
            self.edge_uncertainty_j,
        )

    @property
    def net_uncertainty_j(self) -> float:
        """Standard uncertainty of ``net_j``. An offset cancels; the gain acts on the difference."""
        return math.hypot(
            self.gain_uncertainty * self.net_j, self.edge_uncertainty_j, self.idle_uncertainty_j
        )

    @property
    def interval_j(self) -> Interval:
        """95 % interval of ``gross_j``."""
        return normal_interval(self.gross_j, self.uncertainty_j, least=0.0)

    @property
    def net_interval_j(self) -> Interval:
        """95 % interval of ``net_j``."""
        return normal_interval(self.net_j, self.net_uncertainty_j)

    @property
    def job_j(self) -> float:
        """The job's part of ``gross_j``, idle divided like the rest; NaN if it is unknown."""
        return math.nan if self.share is None else self.share.fraction * self.gross_j

    @property
    def job_interval_j(self) -> Interval:
        """95 % interval of ``job_j``; its lower end excludes idle energy, where that is known."""
        if self.share is None:
            return math.nan, math.nan
        low_j, high_j = self.interval_j
        if not (self.share.is_whole or math.isnan(self.net_j)):
            low_j = self.net_interval_j[0]
        return self.share.low * max(low_j, 0.0), self.share.high * high_j

    def __add__(self, other: ComponentEnergy) -> ComponentEnergy:
        """Add the same component's energy over another span."""
        if (self.component, sensor_of(self.source)) != (other.component, sensor_of(other.source)):
            raise ValueError(
                f"cannot add {other.component} by {other.source} "
                f"to {self.component} by {self.source}"
            )
        return replace(
            self,
            source=min(self.source, other.source, key=len),
            duration_s=self.duration_s + other.duration_s,
            gross_j=self.gross_j + other.gross_j,
            idle_j=self.idle_j + other.idle_j,
            gain_uncertainty=max(self.gain_uncertainty, other.gain_uncertainty),
            offset_uncertainty_w=max(self.offset_uncertainty_w, other.offset_uncertainty_w),
            edge_uncertainty_j=math.hypot(self.edge_uncertainty_j, other.edge_uncertainty_j),
            idle_uncertainty_j=self.idle_uncertainty_j + other.idle_uncertainty_j,
            gap_s=self.gap_s + other.gap_s,
            share=combine_shares((self.share, other.share), (self.gross_j, other.gross_j)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return every field and derived value; NaN becomes ``None``."""
        names = (
            "net_j", "mean_power_w", "interval_j", "net_interval_j", "job_j", "job_interval_j",
        )  # fmt: skip
        values = asdict(self) | {name: getattr(self, name) for name in names}
        return {name: finite_or_none(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The energy of a span: the sum over its components (Eq. 3 of the paper).

    Attributes:
        duration_s: Length of the span on the host's clock.
        components: By name. A component without an energy is not here but in ``absent``.
        absent: Why each missing component is missing.
        notes: Events during the span that affect its energy, as sentences without a full stop.

    Example:
        >>> gpu = ComponentEnergy(component="gpu:0", source="nvml.samples",
        ...     provenance=Provenance.MEASURED, duration_s=2.0, gross_j=600.0, idle_j=200.0,
        ...     gain_uncertainty=0.05)
        >>> energy = Energy(duration_s=2.0, components={"gpu:0": gpu}, absent={"cpu:0": "no RAPL"})
        >>> energy.gross_j, energy.net_j, energy.mean_power_w
        (600.0, 400.0, 300.0)
        >>> print(energy)
        600 J (95 % CI 541–659 J), 400 J net of idle, 2.00 s, 300 W; gpu:0 600 J measured; \
without cpu:0
    """

    duration_s: float
    components: Mapping[str, ComponentEnergy] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def _total(self, name: str) -> float:
        if not self.components:
            return math.nan
        return math.fsum(getattr(part, name) for part in self.components.values())

    @property
    def gross_j(self) -> float:
        """Gross energy of all components; NaN if none was measured."""
        return self._total("gross_j")

    @property
    def idle_j(self) -> float:
        """Idle energy over the span's length; NaN if a component has no baseline."""
        return self._total("idle_j")

    @property
    def net_j(self) -> float:
        """Gross minus idle; NaN if a component has no baseline."""
        return self._total("net_j")

    @property
    def mean_power_w(self) -> float:
        """Sum of the components' mean powers, each over the time in which it worked (Eq. 3).

        A GPU begins and finishes a span's work later than the host, so the times differ.
        """
        return self._total("mean_power_w")

    @property
    def interval_j(self) -> Interval:
        """95 % interval of ``gross_j``; components' errors are independent."""
        parts = self.components.values()
        uncertainty_j = math.hypot(*(part.uncertainty_j for part in parts))
        return normal_interval(self.gross_j, uncertainty_j, least=0.0)

    @property
    def net_interval_j(self) -> Interval:
        """95 % interval of ``net_j``."""
        parts = self.components.values()
        return normal_interval(self.net_j, math.hypot(*(part.net_uncertainty_j for part in parts)))

    def per(self, number: float) -> Ratio:
        """Return the gross energy of one of a number of things, for example tokens, in joules.

        Example:
            >>> cpu = ComponentEnergy(component="cpu:0", source="rapl", duration_s=1.0,
            ...     provenance=Provenance.MEASURED, gross_j=60.0)
            >>> Energy(duration_s=1.0, components={"cpu:0": cpu}).per(1200)
            Ratio(value=0.05, low=0.05, high=0.05)
        """
        if not number > 0:
            return UNKNOWN_RATIO
        low_j, high_j = self.interval_j
        return Ratio(self.gross_j / number, low_j / number, high_j / number)

    @property
    def job_j(self) -> float:
        """The job's part of ``gross_j``; NaN unless it is known for every component."""
        return self._total("job_j")

    @property
    def job_interval_j(self) -> Interval:
        """95 % interval of ``job_j``; two users differ in the same way in all components."""
        parts = self.components.values()
        if not parts or all(part.share is not None and part.share.is_whole for part in parts):
            return self.interval_j
        lows_j, highs_j = zip(*(part.job_interval_j for part in parts), strict=True)
        return math.fsum(lows_j), math.fsum(highs_j)

    @property
    def job_text(self) -> str:
        """The job's part of a shared machine's energy; empty if it was alone or is unknown.

        The interval in joules contains that of the energy, the one in percent does not.
        """
        known = [(part, part.share) for part in self.components.values() if part.share]
        methods = dict.fromkeys(share.method for _, share in known if not share.is_whole)
        whole_j = math.fsum(part.gross_j for part, _ in known)
        if not methods or not whole_j > 0:
            return ""
        job_j = math.fsum(share.fraction * part.gross_j for part, share in known)
        high_j = math.fsum(share.high * part.gross_j for part, share in known)
        low_j = 0.0
        for part, share in known:
            use_gross = share.is_whole or math.isnan(part.net_j)
            low_j += share.low * (part.gross_j if use_gross else max(part.net_j, 0.0))
        lows_j, highs_j = zip(*(part.job_interval_j for part, _ in known), strict=True)
        used = with_interval(job_j, math.fsum(lows_j), math.fsum(highs_j), "J", digits=2)
        value, low, high = (100 * one_j / whole_j for one_j in (job_j, low_j, high_j))
        percentage = with_interval(value, low, high, "%", digits=1, level="")
        names = [part.component for part, _ in known]
        of = "it" if len(known) == len(self.components) else join_words(names)
        estimated = f"estimated from {join_words([*methods])}"
        return f"this job used about {used} of {of}, {percentage}, {estimated}"

    @property
    def provenance(self) -> Provenance:
        """The weakest of the components': simulated, then estimated, then measured."""
        kinds = {part.provenance for part in self.components.values()}
        for kind in (Provenance.SIMULATED, Provenance.ESTIMATED):
            if kind in kinds:
                return kind
        return Provenance.MEASURED

    @property
    def gap_s(self) -> float:
        """The longest time that one of the components had no readings."""
        return max((part.gap_s for part in self.components.values()), default=0.0)

    @property
    def caveats(self) -> tuple[str, ...]:
        """The notes, and why net energy is negative if it is."""
        return (*self.notes, NEGATIVE_NET) if self.net_j < 0 else self.notes

    def __add__(self, other: Energy) -> Energy:
        """Add another span's energy.

        A component measured in only one of the two is absent from the sum.
        """
        components: dict[str, ComponentEnergy] = {}
        absent = {**other.absent, **self.absent}
        for name in sorted({*self.components, *other.components}):
            mine, theirs = self.components.get(name), other.components.get(name)
            if mine is None or theirs is None:
                absent.setdefault(name, "not measured in every span of the sum")
            elif sensor_of(mine.source) != sensor_of(theirs.source):
                absent[name] = f"measured by {mine.source} in one span, {theirs.source} in another"
            else:
                components[name] = mine + theirs
        return Energy(
            duration_s=self.duration_s + other.duration_s,
            components=components,
            absent=absent,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def lines(self) -> list[str]:
        """Return what a user wants to know, in short lines."""
        if not self.components:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.absent.items())
            return [f"no energy was measured ({reasons or 'there is no sensor'})", *self.notes]
        values = [joules(self.gross_j, *self.interval_j)]
        if not math.isnan(self.net_j):
            values.append(f"{quantity(self.net_j, 'J')} net of idle")
        values.append(duration(self.duration_s))
        if self.duration_s > 0:
            values.append(quantity(self.mean_power_w, "W"))
        parts = [
            f"{name} {quantity(part.gross_j, 'J')} {part.provenance}"
            for name, part in self.components.items()
        ]
        if self.gap_s > REPORTED_GAP * self.duration_s:
            parts.append(f"no readings for {duration(self.gap_s)}")
        if self.absent:
            parts.append(f"without {', '.join(self.absent)}")
        return [", ".join(values), "; ".join(parts), *filter(None, (self.job_text, *self.caveats))]

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the lines in IPython."""
        printer.text("\n".join(self.lines()))

    def _repr_html_(self) -> str:
        """Return a table for notebooks, in the page's own colours."""
        rows = [_html_row(name, one, one.provenance) for name, one in self.components.items()]
        heads = ("", "gross", "95 % interval", "idle", "net", "mean power", "source")
        if rows:
            rows.append(_html_row("total", self, duration(self.duration_s)))
        head = "".join(f'<th style="{_CELL}">{text}</th>' for text in heads) if rows else ""
        notes = [f"{name}: {why}" for name, why in self.absent.items()]
        notes += filter(None, (self.job_text, *self.caveats))
        below = "".join(f"<div>{escape(note)}</div>" for note in notes)
        return (
            f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f'<div style="opacity:0.75;font-size:90%">{below}</div>'
        )

    def to_json(self) -> dict[str, Any]:
        """Return totals, components, absences and notes; NaN becomes ``None``."""
        names = (
            "gross_j", "idle_j", "net_j", "interval_j", "net_interval_j", "job_j",
            "job_interval_j", "duration_s", "mean_power_w", "provenance",
        )  # fmt: skip
        return {name: finite_or_none(getattr(self, name)) for name in names} | {
            "components": {name: part.to_json() for name, part in self.components.items()},
            "absent": dict(self.absent),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Energy:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidData: It is damaged.
        """
        return cls.of_stored(convert(data, StoredEnergy))

    @classmethod
    def of_stored(cls, stored: StoredEnergy) -> Energy:
        """Make an energy from its part of a record.

        Raises:
            InvalidData: A component has another name, or no interval or duration.
        """
        for name, part in stored["components"].items():
            is_whole = None not in (part["edge_uncertainty_j"], part["duration_s"])
            if part["component"] != name or not (is_whole or part["gross_j"] is None):
                raise InvalidData(f"{name} is called {part['component']}, or has no interval")
        components = {
            name: ComponentEnergy(**{key: _nan_if_null(key, one) for key, one in part.items()})
            for name, part in stored["components"].items()
        }
        return cls(
            duration_s=nan_if_none(stored["duration_s"]),
            components=components,
            absent=stored["absent"],
            notes=stored.get("notes", ()),
        )


def _nan_if_null(name: str, value: Any) -> Any:
    return math.nan if value is None and name != "share" else value


def total(energies: Iterable[Energy]) -> Energy:
    """Add up the energy of several spans, at least one."""
    energies = list(energies)
    if not energies:
        raise ValueError("no spans to add up")
    return reduce(Energy.__add__, energies)


_CELL = "padding:0.15em 0.7em;text-align:right;border:0;border-top:1px solid #8884"


def _html_row(name: str, energy: Energy | ComponentEnergy, source: str) -> str:
    size, unit = scale(energy.gross_j, "J")
    low, high = (end_j / size for end_j in energy.interval_j)
    cells = (
        quantity(energy.gross_j, "J"),
        f"{interval(low, high, energy.gross_j / size)} {unit}",
        quantity(energy.idle_j, "J"),
        quantity(energy.net_j, "J"),
        quantity(energy.mean_power_w, "W"),
    )
    side = _CELL.replace("right", "left")
    values = "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in cells)
    head = f'<th style="{side}">{escape(name)}</th>'
    return f'<tr>{head}{values}<td style="{side}">{escape(source)}</td></tr>'
