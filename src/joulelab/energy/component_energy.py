"""The energy of one component over one or several spans, with its intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NotRequired, TypedDict

from joulelab.energy.attribution import Share, combine_shares
from joulelab.format import finite_or_none
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import Interval, normal_interval
from joulelab.validation import NotNegative

ROUNDING = 1e-9
"""Differences of less than this share of an energy are rounding errors."""


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
    contains: NotRequired[tuple[str, ...]]


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
        contains: Components of the recording whose energy this one includes: those of a meter that
            encloses others (:mod:`joulelab.energy.nesting`).
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
    contains: tuple[str, ...] = ()

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
        """95 % interval of ``net_j``, which does not exceed the gross energy."""
        return normal_interval(self.net_j, self.net_uncertainty_j, most=self.interval_j[1])

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
        """Return every field and derived value; NaN becomes ``None``. Few have ``contains``."""
        names = (
            "net_j", "mean_power_w", "interval_j", "net_interval_j", "job_j", "job_interval_j",
        )  # fmt: skip
        values = asdict(self) | {name: getattr(self, name) for name in names}
        if not self.contains:
            del values["contains"]
        return {name: finite_or_none(value) for name, value in values.items()}
