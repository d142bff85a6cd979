"""Explain power over time by the tokens that a server was processing.

The page ``docs/explanation/joules-per-token.md`` derives what is computed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import Pace, updates, without_glitches
from joulelab.energy.signal.counters import counter_intervals
from joulelab.energy.uncertainty import component_gross, component_net
from joulelab.errors import UserError
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult, RequestEnergies, SteadyState, TokenCost
from joulelab.llm.server_activity import (
    Driver,
    ServerActivity,
    drivers_of,
    even_activity,
    steady_window,
)
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Quantity
from joulelab.uncertain import COVERAGE_FACTOR, UNKNOWN_RATIO, Ratio, UncertainValue

Floats = NDArray[np.float64]

SETTLE_S = 1.5
"""Time after the last request that is not idle: sensors average up to 1 s, and lag."""
EARLY_S = 0.25
"""Time before a request that is not idle, since the clock of a log may be this late."""
LEAST_IDLE_S = 0.5
"""Idle power is taken from at least this much time without a request in flight."""
LONGEST_DIP_S = 0.1
"""The next request of a closed loop is sent within this time."""
LEAST_STEADY_READINGS = 5
BLOCKS = 30
"""Blocks of time whose errors are taken as independent of each other."""


def attribute(requests: RequestLog, trace: Trace, baseline: Baseline | None = None) -> LlmResult:
    """Attribute the energy of a recording to the requests that a server answered.

    Args:
        requests: Requests on the clock of the trace, in seconds.
        trace: Readings of all components, before and after the requests too.
        baseline: Idle power. Default: that of the readings without a request in flight.

    Returns:
        Energies in J, joules per token, and the energy of each request. Without idle power only
        the gross values are known.

    Raises:
        UserError: No request, or no reading, lies in the time of the other.
    """
    start_s, stop_s = _checked_window_s(requests, trace)
    notes = list(requests.notes)
    if baseline is None:
        baseline = _idle_baseline(requests, trace)
        if baseline is None:
            notes.append(
                "net of idle is unknown: record power for a few seconds before the first request "
                "or after the last, or give a baseline"
            )
    window = _window(start_s, stop_s)
    edges_ns = [window.start_ns, window.stop_ns]
    estimator = EnergyEstimator(trace, baseline, edges_ns)
    (energy,) = estimator.energies([window])
    activity = even_activity(requests)
    drivers = drivers_of(activity)
    fits = {
        name: _fit(activity, drivers, readings, part)
        for name, part in energy.components.items()
        if math.isfinite(part.net_j)
        and (readings := _readings(trace, name, part, baseline)) is not None
    }
    costs = {
        name: _cost(requests, *one.phases(energy.components[name])) for name, one in fits.items()
    }
    is_whole = bool(fits) and fits.keys() == energy.components.keys()
    phases = [one.phases(energy.components[name]) for name, one in fits.items()]
    cost = UNKNOWN_COST
    if is_whole:
        cost = _cost(requests, *map(UncertainValue.total, zip(*phases, strict=True)))
    return LlmResult(
        requests=requests,
        energy=energy,
        cost=cost,
        gross_j_per_output_token=_gross_per_token(energy, float(requests.output_tokens.sum())),
        component_costs=costs,
        steady_state=_steady_state(requests, estimator, fits, energy) if is_whole else None,
        per_request=_request_energies(fits, energy) if is_whole else None,
        notes=tuple(notes),
    )


UNKNOWN_COST = TokenCost(UNKNOWN_RATIO, UNKNOWN_RATIO)


def _window(start_s: float, stop_s: float) -> Window:
    return Window(round(start_s * 1e9), round(stop_s * 1e9))


def _checked_window_s(requests: RequestLog, trace: Trace) -> tuple[float, float]:
    """Return the time of the requests; raise an error if it has no readings."""
    if not len(requests):
        raise UserError("there are no requests", hint="give a log with at least one request")
    start_s, stop_s = requests.window_s
    if not stop_s > start_s:
        raise UserError("the requests took no time", why="all start and stop at the same time")
    ends = [
        (float(one.t_ns[0]) * 1e-9, float(one.t_ns[-1]) * 1e-9)
        for channel, one in zip(trace.channels, trace.series, strict=True)
        if channel.gives_energy and one.t_ns.size
    ]
    if not ends:
        raise UserError("there are no readings of power", hint="record power next to the requests")
    first_s, last_s = min(first for first, _ in ends), max(last for _, last in ends)
    if stop_s <= first_s or start_s >= last_s:
        raise UserError(
            "no request is within the recording of power",
            why=f"the requests go from {start_s:.12g} to {stop_s:.12g} s, the readings from "
            f"{first_s:.12g} to {last_s:.12g} s",
            hint="put both on one clock",
        )
    return start_s, stop_s


def _idle_baseline(requests: RequestLog, trace: Trace) -> Baseline | None:
    """Take idle power from the time without a request in flight; ``None`` if it is too short."""
    times = [
        one.t_ns
        for one, channel in zip(trace.series, trace.channels, strict=True)
        if channel.gives_energy and one.t_ns.size
    ]
    first_s = max(float(one[0]) for one in times) * 1e-9
    last_s = min(float(one[-1]) for one in times) * 1e-9
    order = np.argsort(requests.start_s, kind="stable")
    latest_s = np.maximum.accumulate(requests.stop_s[order])
    begin_s = np.concatenate(([first_s], latest_s + SETTLE_S))
    end_s = np.concatenate((requests.start_s[order] - EARLY_S, [last_s]))
    idle = np.flatnonzero(end_s - begin_s >= LEAST_IDLE_S)
    if not idle.size:
        return None
    windows = [_window(float(begin_s[i]), float(end_s[i])) for i in idle]
    edges_ns = [edge for one in windows for edge in (one.start_ns, one.stop_ns)]
    energies = EnergyEstimator(trace, change_points_ns=edges_ns).energies(windows)
    points = [
        IdlePoint.from_energy(one, (window.start_ns + window.stop_ns) * 0.5e-9)
        for one, window in zip(energies, windows, strict=True)
        if one.components
    ]
    return Baseline(tuple(points)) if points else None


@dataclass(frozen=True, slots=True, eq=False)
class _Readings:
    """Mean powers net of idle. Shapes: (readings,)."""

    from_s: Floats
    until_s: Floats
    net_w: Floats


def _readings(
    trace: Trace, component: str, part: ComponentEnergy, baseline: Baseline | None
) -> _Readings | None:
    """Return what a component's preferred sensor read, with the time that each is the mean of."""
    if baseline is None:
        return None
    found = _channel(trace, component, part.source)
    if found is None:
        return None
    channel, i = found
    intervals_s = trace.header.get("intervals_s")
    interval_s = intervals_s[i] if intervals_s else channel.update_period_s
    readings = without_glitches(channel, trace.series[i])
    seen = np.isfinite(readings.value)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    value = readings.value[seen]
    if channel.quantity is Quantity.ENERGY:
        counted = counter_intervals(channel, t_s, value, interval_s)
        if counted is None:
            return None
        plain = counted.plain
        from_s, until_s = counted.edges[:-1][plain], counted.edges[1:][plain]
        power_w = counted.power[plain]
    else:
        is_repeated = channel.polled and interval_s < channel.update_period_s
        pace = Pace(interval_s, channel.update_period_s, is_repeated)
        t_s, power_w = updates(t_s, value, pace)
        until_s = t_s - channel.delay_s
        if channel.polled and not is_repeated:
            until_s = until_s - channel.update_period_s / 2
        from_s = until_s - max(channel.window_s, 1e-4)
    power_w = (power_w - channel.offset_w) / channel.gain
    idle_w, _ = baseline.powers(component, part.source, (from_s + until_s) / 2)
    return _Readings(from_s, until_s, power_w - idle_w)


def _channel(trace: Trace, component: str, source: str) -> tuple[Channel, int] | None:
    """Return the channel that gives a component's power its shape, and its position."""
    for i, channel in enumerate(trace.channels):
        if (
            channel.component == component
            and channel.gives_energy
            and channel.source == sensor_of(source)
        ):
            return channel, i
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """How a component's net power divides over drivers.

    Attributes:
        coefficients: J per unit of each driver.
        covariance: Of the coefficients.
        per_watt: Change of the coefficients for each watt that idle power is higher.
        prefill: Each request's total of each driver in prefill. Shape: (requests, drivers).
        decode: The same in decode.
    """

    activity: ServerActivity
    drivers: list[Driver]
    coefficients: Floats
    covariance: Floats
    per_watt: Floats
    prefill: Floats
    decode: Floats

    def phases(self, part: ComponentEnergy) -> tuple[UncertainValue, UncertainValue]:
        """Return the energy of prefill and of decode; they add up to the net energy."""
        prefill, decode = self.prefill.sum(axis=0), self.decode.sum(axis=0)
        net = component_net(part, "", "")
        total = prefill + decode
        whole = float(total @ self.coefficients)
        found = []
        for phase in (prefill, decode):
            share = float(phase @ self.coefficients) / whole
            slope = (phase - share * total) / whole
            off = math.sqrt(max(float(slope @ self.covariance @ slope), 0.0))
            value = net.scaled(share)
            moved = part.net_j * float(slope @ self.per_watt) * part.idle_uncertainty_j
            cause = ("idle", "", part.component)
            shared = {**value.shared, cause: value.shared[cause] - moved / part.duration_s}
            own = math.hypot(value.own, part.net_j * off)
            found.append(replace(value, shared=shared, own=own, least=0.0))
        return found[0], found[1]


def _fit(
    activity: ServerActivity, drivers: list[Driver], readings: _Readings, part: ComponentEnergy
) -> _Fit:
    design = _design(activity, drivers, readings)
    subset, values = _nonnegative(design, readings.net_w)
    coefficients = np.zeros(len(drivers))
    coefficients[subset] = values
    covariance = np.zeros((len(drivers), len(drivers)))
    per_watt = np.zeros(len(drivers))
    if len(subset):
        x = design[:, subset]
        residual = readings.net_w - x @ values
        inverse = np.linalg.pinv(x.T @ x)
        blocks = np.arange(len(x)) * BLOCKS // len(x)
        scores = np.stack([np.bincount(blocks, one * residual) for one in x.T], axis=1)
        meat = scores.T @ scores * BLOCKS / (BLOCKS - len(subset))
        covariance[np.ix_(subset, subset)] = inverse @ meat @ inverse
        per_watt[subset] = inverse @ x.sum(axis=0)
    totals = [
        np.stack(
            [
                sum(
                    (activity.of_requests(one) for one in driver.parts if one.is_prefill is phase),
                    np.zeros(activity.prefill.tokens.size),
                )
                for driver in drivers
            ],
            axis=1,
        )
        for phase in (True, False)
    ]
    return _Fit(activity, drivers, coefficients, covariance, per_watt, *totals)


def _design(activity: ServerActivity, drivers: list[Driver], readings: _Readings) -> Floats:
    """Return each driver's mean rate over the time of each reading. Shape: (readings, drivers)."""
    columns = []
    for driver in drivers:
        rate = sum((activity.rate(one) for one in driver.parts), np.zeros(activity.length_s.size))
        until = np.concatenate(([0.0], np.cumsum(rate * activity.length_s)))
        ends = np.interp(readings.until_s, activity.edges_s, until)
        ends -= np.interp(readings.from_s, activity.edges_s, until)
        columns.append(ends / (readings.until_s - readings.from_s))
    return np.stack(columns, axis=1)


def _nonnegative(design: Floats, y: Floats) -> tuple[list[int], Floats]:
    """Fit the best subset of drivers with positive coefficients, by the Bayesian criterion."""
    n, k = design.shape
    gram, product, square = design.T @ design, design.T @ y, float(y @ y)
    best: tuple[float, list[int], Floats] = (n * math.log(max(square, 1e-300)), [], np.zeros(0))
    for size in range(1, k + 1):
        for chosen in combinations(range(k), size):
            subset = list(chosen)
            part = gram[np.ix_(subset, subset)]
            scale = np.sqrt(np.diag(part))
            if not np.all(scale > 0) or np.linalg.cond(part / np.outer(scale, scale)) > 1e8:
                continue
            values = np.linalg.solve(part, product[subset])
            if np.any(values <= 0):
                continue
            left = max(square - float(values @ product[subset]), 1e-12 * square, 1e-300)
            criterion = n * math.log(left) + size * math.log(n)
            if criterion < best[0]:
                best = (criterion, subset, np.asarray(values))
    return best[1], best[2]


def _cost(requests: RequestLog, prefill: UncertainValue, decode: UncertainValue) -> TokenCost:
    return TokenCost(
        _ratio(prefill.per(float(requests.input_tokens.sum()))),
        _ratio(decode.per(float(requests.output_tokens.sum()))),
    )


def _ratio(value: UncertainValue) -> Ratio:
    return UNKNOWN_RATIO if math.isnan(value.value) else Ratio(value.value, *value.interval)


def _gross_per_token(energy: Energy, tokens: float) -> Ratio:
    if not energy.components:
        return UNKNOWN_RATIO
    parts = energy.components.values()
    return _ratio(UncertainValue.total(component_gross(one, "") for one in parts).per(tokens))


def _request_energies(fits: dict[str, _Fit], energy: Energy) -> RequestEnergies:
    """Divide each component's net energy among the requests."""
    prefill_j, decode_j, variance_j2 = (
        np.zeros(len(next(iter(fits.values())).prefill)) for _ in range(3)
    )
    for name, one in fits.items():
        part = energy.components[name]
        total = one.prefill.sum(axis=0) + one.decode.sum(axis=0)
        whole = float(total @ one.coefficients)
        factor = part.net_j / whole
        prefill_j += factor * (one.prefill @ one.coefficients)
        decode_j += factor * (one.decode @ one.coefficients)
        each = one.prefill + one.decode
        share = each @ one.coefficients / whole
        slope = (each - share[:, None] * total) / whole
        variance_j2 += part.net_j**2 * np.einsum("ij,jk,ik->i", slope, one.covariance, slope)
        variance_j2 += (share * part.net_uncertainty_j) ** 2
    energy_j = prefill_j + decode_j
    half_j = COVERAGE_FACTOR * np.sqrt(np.maximum(variance_j2, 0.0))
    low_j = np.maximum(energy_j - half_j, np.minimum(energy_j, 0.0))
    return RequestEnergies(energy_j, low_j, energy_j + half_j, prefill_j, decode_j)


def _steady_state(
    requests: RequestLog, estimator: EnergyEstimator, fits: dict[str, _Fit], energy: Energy
) -> SteadyState | None:
    """Return the costs while the server was full."""
    found = steady_window(requests, LONGEST_DIP_S)
    if found is None:
        return None
    start_s, stop_s, concurrency = found
    periods_s = [
        estimator.sources[name].update_period_s for name in fits if name in estimator.sources
    ]
    if stop_s - start_s < LEAST_STEADY_READINGS * max(periods_s, default=0.0):
        return None
    (within,) = estimator.energies([_window(start_s, stop_s)])
    if within.components.keys() != energy.components.keys():
        return None
    prefills: list[UncertainValue] = []
    decodes: list[UncertainValue] = []
    tokens_in = tokens_out = 0.0
    for name, one in fits.items():
        inside = _inside(one, start_s, stop_s)
        part = within.components[name]
        whole_phases = one.phases(energy.components[name])
        sums = np.stack([inside[phase] for phase in (True, False)]) @ one.coefficients
        for phase_j, whole, into in zip(sums, whole_phases, (prefills, decodes), strict=True):
            value = part.net_j * phase_j / sums.sum()
            into.append(whole.scaled(value / whole.value) if whole.value else whole)
        tokens_in = inside[True][0]
        tokens_out = inside[False][1]
    prefill, decode = UncertainValue.total(prefills), UncertainValue.total(decodes)
    return SteadyState(
        start_s=start_s,
        stop_s=stop_s,
        concurrency=concurrency,
        cost=TokenCost(_ratio(prefill.per(tokens_in)), _ratio(decode.per(tokens_out))),
        output_tokens_per_s=tokens_out / (stop_s - start_s),
        gross_j_per_output_token=_gross_per_token(within, tokens_out),
    )


def _inside(fit: _Fit, start_s: float, stop_s: float) -> dict[bool, Floats]:
    """Return the total of each driver between two times, in prefill and in decode."""
    edges_s = np.clip(fit.activity.edges_s, start_s, stop_s)
    length_s = np.diff(edges_s)
    return {
        phase: np.array(
            [
                sum(
                    float(fit.activity.rate(one) @ length_s)
                    for one in driver.parts
                    if one.is_prefill is phase
                )
                for driver in fit.drivers
            ]
        )
        for phase in (True, False)
    }
