"""A measured figure with its errors kept apart by what they come from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joulelab.energy.energy import COVERAGE_FACTOR, ComponentEnergy, Energy

if TYPE_CHECKING:
    from joulelab.machine import Machine

Errors = Mapping[Hashable, float]
"""Standard uncertainties of a figure by what they come from, each with its sign.

Figures that name the same origin have that error in common: it is the same gain of the same
board. What it does to their difference is the difference of the two entries.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one run.

    Attributes:
        value: NaN when it was not measured.
        shared: What other figures may have in common with it; see :data:`Errors`.
        own: Standard uncertainty of this figure alone, as from a span's edges.
    """

    value: float
    shared: Errors = field(default_factory=dict)
    own: float = 0.0

    def over(self, divisor: float) -> Figure:
        """This figure divided by an exact number; unknown where that is not positive."""
        if not divisor > 0:
            return Figure(math.nan)
        return Figure(self.value / divisor, self._errors_over(divisor), self.own / divisor)

    def logarithm(self) -> Figure:
        """The natural logarithm of this positive figure, with its errors to first order."""
        errors = self._errors_over(self.value)
        return Figure(math.log(self.value), errors, self.own / self.value)

    def _errors_over(self, divisor: float) -> Errors:
        return {origin: error / divisor for origin, error in self.shared.items()}


def not_cancelled(a: Errors, b: Errors) -> float:
    """What is left of shared errors in the difference of two figures, standard uncertainty.

    Example:
        >>> not_cancelled({"gain": 5.0, "offset": 3.0}, {"gain": 5.0, "offset": -1.0})
        4.0
    """
    return math.hypot(*(b.get(origin, 0.0) - a.get(origin, 0.0) for origin in {*a, *b}))


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure over another.

    Attributes:
        value: This over the other.
        low: Lower end of the 95 % interval by the sensors' uncertainties.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


def ratio(mine: Figure, other: Figure) -> Ratio | None:
    """The ratio of two figures; ``None`` unless both are positive.

    To first order (GUM 5.1.2) of the logarithm of the ratio: of an error that both share only the
    difference of what it does to each counts.

    Example:
        >>> mine, other = Figure(110.0, {"gain": 5.5}), Figure(100.0, {"gain": 5.0})
        >>> found = ratio(mine, other)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (1.1, 1.1, 1.1)
    """
    if not (mine.value > 0 and other.value > 0):
        return None
    a, b = mine.logarithm(), other.logarithm()
    uncertainty = math.hypot(not_cancelled(a.shared, b.shared), a.own, b.own)
    factor = math.exp(COVERAGE_FACTOR * uncertainty)
    value = mine.value / other.value
    return Ratio(value, value / factor, value * factor)


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared.

    Attributes:
        name: As in tables.
        words: As a person says it.
        unit: Of the figure.
        of: ``"gross"``, ``"net"`` or ``"duration"``.
        per: ``"samples"`` or ``"duration"`` that it is divided by; empty for neither.
        kind: Of the components that count, as ``"gpu"``; empty for all.
    """

    name: str
    words: str
    unit: str
    of: str
    per: str = ""
    kind: str = ""

    @property
    def energetic(self) -> bool:
        """Whether it rests on sensors."""
        return self.of != "duration"

    def takes(self, component: str) -> bool:
        """Whether a component counts."""
        return self.energetic and self.kind in ("", component.partition(":")[0])


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("gross_j", "gross energy", "J", "gross"),
        Metric("net_j", "energy net of idle", "J", "net"),
        Metric("duration_s", "time", "s", "duration"),
        Metric("mean_power_w", "mean power", "W", "gross", per="duration"),
        Metric("gross_j_per_sample", "gross energy of a sample", "J", "gross", per="samples"),
        Metric("net_j_per_sample", "net energy of a sample", "J", "net", per="samples"),
        Metric("duration_s_per_sample", "time of a sample", "s", "duration", per="samples"),
        Metric("gpu_j", "gross energy of the GPUs", "J", "gross", kind="gpu"),
        Metric("cpu_j", "gross energy of the CPUs", "J", "gross", kind="cpu"),
        Metric("dram_j", "gross energy of the memory", "J", "gross", kind="dram"),
    )
}
"""What can be compared, by name. Of each, less is better."""


def boards(machine: Machine | None, host: str, energy: Energy) -> dict[str, Hashable]:
    """The piece of hardware that each component is: a GPU by its UUID, what else by the host.

    Args:
        machine: Where it was measured; ``None`` when that is not known.
        host: Its name.
        energy: What was measured.
    """
    uuids = {} if machine is None else {f"gpu:{gpu.index}": gpu.uuid for gpu in machine.gpus}
    return {name: uuids.get(name) or host for name in energy.components}


def figure(
    metric: Metric,
    energy: Energy,
    samples: float,
    boards: Mapping[str, Hashable],
    baseline: Hashable,
    components: frozenset[str],
    pieces: int = 1,
) -> Figure:
    """One run's figure.

    Gain acts on the energy, an offset on the time (and cancels in net energy); both belong to a
    sensor on a board. Idle power belongs to its baseline. Edges are the run's own.

    Args:
        metric: What is wanted.
        energy: Of the run.
        samples: How many it took; NaN when that is not known.
        boards: What each component is on, the same for the same piece of hardware.
        baseline: Whose idle power was subtracted.
        components: Those that count.
        pieces: The figure is that of one of so many spans, unless it is over something else.

    Example:
        >>> from joulelab.sensors.sensor import Provenance
        >>> gpu = ComponentEnergy(component="gpu:0", source="nvml.samples",
        ...     provenance=Provenance.MEASURED, duration_s=2.0, gross_j=600.0,
        ...     gain_uncertainty=0.05, edge_uncertainty_j=1.0)
        >>> energy = Energy(duration_s=2.0, components={"gpu:0": gpu})
        >>> found = figure(METRICS["gross_j"], energy, 10.0, {"gpu:0": "GPU-1"}, "", {"gpu:0"})
        >>> found.value, found.own, found.shared[("gain", "GPU-1", "gpu:0", "nvml.samples")]
        (600.0, 1.0, 30.0)
    """
    if metric.energetic:
        found = _energy(metric, energy, boards, baseline, components)
    else:
        found = Figure(energy.duration_s)
    if metric.per == "samples":
        return found.over(samples)
    return found.over(energy.duration_s if metric.per == "duration" else pieces)


def _energy(
    metric: Metric,
    energy: Energy,
    boards: Mapping[str, Hashable],
    baseline: Hashable,
    components: frozenset[str],
) -> Figure:
    parts = [energy.components[name] for name in sorted(components) if name in energy.components]
    if not parts or len(parts) < len(components):
        return Figure(math.nan)
    shared: dict[Hashable, float] = {}
    for part in parts:
        value_j = part.net_j if metric.of == "net" else part.gross_j
        sensor = (boards.get(part.component), part.component, part.source)
        shared["gain", *sensor] = part.gain_uncertainty * value_j
        if metric.of == "net":
            shared["idle", baseline, part.component] = part.idle_uncertainty_j
        else:
            shared["offset", *sensor] = part.offset_uncertainty_w * part.duration_s
    return Figure(_total(metric, parts), shared, math.hypot(*(p.edge_uncertainty_j for p in parts)))


def _total(metric: Metric, parts: list[ComponentEnergy]) -> float:
    return math.fsum(part.net_j if metric.of == "net" else part.gross_j for part in parts)
