"""The energy of a span and of its components, with intervals, sums, text and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from html import escape
from typing import Any, NotRequired, TypedDict

from joulelab.energy.component_energy import ComponentEnergy, StoredComponent, sensor_of
from joulelab.energy.nesting import MACHINE, UNMETERED_IN_NODE, Enclosure, enclosures, kind_of
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

__all__ = [
    "NEGATIVE_NET",
    "NESTED",
    "ROLES",
    "ComponentEnergy",
    "Energy",
    "StoredEnergy",
    "joined",
    "sensor_of",
    "total",
]

REPORTED_GAP = 0.01  # Gaps of less than this share of a span only show in its interval.
ROLES = ("components", "enclosing", "enclosed")
"""The fields of an energy that have components. Only the first is added up."""
NESTED = (*ROLES[1:], "differences")
"""What of an energy's JSON is there only if meters nest."""
NEGATIVE_NET = (
    "net of idle is below zero: the machine drew less than in the idle measurement; measure idle "
    "again on a quiet machine"
)


class StoredEnergy(TypedDict):
    """An energy in a record."""

    duration_s: NotNegative | None
    components: dict[str, StoredComponent]
    absent: dict[str, str]
    notes: NotRequired[tuple[str, ...]]
    enclosing: NotRequired[dict[str, StoredComponent]]
    enclosed: NotRequired[dict[str, StoredComponent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The energy of a span: the sum over its components (Eq. 3 of the paper).

    Attributes:
        duration_s: Length of the span on the host's clock.
        components: By name. A component without an energy is not here but in ``absent``.
        absent: Why each missing component is missing.
        notes: Events during the span that affect its energy, as sentences without a full stop.
        enclosing: Meters that contain components of the total, by name. They are next to the
            total, and never in it (:mod:`joulelab.energy.nesting`).
        enclosed: Estimates of what a meter in the total contains, by name; not in the total either.

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
    enclosing: Mapping[str, ComponentEnergy] = field(default_factory=dict)
    enclosed: Mapping[str, ComponentEnergy] = field(default_factory=dict)

    @property
    def all_parts(self) -> dict[str, ComponentEnergy]:
        """Every component by name, in the total or not."""
        return {name: part for role in ROLES for name, part in getattr(self, role).items()}

    def with_parts(self, parts: Mapping[str, ComponentEnergy]) -> Energy:
        """Return the same with other energies, in the same roles. What ``parts`` lacks is gone."""
        fields: dict[str, Any] = {
            role: {name: parts[name] for name in getattr(self, role) if name in parts}
            for role in ROLES
        }
        return replace(self, **fields)

    def with_suffix(self, suffix: str) -> Energy:
        """Return the same with a suffix to the names of its components, such as ``"@host"``."""

        def renamed(parts: Mapping[str, ComponentEnergy]) -> dict[str, ComponentEnergy]:
            return {
                name + suffix: replace(part, contains=tuple(one + suffix for one in part.contains))
                for name, part in parts.items()
            }

        absent = {name + suffix: why for name, why in self.absent.items()}
        roles: dict[str, Any] = {role: renamed(getattr(self, role)) for role in ROLES}
        return replace(self, absent=absent, **roles)

    @property
    def enclosures(self) -> list[Enclosure]:
        """The meters next to the total, compared with their parts in it."""
        return enclosures(self.components, self.enclosing, self.enclosed)

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
        """95 % interval of ``net_j``, which does not exceed the gross energy."""
        uncertainty_j = math.hypot(*(part.net_uncertainty_j for part in self.components.values()))
        return normal_interval(self.net_j, uncertainty_j, most=self.interval_j[1])

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
    def unmetered(self) -> str:
        """What no meter of this energy includes."""
        shown = {**self.components, **self.enclosing}
        meters = [part for name, part in shown.items() if kind_of(name) in MACHINE]
        metered = {name for part in meters for name in part.contains}
        others = {name for name in self.components if kind_of(name) not in MACHINE}
        return "network" if meters and others <= metered else f"{UNMETERED_IN_NODE}, network"

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
    def negative_net(self) -> str:
        """Why net energy is below zero, or surely is for some components; empty if it is not."""
        if self.net_j < 0:
            return NEGATIVE_NET
        below = [name for name, part in self.components.items() if part.net_interval_j[1] < 0]
        return f"{join_words(below)}: {NEGATIVE_NET}" if below else ""

    @property
    def caveats(self) -> tuple[str, ...]:
        """The notes, and why net energy is negative if it is."""
        return (*self.notes, self.negative_net) if self.negative_net else self.notes

    def __add__(self, other: Energy) -> Energy:
        """Add another span's energy.

        A component measured in only one of the two is absent from the sum.
        """
        absent = {**other.absent, **self.absent}
        sums: dict[str, dict[str, ComponentEnergy]] = {role: {} for role in ROLES}
        for role, parts in sums.items():
            own, others = getattr(self, role), getattr(other, role)
            for name in sorted({*own, *others}):
                mine, theirs = own.get(name), others.get(name)
                if mine is None or theirs is None:
                    absent.setdefault(name, "not measured in every span of the sum")
                elif sensor_of(mine.source) != sensor_of(theirs.source):
                    absent[name] = (
                        f"measured by {mine.source} in one span, {theirs.source} in another"
                    )
                else:
                    parts[name] = mine + theirs
        return Energy(
            duration_s=self.duration_s + other.duration_s,
            absent=absent,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
            **sums,
        )

    def lines(self) -> list[str]:
        """Return what a user wants to know, in short lines."""
        if not self.components:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.absent.items())
            nothing = f"no energy was measured ({reasons or 'there is no sensor'})"
            return [nothing, *map(str, self.enclosures), *self.notes]
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
        if self.enclosed:
            estimates = [f"{name} {quantity(x.gross_j, 'J')}" for name, x in self.enclosed.items()]
            parts.append(f"in it, estimated: {', '.join(estimates)}")
        if self.gap_s > REPORTED_GAP * self.duration_s:
            parts.append(f"no readings for {duration(self.gap_s)}")
        if self.absent:
            parts.append(f"without {', '.join(self.absent)}")
        further = (*map(str, self.enclosures), self.job_text, *self.caveats)
        return [", ".join(values), "; ".join(parts), *filter(None, further)]

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
        rows += [_html_row(f"{name} (next to it)", x, "") for name, x in self.enclosing.items()]
        rows += [_html_row(f"{name} (in it)", x, "") for name, x in self.enclosed.items()]
        head = "".join(f'<th style="{_CELL}">{text}</th>' for text in heads) if rows else ""
        notes = [f"{name}: {why}" for name, why in self.absent.items()]
        notes += filter(None, (*map(str, self.enclosures), self.job_text, *self.caveats))
        below = "".join(f"<div>{escape(note)}</div>" for note in notes)
        return (
            f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f'<div style="opacity:0.75;font-size:90%">{below}</div>'
        )

    def to_json(self) -> dict[str, Any]:
        """Return totals, components, absences and notes; NaN becomes ``None``.

        Meters that enclose others, their differences to their parts, and estimates within a meter
        are there if there are any.
        """
        names = (
            "gross_j", "idle_j", "net_j", "interval_j", "net_interval_j", "job_j",
            "job_interval_j", "duration_s", "mean_power_w", "provenance",
        )  # fmt: skip
        return {name: finite_or_none(getattr(self, name)) for name in names} | {
            "components": {name: part.to_json() for name, part in self.components.items()},
            "absent": dict(self.absent),
            "notes": list(self.notes),
            **{
                role: {name: part.to_json() for name, part in getattr(self, role).items()}
                for role in ROLES[1:]
                if getattr(self, role)
            },
            **(
                {"differences": [one.to_json() for one in self.enclosures]}
                if self.enclosing
                else {}
            ),
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
        return cls(
            duration_s=nan_if_none(stored["duration_s"]),
            components=_parts_of(stored["components"]),
            absent=stored["absent"],
            notes=stored.get("notes", ()),
            enclosing=_parts_of(stored.get("enclosing", {})),
            enclosed=_parts_of(stored.get("enclosed", {})),
        )


def _parts_of(stored: Mapping[str, StoredComponent]) -> dict[str, ComponentEnergy]:
    for name, part in stored.items():
        is_whole = None not in (part["edge_uncertainty_j"], part["duration_s"])
        if part["component"] != name or not (is_whole or part["gross_j"] is None):
            raise InvalidData(f"{name} is called {part['component']}, or has no interval")
    return {
        name: ComponentEnergy(**{key: _nan_if_null(key, one) for key, one in part.items()})
        for name, part in stored.items()
    }


def _nan_if_null(name: str, value: Any) -> Any:
    return math.nan if value is None and name != "share" else value


def total(energies: Iterable[Energy]) -> Energy:
    """Add up the energy of several spans, at least one."""
    energies = list(energies)
    if not energies:
        raise ValueError("no spans to add up")
    return reduce(Energy.__add__, energies)


def joined(energies: Sequence[Energy]) -> Energy:
    """Put the components of several energies at the same time together, at least one."""
    roles = ("absent", *ROLES)
    fields: dict[str, Any] = {
        role: {k: v for one in energies for k, v in getattr(one, role).items()} for role in roles
    }
    return Energy(duration_s=max(one.duration_s for one in energies), **fields)


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
