"""Fit the power of one component by what the server did, over all plausible assumptions.

Each assumption about the server (:func:`~joulelab.llm.server_activity.activities`) and each choice
of drivers is a model, fitted by least squares. Models are weighted by how well they explain the
readings (Bayesian information criterion), and what they disagree in is part of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from joulelab.arrays import Floats
from joulelab.llm.requests import RequestLog
from joulelab.llm.sensor_response import PowerReadings, Response, refined, responses
from joulelab.llm.server_activity import Driver, ServerActivity, activities, drivers_of

MOST_DRIVERS = 4
"""Largest number of drivers of a model."""
SIMPLE = ("input", "prefill time", "output", "steps", "busy")
"""Drivers by which the response of a sensor is found."""
LEAST_EIGENVALUE = 1e-6
"""Drivers whose correlation matrix has a smaller one do not vary apart."""
LEAST_WEIGHT = 1e-3
"""Models with a smaller weight are left out."""
LEAST_GAIN = 10.0
"""A sensor is taken to respond as it states unless another response gains this much in -2 ln L."""
RESPONSE_READINGS = 2_000
"""Enough to find a sensor's response."""
MOST_REFINED = 4
"""Assumptions about the server, and responses, that are searched closely."""
MOST_FITTED = 8
"""Assumptions about the server for which all drivers are tried."""
MOST_WORSE = 60.0
"""Assumptions that explain the times of the requests worse by more, in -2 ln L, are left out."""
MARGIN_S = 1.0
"""Readings this long before and after the requests show how the sensor responds. Requests that are
not in the log, such as those of a warm-up, must be further away: nothing explains their power."""
BLOCKS = 20
"""Blocks of time whose errors are taken as independent of each other."""
BLOCK_FACTOR = 1.068
"""Student's t of their number relative to the normal distribution, at 95 %."""


@dataclass(frozen=True, eq=False)
class Activity:
    """One assumption about the server, with its drivers."""

    server: ServerActivity

    @cached_property
    def drivers(self) -> list[Driver]:
        """The quantities to which power may be proportional."""
        return drivers_of(self.server)

    @cached_property
    def prefill(self) -> Floats:
        """Each request's total of each driver in prefill. Shape: (requests, drivers)."""
        return self._of_requests(is_prefill=True)

    @cached_property
    def decode(self) -> Floats:
        """The same in decode."""
        return self._of_requests(is_prefill=False)

    def _of_requests(self, *, is_prefill: bool) -> Floats:
        totals = [self.server.of_requests(one, is_prefill=is_prefill) for one in self.drivers]
        return np.stack(totals, axis=1)

    def between(self, start_s: float, stop_s: float) -> tuple[Floats, Floats]:
        """Return the drivers' totals between two times, in prefill and in decode."""
        length_s = np.diff(np.clip(self.server.edges_s, start_s, stop_s))
        prefill, decode = (
            np.array([self.server.rate(one, of=phase) @ length_s for one in self.drivers])
            for phase in (True, False)
        )
        return prefill, decode

    def tokens_between(
        self, start_s: float, stop_s: float, input_tokens: Floats
    ) -> tuple[float, float]:
        """Return the tokens of prompts, cached ones included, and of outputs between two times."""
        server = self.server
        inside = np.diff(np.clip(server.edges_s, start_s, stop_s)) / server.length_s
        share = server.within(server.prefill, inside) / server.prefill.length_s
        (output,) = (one for one in self.drivers if one.name == "output")
        made = float(server.rate(output) @ (inside * server.length_s))
        return float(share @ input_tokens), made

    def design(self, readings: PowerReadings, response: Response) -> Floats:
        """Return the drivers' mean rates in each reading. Shape: (readings, drivers)."""
        return np.stack(
            [
                response.mean(
                    readings, self.server.edges_s, self.server.integral(self.server.rate(one))
                )
                for one in self.drivers
            ],
            axis=1,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Power by one assumption and one choice of drivers."""

    activity: Activity
    weight: float  # Its share among all models.
    coefficients: Floats  # J per unit of each driver, 0 for those that are not in it.
    covariance: Floats  # Of the coefficients.
    per_watt: Floats  # Change of the coefficients for each watt that idle power is lower.

    @property
    def energy_j(self) -> float:
        """Energy of all requests."""
        totals = self.activity.prefill.sum(axis=0) + self.activity.decode.sum(axis=0)
        return float(totals @ self.coefficients)


@dataclass(frozen=True, slots=True, eq=False)
class PowerFit:
    """All models of a component's power that are plausible; their weights add up to 1."""

    models: Sequence[Model]
    response: Response | None  # How the sensor responds, or None if nothing explains power.
    stated: Response

    @property
    def is_explained(self) -> bool:
        """Whether readings show what drives power."""
        return self.response is not None


def unexplained(assumed: Sequence[Activity]) -> PowerFit:
    """Return a fit that divides all energy over the time in which requests were processed."""
    activity = assumed[0]
    size = len(activity.drivers)
    only_busy = np.array([float(one.name == "busy") for one in activity.drivers])
    model = Model(activity, 1.0, only_busy, np.zeros((size, size)), np.zeros(size))
    return PowerFit([model], None, Response(0.0))


def plausible_activities(requests: RequestLog) -> list[Activity]:
    """Return what the server may have done, by the times of the requests."""
    servers = list(activities(requests))
    least = min(one.timing for one in servers)
    likely = (one for one in servers if one.timing <= least + MOST_WORSE)
    return [Activity(one) for one in _distinct(likely)]


def fit_power(
    requests: RequestLog,
    assumed: Sequence[Activity],
    readings: PowerReadings,
    stated: Response,
) -> PowerFit | None:
    """Fit the power net of idle; ``None`` if nothing explains it."""
    start_s, stop_s = requests.window_s
    readings = readings.between(start_s - MARGIN_S, stop_s + MARGIN_S)
    if readings.net_w.size <= MOST_DRIVERS + 1:
        return None
    response, losses = _find_response(assumed, readings, stated)
    candidates = []
    for i in np.argsort(losses)[:MOST_FITTED]:
        one = assumed[i]
        design = one.design(readings, response)
        candidates += [(fit, one, design) for fit in _subsets(design, readings.net_w, one.drivers)]
    if not candidates:
        return None
    n = readings.net_w.size
    fit, _, design = min(candidates, key=lambda one: one[0].criterion(n) + one[1].server.timing)
    left = readings.net_w - design[:, fit.subset] @ fit.values
    independent = n / _correlation_length(left)
    criteria = np.array(
        [one.criterion(independent) + activity.server.timing for one, activity, _ in candidates]
    )
    weights = np.exp(-(criteria - criteria.min()) / 2)
    weights /= weights.sum()
    models = [
        _model(*candidates[i], readings.net_w, float(weights[i]))
        for i in np.flatnonzero(weights > LEAST_WEIGHT)
    ]
    models = [one for one in models if one.energy_j > 0]
    if not models:
        return None
    whole = math.fsum(one.weight for one in models)
    models = [replace(one, weight=one.weight / whole) for one in models]
    return PowerFit(models, response, stated)


def _distinct(servers: Iterable[ServerActivity]) -> list[ServerActivity]:
    """Leave out assumptions that come to the same, as where there is one request at a time."""
    found: list[tuple[ServerActivity, Floats]] = []
    for one in servers:
        times = np.concatenate(
            (one.prefill.start_s, one.prefill.tokens, one.tokens_per_pace * one.pace.mean())
        )
        if not any(np.allclose(times, other, rtol=1e-6, atol=1e-6) for _, other in found):
            found.append((one, times))
    return [one for one, _ in found]


def _find_response(
    assumed: Sequence[Activity], readings: PowerReadings, stated: Response
) -> tuple[Response, list[float]]:
    """Find how the sensor responds, together with what the server did.

    It is taken to respond as it states unless another response is much more likely, where readings
    in a row that have the same error count as one. Returns also how unlikely each assumption about
    the server is then.
    """
    some = _some(readings)
    losses = [_response_loss(one, some) for one in assumed]
    as_stated = [loss(stated) for loss in losses]
    tried = responses(some, stated)
    coarse = sorted(
        (
            (losses[k](one), i)
            for k in np.argsort(as_stated)[:MOST_REFINED]
            for i, one in enumerate(tried)
        ),
    )
    # The best responses under these assumptions, under all.
    likely = list(dict.fromkeys(i for _, i in coarse[: 2 * MOST_REFINED]))[:MOST_REFINED]
    starts = sorted((loss(tried[i]), k, i) for k, loss in enumerate(losses) for i in likely)
    found = (min(as_stated), stated)
    for _, k, i in starts[:MOST_REFINED]:
        found = min(found, refined(tried[i], some, losses[k]), key=lambda pair: pair[0])
    in_a_row = _correlated_readings(assumed[int(np.argmin(as_stated))], some, stated)
    response = found[1] if found[0] < min(as_stated) - LEAST_GAIN * in_a_row else stated
    return response, [loss(response) for loss in losses]


def _response_loss(activity: Activity, readings: PowerReadings) -> Callable[[Response], float]:
    """Return a function that fits a few drivers, and returns how badly they explain readings."""
    drivers = [one for one in activity.drivers if one.name in SIMPLE]
    integrals = [activity.server.integral(activity.server.rate(one)) for one in drivers]
    edges_s = activity.server.edges_s

    def loss(response: Response) -> float:
        design = np.stack([response.mean(readings, edges_s, one) for one in integrals], axis=1)
        fits = _subsets(design, readings.net_w, drivers)
        least = min((one.criterion(readings.net_w.size) for one in fits), default=math.inf)
        return least + activity.server.timing

    return loss


def _correlated_readings(activity: Activity, readings: PowerReadings, response: Response) -> float:
    """Return how many readings in a row have nearly the same error under an assumption."""
    drivers = [one for one in activity.drivers if one.name in SIMPLE]
    design = activity.design(readings, response)
    columns = design[:, [i for i, one in enumerate(activity.drivers) if one.name in SIMPLE]]
    fits = _subsets(columns, readings.net_w, drivers)
    if not fits:
        return 1.0
    best = min(fits, key=lambda one: one.criterion(readings.net_w.size))
    return _correlation_length(readings.net_w - columns[:, best.subset] @ best.values)


def _some(readings: PowerReadings) -> PowerReadings:
    """Return readings from all of a long recording."""
    size = readings.net_w.size
    return readings.at(np.unique(np.linspace(0, size - 1, RESPONSE_READINGS).astype(np.intp)))


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Coefficients of some drivers, and the sum of squares that they leave."""

    subset: list[int]
    values: Floats
    left: float

    def criterion(self, independent: float) -> float:
        """Return the Bayesian information criterion for a number of independent readings."""
        return independent * math.log(self.left) + len(self.subset) * math.log(independent)


def _subsets(design: Floats, y: Floats, drivers: Sequence[Driver]) -> list[_Fit]:
    """Fit each choice of drivers by least squares, of which one must be of prefill if there is one.

    Coefficients are positive, except that of a single driver of prefill: where it cannot be
    determined, estimates on both sides of 0 show that.
    """
    gram, product, square = design.T @ design, design.T @ y, float(y @ y)
    scale = np.sqrt(np.diag(gram))
    usable = [i for i in range(len(drivers)) if scale[i] > 0]
    of_prefill = np.array([one.is_prefill for one in drivers])
    least = 1e-12 * square + 1e-300
    found = []
    for size in range(1, min(MOST_DRIVERS, len(usable)) + 1):
        subsets = np.array(list(combinations(usable, size)))
        prefills = of_prefill[subsets].sum(axis=1)
        if of_prefill[usable].any():
            subsets, prefills = subsets[prefills > 0], prefills[prefills > 0]
        if not len(subsets):
            continue
        scales = scale[subsets]
        parts = gram[subsets[:, :, None], subsets[:, None, :]]
        parts = parts / (scales[:, :, None] * scales[:, None, :])
        independent = np.linalg.eigvalsh(parts)[:, 0] > LEAST_EIGENVALUE
        subsets, prefills, scales, parts = (
            one[independent] for one in (subsets, prefills, scales, parts)
        )
        if not len(subsets):
            continue
        right = product[subsets] / scales
        solved = np.linalg.solve(parts, right[:, :, None])[:, :, 0]
        left = np.maximum(square - (solved * right).sum(axis=1), least)
        may_be_negative = of_prefill[subsets] & (prefills == 1)[:, None]
        valid = np.all((solved > 0) | may_be_negative, axis=1)
        found += [
            _Fit(subsets[i].tolist(), solved[i] / scales[i], float(left[i]))
            for i in np.flatnonzero(valid)
        ]
    return found


def _model(fit: _Fit, activity: Activity, design: Floats, y: Floats, weight: float) -> Model:
    """Add what the coefficients are uncertain by: errors may be the same within blocks of time."""
    size = len(activity.drivers)
    subset, x = fit.subset, design[:, fit.subset]
    inverse = np.linalg.pinv(x.T @ x)
    left = y - x @ fit.values
    number = min(BLOCKS, y.size)
    blocks = np.arange(y.size) * number // y.size
    scores = np.stack([np.bincount(blocks, one * left) for one in x.T], axis=1)
    meat = scores.T @ scores * number / max(number - len(subset), 1) * BLOCK_FACTOR**2
    coefficients, per_watt = np.zeros(size), np.zeros(size)
    covariance = np.zeros((size, size))
    coefficients[subset] = fit.values
    per_watt[subset] = inverse @ x.sum(axis=0)
    covariance[np.ix_(subset, subset)] = inverse @ meat @ inverse
    return Model(activity, weight, coefficients, covariance, per_watt)


def _correlation_length(left: Floats) -> float:
    """Return how many readings in a row have nearly the same error, at least 1."""
    size = 1 << (2 * left.size - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(left - left.mean(), size)) ** 2
    correlation = np.fft.irfft(spectrum, size)[: left.size]
    if not correlation[0] > 0:
        return 1.0
    correlation = correlation / correlation[0]
    ends = np.flatnonzero(correlation <= 0.05)
    return 1 + 2 * float(correlation[1 : int(ends[0]) if ends.size else None].sum())
