"""Explain power over time by the tokens that a server was processing.

The page ``docs/explanation/joules-per-token.md`` derives what is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from joulelab.arrays import Floats
from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.uncertainty import component_gross, component_net
from joulelab.errors import UserError
from joulelab.format import duration, join_words
from joulelab.llm.power_fit import (
    Activity,
    Model,
    PowerFit,
    fit_power,
    plausible_activities,
    unexplained,
)
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult, RequestEnergies, SteadyState, TokenCost
from joulelab.llm.sensor_response import find_channel, power_readings, reading_times
from joulelab.llm.server_activity import steady_window
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Quantity
from joulelab.uncertain import COVERAGE_FACTOR, UNKNOWN_RATIO, Ratio, UncertainValue

SETTLE_S = 1.5
"""Time after the last request that is not idle: sensors average up to 1 s, and lag."""
EARLY_S = 0.25
"""Time before a request that is not idle, since the clock of a log may be this late."""
LEAST_IDLE_S = 0.5
"""Idle power is taken from at least this much time without a request in flight."""
LONGEST_DIP_S = 0.1
"""The next request of a closed loop is sent within this time."""
LEAST_STEADY_READINGS = 5
BRIEF = 0.3
"""A sensor that averages less than this part of what it states misses what happens in between."""
SHORTEST_WINDOW_S = 0.05
"""Whether a sensor averages over less cannot be seen: clients are late by milliseconds."""
UNKNOWN_SHARE = 0.25
"""Standard uncertainty of prefill's share from which nothing is known."""
UNEXPLAINED_OFF = 1 / math.sqrt(12)
"""The same for a component whose power nothing explains: every share is equally likely."""
ASSUMED_OFF = 0.015
"""Standard uncertainty of prefill from the assumptions about the server, relative to it, or to
decode where that is less. Simulated servers that differ from all assumptions have errors of 1 to
3 %, see ``benchmarks/results/token-attribution.md``."""
REQUEST_OFF = 0.005
"""The same of the decoding of one request, next to others."""
TOKEN_OFF = 0.5
"""Standard uncertainty of when a request's first and last tokens were made, in tokens."""
UNKNOWN_COST = TokenCost(UNKNOWN_RATIO, UNKNOWN_RATIO)


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
    _check_window(requests, trace)
    notes = list(requests.notes)
    if baseline is None:
        baseline = _idle_baseline(requests, trace)
        if baseline is None:
            notes.append(
                "net of idle is unknown: record power for a few seconds before the first request "
                "or after the last, or give a baseline"
            )
    assumed = plausible_activities(requests)
    energy, estimator = _energy(requests, trace, baseline)
    is_significant = energy.net_interval_j[0] > 0
    fits: dict[str, PowerFit] = {}
    insignificant: list[str] = []
    for name, part in energy.components.items():
        if baseline is None or math.isnan(part.net_j):
            continue
        # Nothing explains a GPU that another server uses, or an estimate that does not vary.
        if part.net_interval_j[0] <= 0:
            insignificant.append(name)
            continue
        readings = power_readings(trace, name, part.source, baseline)
        if readings and (fit := fit_power(requests, assumed, *readings)):
            fits[name] = fit
    trace, late = _with_responses(trace, energy, fits)
    if late:
        notes += late
        energy, estimator = _energy(requests, trace, baseline)
    divisions = {
        name: _Division.of(part, fits.get(name) or unexplained(assumed))
        for name, part in energy.components.items()
        if not math.isnan(part.net_j)
    }
    is_whole = bool(divisions) and divisions.keys() == energy.components.keys()
    if is_whole and not is_significant:
        is_whole = False
        notes.append(
            "the energy net of idle is not significantly above zero, so that joules per token "
            "without idle, and those of each request, are unknown"
        )
    elif insignificant:
        notes.append(f"no energy net of idle is significant: {join_words(insignificant)}")
    cost = UNKNOWN_COST
    if is_whole:
        cost = _cost(requests, list(divisions.values()))
        if cost is UNKNOWN_COST:
            notes.append(
                "prefill and decode do not vary apart, so that joules per token are unknown: send "
                "prompts of different lengths, or requests one at a time"
            )
    return LlmResult(
        requests=requests,
        energy=energy,
        cost=cost,
        gross_j_per_output_token=_gross_per_token(energy, float(requests.output_tokens.sum())),
        component_costs={
            name: UNKNOWN_COST if name in insignificant else _cost(requests, [one])
            for name, one in divisions.items()
        },
        steady_state=_steady_state(requests, estimator, divisions) if is_whole else None,
        per_request=_request_energies(list(divisions.values())) if is_whole else None,
        notes=tuple(notes),
    )


def _energy(
    requests: RequestLog, trace: Trace, baseline: Baseline | None
) -> tuple[Energy, EnergyEstimator]:
    """Return the energy from the first start to the last stop, and what estimates it."""
    window = _window(*requests.window_s)
    estimator = EnergyEstimator(trace, baseline, [window.start_ns, window.stop_ns])
    return estimator.energies([window])[0], estimator


def _with_responses(
    trace: Trace, energy: Energy, fits: dict[str, PowerFit]
) -> tuple[Trace, list[str]]:
    """Return the trace with what was found about sensors that respond later than they state."""
    channels, notes = list(trace.channels), []
    for name, fit in fits.items():
        found = find_channel(trace, name, energy.components[name].source)
        if fit.response is None or found is None:
            continue
        channel, i = found
        late_s = fit.response.mean_age_s - fit.stated.mean_age_s
        # A lag is about as late, and as wide, as a window of twice its time constant.
        window_s = fit.response.window_s + 2 * fit.response.lag_s
        stated_s = fit.stated.window_s
        is_brief = stated_s >= SHORTEST_WINDOW_S and window_s < BRIEF * stated_s
        # A shift by less than a reading hardly changes energies.
        if abs(late_s) <= channel.update_period_s and not is_brief:
            continue
        if channel.quantity is Quantity.POWER:
            channel = replace(channel, window_s=window_s)
        channels[i] = replace(channel, delay_s=channel.delay_s + fit.response.delay_s)
        if is_brief:
            notes.append(
                f"{name}: readings of {channel.source} follow the requests as if each were power "
                "at one moment, and miss what happens in between (included in the interval)"
            )
            continue
        side = "later" if late_s > 0 else "earlier"
        notes.append(
            f"{name}: readings follow the requests {duration(abs(late_s))} {side} than "
            f"{channel.source} states, and are taken to stand for that time"
        )
    return replace(trace, channels=tuple(channels)), notes


def _window(start_s: float, stop_s: float) -> Window:
    return Window(round(start_s * 1e9), round(stop_s * 1e9))


def _check_window(requests: RequestLog, trace: Trace) -> None:
    """Raise an error if the time of the requests has no readings."""
    if not len(requests):
        raise UserError("there are no requests", hint="give a log with at least one request")
    start_s, stop_s = requests.window_s
    if not stop_s > start_s:
        raise UserError("the requests took no time", why="all start and stop at the same time")
    firsts_s, lasts_s = reading_times(trace)
    first_s, last_s = firsts_s.min(), lasts_s.max()
    if stop_s <= first_s or start_s >= last_s:
        raise UserError(
            "no request is within the recording of power",
            why=f"the requests go from {start_s:.12g} to {stop_s:.12g} s, the readings from "
            f"{first_s:.12g} to {last_s:.12g} s",
            hint="put both on one clock",
        )


def _idle_baseline(requests: RequestLog, trace: Trace) -> Baseline | None:
    """Take idle power from the time without a request in flight; ``None`` if it is too short."""
    firsts_s, lasts_s = reading_times(trace)
    first_s, last_s = firsts_s.max(), lasts_s.min()
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
class _Division:
    """How a component's net energy divides over phases and requests."""

    part: ComponentEnergy  # The component's energy.
    fit: PowerFit
    share: float  # Prefill's share of the net energy.
    off: float  # Its standard uncertainty.
    per_watt: float  # Its change for each watt that idle power is lower.

    @classmethod
    def of(cls, part: ComponentEnergy, fit: PowerFit) -> _Division:
        """Average over the models of a fit."""
        shares, variances, per_watt = [], [], 0.0
        for model in fit.models:
            prefill, decode = model.activity.prefill.sum(axis=0), model.activity.decode.sum(axis=0)
            share, slope = _share(model, prefill, prefill + decode)
            shares.append(share)
            variances.append(float(slope @ model.covariance @ slope))
            per_watt += model.weight * float(slope @ model.per_watt)
        weights = [model.weight for model in fit.models]
        mean = float(np.dot(weights, shares))
        variance = float(np.dot(weights, np.array(variances) + (np.array(shares) - mean) ** 2))
        # A share below 0 shows that the model is off by at least that.
        off = max(math.sqrt(max(variance, 0.0)), -mean, mean - 1)
        off = math.hypot(off, ASSUMED_OFF * min(max(mean, 0.0), max(1 - mean, 0.0)))
        if not fit.is_explained:
            off = UNEXPLAINED_OFF
        return cls(part, fit, *_within_limits(mean, off), per_watt)

    def phases(self) -> tuple[UncertainValue, UncertainValue]:
        """Return the energy of prefill and of decode; they add up to the net energy."""
        part = self.part
        net = component_net(part, "", "")
        cause = ("idle", "", part.component)
        moved_j = part.net_j * self.per_watt * part.idle_uncertainty_j / part.duration_s
        found = []
        for share, sign in ((self.share, 1.0), (1 - self.share, -1.0)):
            value = net.scaled(share)
            shared = {**value.shared, cause: value.shared[cause] + sign * moved_j}
            own = math.hypot(value.own, part.net_j * self.off)
            found.append(replace(value, shared=shared, own=own, least=0.0))
        return found[0], found[1]

    def requests(self) -> tuple[Floats, Floats, Floats]:
        """Return each request's energy in prefill and in decode, and the variance of their sum."""
        net_j = self.part.net_j
        size = len(self.fit.models[0].activity.prefill)
        prefill, decode, square, variance = (np.zeros(size) for _ in range(4))
        for model in self.fit.models:
            one, two = model.activity.prefill, model.activity.decode
            total = one.sum(axis=0) + two.sum(axis=0)
            whole = float(total @ model.coefficients)
            parts = one @ model.coefficients / whole, two @ model.coefficients / whole
            both = parts[0] + parts[1]
            slope = (one + two - both[:, None] * total) / whole
            prefill += model.weight * parts[0]
            decode += model.weight * parts[1]
            square += model.weight * both**2
            variance += model.weight * np.einsum("ij,jk,ik->i", slope, model.covariance, slope)
        variance += np.maximum(square - (prefill + decode) ** 2, 0.0)
        prefill, decode = (
            _scaled(one, share, self.fit.models[0].activity)
            for one, share in ((prefill, self.share), (decode, 1 - self.share))
        )
        tokens = np.maximum(self.fit.models[0].activity.server.decode.tokens, 1.0)
        variance += (ASSUMED_OFF * prefill) ** 2 + (REQUEST_OFF * decode) ** 2
        variance += (TOKEN_OFF * decode / tokens) ** 2
        variance_j2 = net_j**2 * variance
        variance_j2 += ((prefill + decode) * self.part.net_uncertainty_j) ** 2
        return net_j * prefill, net_j * decode, variance_j2

    def between(self, start_s: float, stop_s: float) -> float:
        """Return prefill's share of the energy between two times."""
        inside, whole = np.zeros(2), np.zeros(2)
        for model in self.fit.models:
            activity = model.activity
            parts = np.stack(activity.between(start_s, stop_s)) @ model.coefficients
            sums = np.array(
                [
                    one.sum(axis=0) @ model.coefficients
                    for one in (activity.prefill, activity.decode)
                ]
            )
            inside += model.weight * parts / sums.sum()
            whole += model.weight * sums / sums.sum()
        if not (np.all(whole > 0) and np.any(inside > 0)):
            return self.share
        prefill, decode = inside / whole * (self.share, 1 - self.share)
        return min(max(float(prefill / (prefill + decode)), 0.0), 1.0)


def _share(model: Model, part: Floats, total: Floats) -> tuple[float, Floats]:
    """Return which share of all energy some drivers' totals cause, and its slope."""
    whole = float(total @ model.coefficients)
    share = float(part @ model.coefficients) / whole
    return share, (part - share * total) / whole


def _scaled(values: Floats, total: float, activity: Activity) -> Floats:
    """Scale parts to a total; if they are not known, by the prompts, or to the same for each."""
    known = (values, activity.prefill[:, 0], np.ones(values.size))
    parts = next(one for one in known if float(one.sum()) > 0)
    return parts * (total / float(parts.sum()))


def _within_limits(mean: float, off: float) -> tuple[float, float]:
    """Return mean and standard deviation of a normal distribution cut off below 0 and above 1."""
    if off <= 0 or (mean - 6 * off > 0 and mean + 6 * off < 1):
        return min(max(mean, 0.0), 1.0), off
    x = np.linspace(0.0, 1.0, 4001)
    density = np.exp(-(((x - mean) / off) ** 2) / 2)
    density /= density.sum()
    centre = float(x @ density)
    return centre, math.sqrt(float((x - centre) ** 2 @ density))


def _cost(requests: RequestLog, divisions: Sequence[_Division]) -> TokenCost:
    """Return the costs of all tokens; unknown if nothing says how much of the energy is prefill."""
    return _cost_of(
        [one.phases() for one in divisions],
        divisions,
        float(requests.input_tokens.sum()),
        float(requests.output_tokens.sum()),
    )


def _cost_of(
    phases: Sequence[tuple[UncertainValue, UncertainValue]],
    divisions: Sequence[_Division],
    tokens_in: float,
    tokens_out: float,
) -> TokenCost:
    unknown_j = math.hypot(*(one.off * one.part.net_j for one in divisions))
    if unknown_j >= UNKNOWN_SHARE * abs(math.fsum(one.part.net_j for one in divisions)):
        return UNKNOWN_COST
    prefill_j, decode_j = (UncertainValue.total(one) for one in zip(*phases, strict=True))
    return TokenCost(*map(_per_token, (prefill_j, decode_j), (tokens_in, tokens_out)))


def _per_token(phase_j: UncertainValue, tokens: float) -> Ratio:
    """Return the energy per token; unknown for a phase that did not take place, or is negative.

    A prompt's first output token is made by prefill: requests of one token have no decode.
    """
    return Ratio.of(phase_j.per(tokens)) if phase_j.value > 0 else UNKNOWN_RATIO


def _gross_per_token(energy: Energy, tokens: float) -> Ratio:
    if not energy.components:
        return UNKNOWN_RATIO
    parts = energy.components.values()
    return Ratio.of(UncertainValue.total(component_gross(one, "") for one in parts).per(tokens))


def _request_energies(divisions: Sequence[_Division]) -> RequestEnergies:
    """Divide each component's net energy among the requests."""
    prefill_j, decode_j, variance_j2 = (
        np.sum(one, axis=0) for one in zip(*(each.requests() for each in divisions), strict=True)
    )
    energy_j = prefill_j + decode_j
    half_j = COVERAGE_FACTOR * np.sqrt(variance_j2)
    low_j = np.maximum(energy_j - half_j, np.minimum(energy_j, 0.0))
    return RequestEnergies(energy_j, low_j, energy_j + half_j, prefill_j, decode_j)


def _steady_state(
    requests: RequestLog, estimator: EnergyEstimator, divisions: dict[str, _Division]
) -> SteadyState | None:
    """Return the costs while the server was full; ``None`` if that was too short."""
    found = steady_window(requests, LONGEST_DIP_S)
    if found is None:
        return None
    start_s, stop_s, concurrency = found
    period_s = max(channel.update_period_s for channel in estimator.sources.values())
    if stop_s - start_s < LEAST_STEADY_READINGS * period_s:
        return None
    (within,) = estimator.energies([_window(start_s, stop_s)])
    if not divisions.keys() <= within.components.keys():
        return None
    phases = []
    for name, one in divisions.items():
        part = within.components[name]
        share = one.between(start_s, stop_s)
        # What is uncertain of the whole is so of this part of it.
        phases.append(replace(one, part=part, share=share).phases())
    activity = next(iter(divisions.values())).fit.models[0].activity
    tokens_in, tokens_out = activity.tokens_between(start_s, stop_s, requests.input_tokens)
    return SteadyState(
        start_s=start_s,
        stop_s=stop_s,
        concurrency=concurrency,
        cost=_cost_of(phases, list(divisions.values()), tokens_in, tokens_out),
        output_tokens_per_s=tokens_out / (stop_s - start_s),
        gross_j_per_output_token=_gross_per_token(within, tokens_out),
    )
