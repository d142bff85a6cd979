"""Energies as uncertain values: which errors the energies of two runs share.

A component's uncertainty has several causes (``docs/accounting.md``, "Uncertainty"). Each is an
error of some thing, and two energies share it if they share the thing:

- *Gain and offset* are errors of a physical sensor on a board. NVML's buffered samples, power
  fields and energy counter of one board read one sensor, so they share them, whichever of them an
  energy was computed from and whether or not samples were scaled to the counter. The 6.5 % of
  :mod:`joulelab.sensors.nvml_channels` is how far boards are from external meters, an error of the
  current measurement in front of all of them; on an H100 integrated samples and counter agree
  within 0.01 % over 350 s; and a calibration of one is applied to the others. A calibrated board
  has the error of its calibration instead. RAPL zones and estimates are sensors of their own.
- *Scale.* The sources of one sensor average and drop readings differently, and agree only within
  about 1 % on short spans (:data:`~joulelab.sensors.calibration.TRANSFER_UNCERTAINTY`, also what
  :mod:`joulelab.energy.signal` takes as its prior). That part of the gain's
  uncertainty belongs to one source: 1 % / sqrt(2) each, so that the ratio of two sources is
  uncertain by 1 %. The rest is the sensor's; the sum of both is unchanged.
- *Idle power* is an error of a baseline.
- *Edges*, gaps and noise are errors of the run alone.

For example, 1,100 J from samples is 1.10 (95 % CI 1.08-1.12) times 1,000 J from samples of the same
board that were scaled to its counter. Without a shared gain it would be 0.92-1.32, and with all of
it shared the 1 % between the sources would be missing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.sensors.calibration import TRANSFER_UNCERTAINTY
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import COVERAGE_FACTOR, UncertainValue

if TYPE_CHECKING:
    from joulelab.machine import Machine

SCALE_UNCERTAINTY = TRANSFER_UNCERTAINTY / math.sqrt(2)
"""Relative standard uncertainty of one source's scale against the other sources of its sensor."""

Boards = Mapping[str, Hashable]  # The hardware that each component is; equal if the same.


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity of a run that can be compared."""

    name: str  # In tables and on the command line.
    label: str  # In texts.
    unit: str  # Of the value.
    quantity: str  # Gross, net or duration.
    per: str = ""  # What the quantity is divided by: samples, duration or nothing.
    kind: str = ""  # Of the components to include, for example gpu; empty for all.

    @property
    def is_energy(self) -> bool:
        """Whether it is measured by energy sensors."""
        return self.quantity != "duration"

    def includes(self, component: str) -> bool:
        """Report whether a component counts."""
        return self.is_energy and self.kind in ("", component.partition(":")[0])


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("gross_j", "gross energy", "J", "gross"),
        Metric("net_j", "net energy", "J", "net"),
        Metric("duration_s", "duration", "s", "duration"),
        Metric("mean_power_w", "mean power", "W", "gross", per="duration"),
        Metric("gross_j_per_sample", "gross energy per sample", "J", "gross", per="samples"),
        Metric("net_j_per_sample", "net energy per sample", "J", "net", per="samples"),
        Metric("duration_s_per_sample", "duration per sample", "s", "duration", per="samples"),
        Metric("gpu_j", "gross GPU energy", "J", "gross", kind="gpu"),
        Metric("cpu_j", "gross CPU energy", "J", "gross", kind="cpu"),
        Metric("dram_j", "gross memory energy", "J", "gross", kind="dram"),
    )
}
"""Everything that can be compared, by name. Less is better in each."""


def find_boards(machine: Machine | None, host: str, energy: Energy) -> dict[str, Hashable]:
    """Return the piece of hardware of each component: a GPU's UUID, the host for all others."""
    uuids = {} if machine is None else {f"gpu:{gpu.index}": gpu.uuid for gpu in machine.gpus}
    return {name: uuids.get(name) or host for name in energy.components}


def component_gross(part: ComponentEnergy, board: Hashable) -> UncertainValue:
    """Return the gross energy of a component on a board, J.

    Example:
        >>> gpu = ComponentEnergy(component="gpu:0", source="nvml.samples",
        ...     provenance=Provenance.MEASURED, duration_s=2.0, gross_j=600.0,
        ...     gain_uncertainty=0.05, edge_uncertainty_j=1.0)
        >>> found = component_gross(gpu, "GPU-1")
        >>> found.value, found.own, round(found.shared_uncertainty, 6)
        (600.0, 1.0, 30.0)
        >>> [cause[0] for cause in found.shared]
        ['gain', 'scale']
    """
    errors = _gain_errors(part, board, part.gross_j)
    if part.offset_uncertainty_w:
        sensor = (board, part.component, _physical_sensor(part.source))
        errors["offset", *sensor] = part.offset_uncertainty_w * part.duration_s
    return UncertainValue(
        part.gross_j, errors, part.edge_uncertainty_j, _is_simulated(part), least=0.0
    )


def component_net(part: ComponentEnergy, board: Hashable, baseline: Hashable) -> UncertainValue:
    """Return a component's net energy, J; ``baseline`` says which idle power was subtracted."""
    errors = _gain_errors(part, board, part.net_j)  # An offset cancels.
    errors["idle", baseline, part.component] = part.idle_uncertainty_j
    return UncertainValue(part.net_j, errors, part.edge_uncertainty_j, _is_simulated(part))


def component_own_share(
    part: ComponentEnergy, board: Hashable, machine: Hashable
) -> UncertainValue:
    """Return the job's share of a component that other processes used too, J; the whole if unknown.

    What users of one machine differ in is taken to be the same error in all its components and
    runs, as in :attr:`~joulelab.energy.energy.Energy.job_interval_j`.
    """
    if part.share is None or part.share.is_whole:
        return component_gross(part, board)
    low_j, high_j = part.job_interval_j
    half_j = max(high_j - part.job_j, part.job_j - low_j)
    errors: dict[Hashable, float] = {("share", machine): half_j / COVERAGE_FACTOR}
    return UncertainValue(
        part.job_j, errors, simulated=_is_simulated(part), least=low_j, most=high_j
    )


def gross_energy(energy: Energy, boards: Boards) -> UncertainValue:
    """Return the gross energy of all components, J; NaN if nothing was measured."""
    return metric_value(METRICS["gross_j"], energy, boards, frozenset(energy.components))


def metric_value(
    metric: Metric,
    energy: Energy,
    boards: Boards,
    components: frozenset[str],
    *,
    samples: float = math.nan,
    baseline: Hashable = "",
    pieces: int = 1,
) -> UncertainValue:
    """Return a run's value of a metric from these components; NaN if one was not measured.

    ``samples`` is the number that the run processed, ``baseline`` the idle power subtracted
    (:func:`component_net`), and ``pieces`` the number of spans that ``energy`` is the sum of.
    """
    if not metric.is_energy:
        found = UncertainValue(energy.duration_s)
    elif components and components <= energy.components.keys():
        parts = [energy.components[name] for name in sorted(components)]
        found = UncertainValue.total(
            component_net(part, boards.get(part.component), baseline)
            if metric.quantity == "net"
            else component_gross(part, boards.get(part.component))
            for part in parts
        )
    else:
        found = UncertainValue(math.nan)
    if metric.per == "samples":
        return found.per(samples)
    return found.per(energy.duration_s if metric.per == "duration" else pieces)


def _gain_errors(part: ComponentEnergy, board: Hashable, value_j: float) -> dict[Hashable, float]:
    """The gain's error: what all sources of the sensor share, and the scale of this source."""
    if not part.gain_uncertainty:
        return {}
    scale = min(SCALE_UNCERTAINTY, part.gain_uncertainty)
    gain = math.sqrt(part.gain_uncertainty**2 - scale**2)
    sensor = _physical_sensor(part.source)
    return {
        ("gain", board, part.component, sensor): gain * value_j,
        ("scale", board, part.component, part.source): scale * value_j,
    }


def _physical_sensor(source: str) -> str:
    """Name the sensor behind a source.

    Example:
        >>> _physical_sensor("nvml.samples+nvml.energy_counter"), _physical_sensor("rapl.package-0")
        ('nvml', 'rapl.package-0')
        >>> _physical_sensor("nvml.power_usage.calibrated-2026-01-31")
        'nvml.calibrated-2026-01-31'
    """
    name = sensor_of(source)
    if not name.startswith("nvml."):
        return name
    _, calibrated, date = name.partition(".calibrated-")
    return f"nvml{calibrated}{date}"


def _is_simulated(part: ComponentEnergy) -> bool:
    return part.provenance is Provenance.SIMULATED
