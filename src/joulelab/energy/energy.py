"""Energies, and how they add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

from joulelab.energy.share import Share, in_words, together
from joulelab.energy.words import joules
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import COVERAGE_FACTOR, Interval

WORTH_SAYING = 0.01
"""Gaps of less than this share of a span are left to the interval to say."""


def sensor_of(source: str) -> str:
    """The sensor that gave the readings, without what they were reconciled with.

    Example:
        >>> sensor_of("nvml.samples+nvml.energy_counter")
        'nvml.samples'
    """
    return source.partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentEnergy:
    """The energy of one component over one or several spans. What was not measured is NaN.

    The uncertainties are kept apart by how they add up: gain and offset are the same error in
    every span, the edges' errors are independent from span to span.

    Attributes:
        component: ``"gpu:0"``, ``"cpu:0"``, ``"dram:0"``.
        source: The channel that it was worked out from; behind a ``+`` the counter that its
            scale was pinned to.
        provenance: Measured, estimated or simulated.
        duration_s: Length of the span.
        gross_j: Integral of power over the span (Eqs. 1, 2, 4, 5 of the paper, first term).
        idle_j: Idle power times the span's own length; NaN without a baseline.
        gain_uncertainty: Relative standard uncertainty of the source's scale.
        offset_uncertainty_w: Standard uncertainty of the source's zero.
        edge_uncertainty_j: Standard uncertainty from the span's edges, gaps and noise.
        idle_uncertainty_j: Standard uncertainty of ``idle_j`` from the baseline's spread and drift.
        gap_s: Time within the span in which the source gave no reading.
        share: The job's part of ``net_j`` on a machine that others use, too; ``None`` where it is
            not known. All other figures are the whole component's.
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
        """Gross less idle; NaN without a baseline."""
        return self.gross_j - self.idle_j

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
        return _interval(self.gross_j, self.uncertainty_j)

    @property
    def net_interval_j(self) -> Interval:
        """95 % interval of ``net_j``."""
        return _interval(self.net_j, self.net_uncertainty_j)

    @property
    def job_j(self) -> float:
        """The job's part of ``gross_j``, idle divided like the rest; NaN where it is not known."""
        return math.nan if self.share is None else self.share.fraction * self.gross_j

    @property
    def job_interval_j(self) -> Interval:
        """95 % interval of ``job_j``: without idle, where that is known, to its part of all."""
        if self.share is None:
            return math.nan, math.nan
        low_j, high_j = self.interval_j
        if not (self.share.is_whole or math.isnan(self.net_j)):
            low_j = self.net_interval_j[0]
        return self.share.low * max(low_j, 0.0), self.share.high * high_j

    def __add__(self, other: ComponentEnergy) -> ComponentEnergy:
        """The same component over another span."""
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
            share=together((self.share, other.share), (self.gross_j, other.gross_j)),
        )

    def to_json(self) -> dict[str, Any]:
        """Every field and the derived figures; NaN becomes ``None``."""
        derived = {
            "net_j": self.net_j,
            "mean_power_w": self.mean_power_w,
            "interval_j": self.interval_j,
            "net_interval_j": self.net_interval_j,
            "job_j": self.job_j,
            "job_interval_j": self.job_interval_j,
        }
        return {key: _plain(value) for key, value in (asdict(self) | derived).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ComponentEnergy:
        """What :meth:`to_json` wrote."""
        values = {name: data[name] for name in cls.__dataclass_fields__ if name != "share"}
        for name, value in values.items():
            if value is None:
                values[name] = math.nan
        values["provenance"] = Provenance(values["provenance"])
        return cls(**values, share=Share.from_json(data.get("share")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The energy of a span: the sum over its components (Eq. 3 of the paper).

    Attributes:
        duration_s: Length of the span on the host's clock.
        components: By name. A component that gave nothing is not here but in ``absent``.
        absent: Why each missing component is missing.
        notes: What happened meanwhile that a person should know of, in words.

    Example:
        >>> gpu = ComponentEnergy(component="gpu:0", source="nvml.samples",
        ...     provenance=Provenance.MEASURED, duration_s=2.0, gross_j=600.0, idle_j=200.0,
        ...     gain_uncertainty=0.05)
        >>> energy = Energy(duration_s=2.0, components={"gpu:0": gpu}, absent={"cpu:0": "no RAPL"})
        >>> energy.gross_j, energy.net_j, energy.mean_power_w
        (600.0, 400.0, 300.0)
        >>> print(energy)
        600 J (541 to 659), 400 J net of idle, 2.0 s, 300 W; gpu:0 600 J measured; without cpu:0
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
        """Gross energy of all components; NaN when none was measured."""
        return self._total("gross_j")

    @property
    def idle_j(self) -> float:
        """Idle energy over the span's length; NaN when a component has no baseline."""
        return self._total("idle_j")

    @property
    def net_j(self) -> float:
        """Gross less idle; NaN when a component has no baseline."""
        return self._total("net_j")

    @property
    def mean_power_w(self) -> float:
        """The sum of the components' mean powers, each over the time in which it worked (Eq. 3).

        A GPU comes to a span's work later than the host and is done later, so the times differ.
        """
        return self._total("mean_power_w")

    @property
    def interval_j(self) -> Interval:
        """95 % interval of ``gross_j``; components' errors are independent."""
        parts = self.components.values()
        return _interval(self.gross_j, math.hypot(*(part.uncertainty_j for part in parts)))

    @property
    def net_interval_j(self) -> Interval:
        """95 % interval of ``net_j``."""
        parts = self.components.values()
        return _interval(self.net_j, math.hypot(*(part.net_uncertainty_j for part in parts)))

    @property
    def job_j(self) -> float:
        """The job's part of ``gross_j``; NaN where it is not known of every component."""
        return self._total("job_j")

    @property
    def job_interval_j(self) -> Interval:
        """95 % interval of ``job_j``; what two users differ in, they do in all components."""
        parts = self.components.values()
        if not parts or all(part.share is not None and part.share.is_whole for part in parts):
            return self.interval_j
        lows_j, highs_j = zip(*(part.job_interval_j for part in parts), strict=True)
        return math.fsum(lows_j), math.fsum(highs_j)

    @property
    def job_words(self) -> str:
        """What part of it is this job's, where others used the machine, too; otherwise empty."""
        return in_words(tuple(self.components.values()))

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
        """The longest time that one of the components gave no reading."""
        return max((part.gap_s for part in self.components.values()), default=0.0)

    def __add__(self, other: Energy) -> Energy:
        """Another span's energy beside this one's.

        A component measured in only one of the two is absent from the sum.
        """
        components: dict[str, ComponentEnergy] = {}
        absent = {**other.absent, **self.absent}
        for name in sorted({*self.components, *other.components}):
            mine, theirs = self.components.get(name), other.components.get(name)
            if mine is None or theirs is None:
                absent.setdefault(name, "not measured in every span of the sum")
            elif sensor_of(mine.source) != sensor_of(theirs.source):
                absent[name] = f"measured by {mine.source} here and by {theirs.source} there"
            else:
                components[name] = mine + theirs
        return Energy(
            duration_s=self.duration_s + other.duration_s,
            components=components,
            absent=absent,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def __str__(self) -> str:
        if not self.components:
            return "; ".join((f"nothing was measured: {_reasons(self.absent)}", *self.notes))
        low, high = self.interval_j
        parts = [f"{joules(self.gross_j)} ({joules(low, unit='')} to {joules(high, unit='')})"]
        if not math.isnan(self.net_j):
            parts.append(f"{joules(self.net_j)} net of idle")
        parts.append(
            f"{self.duration_s:.3g} s" if self.duration_s < 1 else f"{self.duration_s:.1f} s"
        )
        if self.duration_s > 0:
            parts.append(f"{self.mean_power_w:.3g} W")
        text = ", ".join(parts)
        for name, part in self.components.items():
            text += f"; {name} {joules(part.gross_j)} {part.provenance}"
        if self.gap_s > WORTH_SAYING * self.duration_s:
            text += f"; {self.gap_s:.3g} s without readings"
        if self.absent:
            text += f"; without {', '.join(self.absent)}"
        return "; ".join(filter(None, (text, self.job_words, *self.notes)))

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        from joulelab.energy.energy_html import table  # noqa: PLC0415

        return table(self)

    def to_json(self) -> dict[str, Any]:
        """Totals, components, absences and notes; NaN becomes ``None``."""
        totals = {
            name: _plain(getattr(self, name))
            for name in (
                "gross_j",
                "idle_j",
                "net_j",
                "interval_j",
                "net_interval_j",
                "job_j",
                "job_interval_j",
                "duration_s",
                "mean_power_w",
                "provenance",
            )
        }
        parts = {name: part.to_json() for name, part in self.components.items()}
        return totals | {
            "components": parts,
            "absent": dict(self.absent),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Energy:
        """What :meth:`to_json` wrote."""
        return cls(
            duration_s=data["duration_s"],
            components={
                name: ComponentEnergy.from_json(part) for name, part in data["components"].items()
            },
            absent=dict(data["absent"]),
            notes=tuple(data.get("notes", ())),
        )


def total(energies: Iterable[Energy]) -> Energy:
    """The sum over several spans.

    Raises:
        ValueError: There is nothing to add.
    """
    energies = list(energies)
    if not energies:
        raise ValueError("no spans to add up")
    return reduce(Energy.__add__, energies)


def _interval(value: float, uncertainty: float) -> Interval:
    half = COVERAGE_FACTOR * uncertainty
    return (value - half, value + half)


def _reasons(absent: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in absent.items()) or "there was no sensor"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
