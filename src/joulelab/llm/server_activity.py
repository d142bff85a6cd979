"""What a server did in each moment, reconstructed from its requests.

A client sees when a request was sent, and when its first and its last token arrived. Between two
such events all rates are taken as constant, so that every total between any two times is exact.
When within its wait a prompt was processed, and how fast tokens were generated while others were,
is not seen: :func:`activities` lists what is plausible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.llm.requests import RequestLog

SHORTEST_S = 1e-5
"""A phase that took no measurable time is spread over this much."""
SAME_S = 1e-3
"""First tokens that arrive within this time belong to one batch of prompts."""
FASTEST = 0.1
"""Share of the prompts that were processed faster than the fastest speed without waits."""
PACES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Speeds of decoding while a prompt is processed, relative to that without one, to try."""
LEAST_PACE = 1e-3
"""A pace that is as good as none."""
SLOW_DOWNS = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 4.0, 7.0, 12.0, 20.0)
"""Additional time of a step at the largest batch, relative to the time with one, to try."""
MOST_TIMED = 1000
"""Number of requests whose times are compared."""
LEAST_SCATTER = 1e-4
"""Times of requests are not known better than by this part."""
MOST_WORSE = 12.0
"""Paces that are less likely than the best by more, in -2 ln L, are not considered."""


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """When each request was in a phase, and the tokens in it. Shapes: (requests,)."""

    start_s: Floats
    stop_s: Floats
    tokens: Floats

    @classmethod
    def of(cls, start_s: Floats, stop_s: Floats, tokens: Floats) -> Phase:
        """Give phases that took no time a short one, ending when they did."""
        return cls(np.minimum(start_s, stop_s - SHORTEST_S), stop_s, tokens)

    def at(self, index: Indices) -> Phase:
        """Return some of the requests."""
        return Phase(self.start_s[index], self.stop_s[index], self.tokens[index])

    @property
    def length_s(self) -> Floats:
        """How long each took."""
        return self.stop_s - self.start_s

    def spread(self, amounts: Floats, edges_s: Floats) -> Floats:
        """Return what is between edges of amounts that are spread evenly over each request's phase.

        Shapes: (requests,), (edges,) and (edges - 1,).
        """
        rate = amounts / self.length_s
        until = [rate @ np.clip(edge - self.start_s, 0.0, self.length_s) for edge in edges_s]
        return np.diff(until)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something that requests cause in one phase: at each time, a gain times their weights' sum."""

    is_prefill: bool  # Whether prompts cause it, or decoding.
    weight: Floats  # Of each request. Shape: (requests,).
    gain: Floats  # At each time. Shape: (cells,).


@dataclass(frozen=True, slots=True, eq=False)
class Driver:
    """A quantity to which power may be proportional, with each request's part of it."""

    name: str
    parts: tuple[Part, ...]

    @property
    def is_prefill(self) -> bool:
        """Whether only prompts cause it."""
        return all(one.is_prefill for one in self.parts)


_Cells = tuple[Indices, Indices, Floats]


@dataclass(frozen=True, eq=False)
class ServerActivity:
    """Work of the server over time, under one assumption about what the client does not see."""

    prefill: Phase  # When each prompt was processed, and how many of its tokens were.
    decode: Phase  # When each output was generated, and how many tokens.
    context_tokens: Floats  # Mean length of the context of each request while it was decoded.
    # Speed of decoding while a prompt is processed, relative to that without one.
    stalled_pace: float = 1.0
    # Additional time of a step for each further request that is decoded, relative to the time with
    # one.
    slow_down: float = 0.0
    # How badly the times of the requests are explained: -2 ln L, up to a constant.
    timing: float = 0.0

    @cached_property
    def edges_s(self) -> Floats:
        """Times of the events, in order."""
        one, two = self.prefill, self.decode
        return np.unique(np.concatenate((one.start_s, one.stop_s, two.start_s, two.stop_s)))

    @cached_property
    def length_s(self) -> Floats:
        """Time between events. Shape: (cells,), as all that follow unless stated."""
        return np.diff(self.edges_s)

    @cached_property
    def prefilling(self) -> Floats:
        """Number of requests whose prompt is being processed."""
        return self._prefill_cells[2]

    @cached_property
    def decoding(self) -> Floats:
        """Number of requests whose output is being generated."""
        return self._decode_cells[2]

    @cached_property
    def running(self) -> Floats:
        """Part of the time in which decoding is not stopped by prompts."""
        return np.where(self.prefilling > 0, self.stalled_pace, 1.0)

    @cached_property
    def pace(self) -> Floats:
        """Steps of decoding per unit of time, up to a constant."""
        return self._pace(self.stalled_pace, self.slow_down)

    def _pace(self, stalled_pace: float, slow_down: float) -> Floats:
        step = 1 + slow_down * np.maximum(self.decoding - 1, 0.0)
        # What was decoded only while prompts were processed was not stopped by them.
        return np.where(self.prefilling > 0, max(stalled_pace, LEAST_PACE), 1.0) / step

    @cached_property
    def tokens_per_pace(self) -> Floats:
        """Tokens per second of each request at a pace of 1. Shape: (requests,)."""
        return self.decode.tokens / self.within(self.decode, self.pace)

    def within(self, phase: Phase, gain: Floats) -> Floats:
        """Integrate a function of time over each request's phase. Shape: (requests,)."""
        integral = self.integral(gain)
        start, stop = (
            np.interp(t_s, self.edges_s, integral) for t_s in (phase.start_s, phase.stop_s)
        )
        return np.asarray(stop - start)

    def integral(self, rate: Floats) -> Floats:
        """Integrate a rate from the first event to each. Shape: (cells + 1,)."""
        return np.concatenate(([0.0], np.cumsum(rate * self.length_s)))

    def rate(self, driver: Driver, *, of: bool | None = None) -> Floats:
        """Return a driver at each time: all of it, or that of prefill or decode only."""
        found = np.zeros(self.length_s.size)
        for part in driver.parts:
            if of is None or part.is_prefill is of:
                found += part.gain * self._sum(self._phase(part), part.weight)
        return found

    def of_requests(self, driver: Driver, *, is_prefill: bool) -> Floats:
        """Return each request's total of a driver in prefill or in decode. Shape: (requests,)."""
        found = np.zeros(self.prefill.tokens.size)
        for part in driver.parts:
            if part.is_prefill is is_prefill:
                found += part.weight * self.within(self._phase(part), part.gain)
        return found

    def _phase(self, part: Part) -> Phase:
        return self.prefill if part.is_prefill else self.decode

    def _sum(self, phase: Phase, weight: Floats) -> Floats:
        """Add up the weights of the requests in a phase.

        Phases that took no time have large weights, whose rounding errors must not stay in the
        sum of the others; nor where nothing is.
        """
        first, after, _ = self._prefill_cells if phase is self.prefill else self._decode_cells
        size, found = self.edges_s.size, np.zeros(self.edges_s.size - 1)
        is_short = phase.length_s < 2 * SHORTEST_S
        for some in (is_short, ~is_short):
            begin, end, part = first[some], after[some], weight[some]
            change = np.bincount(begin, part, size) - np.bincount(end, part, size)
            number = np.cumsum(
                np.bincount(begin, minlength=size) - np.bincount(end, minlength=size)
            )
            found += np.where(number > 0, np.maximum(np.cumsum(change), 0.0), 0.0)[:-1]
        return found

    @cached_property
    def _prefill_cells(self) -> _Cells:
        return self._cells(self.prefill)

    @cached_property
    def _decode_cells(self) -> _Cells:
        return self._cells(self.decode)

    def _cells(self, phase: Phase) -> _Cells:
        """Return each request's first cell, the one after its last, and the number in each cell."""
        size = self.edges_s.size
        first, after = np.searchsorted(self.edges_s, (phase.start_s, phase.stop_s))
        change = np.bincount(first, minlength=size) - np.bincount(after, minlength=size)
        return first, after, np.cumsum(change)[:-1].astype(np.float64)

    def paced(self) -> list[ServerActivity]:
        """Return the same with the paces of decoding that explain best how long requests took.

        A request makes one token in each step, so the number of its tokens is the integral of the
        steps per second, up to one constant for all. Steps take longer while prompts are processed,
        and linearly longer with the number that is decoded. The deviations of requests are taken to
        follow Laplace's distribution. Paces that are nearly as likely as the best are returned too,
        and that of requests whose speeds have nothing to do with each other.
        """
        early = self._first(2 * MOST_TIMED)
        tokens = early.decode.tokens - 1
        timed = (tokens > 0) & (early.decode.length_s > 10 * SHORTEST_S)
        # Those that are left out later were decoded with the last of the others.
        some = np.flatnonzero(timed)[:MOST_TIMED]
        if not some.size:
            return [self]
        start_s, stop_s = early.decode.start_s[some], early.decode.stop_s[some]
        tokens = tokens[some]
        # Of few tokens, the first and the last may be off by a large part of them.
        weight = tokens / (tokens + 16)
        most = max(float(early.decoding.max()) - 1, 1.0)
        # Requests that are decoded at the same time have errors in common.
        independent = some.size / math.sqrt(most)

        def criterion(stalled_pace: float, slow_down: float) -> float:
            integral = early.integral(early._pace(stalled_pace, slow_down / most))
            ends, begins = (np.interp(t_s, early.edges_s, integral) for t_s in (stop_s, start_s))
            per_token = (ends - begins) / tokens
            middle = max(float(np.median(per_token)), 1e-300)
            off = float(np.mean(weight * np.abs(per_token / middle - 1)))
            return 2 * independent * math.log(off + LEAST_SCATTER)

        are_together = np.any((early.prefilling > 0) & (early.decoding > 0))
        found = _search_paces(
            criterion,
            PACES if are_together else PACES[:1],
            SLOW_DOWNS if early.decoding.max() > 1 else SLOW_DOWNS[:1],
        )
        best = found[-1]
        # If they are many, the fastest and the slowest show what difference they make.
        likely = sorted((p, s, one) for one, p, s in found if one <= best[0] + MOST_WORSE)
        # Each request may also have had an even speed of its own, whatever the others did.
        even = (1.0, 0.0, criterion(1.0, 0.0))
        chosen = {likely[0], (*best[1:], best[0]), likely[-1], even}
        return [
            replace(self, stalled_pace=pace, slow_down=slow / most, timing=one)
            for pace, slow, one in sorted(chosen)
        ]

    def _first(self, number: int) -> ServerActivity:
        """Return the activity of the requests whose decoding began first."""
        if self.decode.tokens.size <= number:
            return self
        chosen = np.argsort(self.decode.start_s, kind="stable")[:number]
        prefill, decode = (one.at(chosen) for one in (self.prefill, self.decode))
        return ServerActivity(prefill, decode, self.context_tokens[chosen])


def _search_paces(
    criterion: Callable[[float, float], float],
    paces: Sequence[float],
    slow_downs: Sequence[float],
) -> list[tuple[float, float, float]]:
    """Return the best slow-down for each pace, and last the best near the best of these.

    Each with its criterion first, which is to be the least.
    """
    found = []
    for pace in paces:
        least, slow_down = min((criterion(pace, one), one) for one in slow_downs)
        found.append((least, pace, slow_down))
    best = min(found)
    step, factor = 0.05, 1.2
    for _ in range(4):
        _, pace, slow_down = best
        best = min(
            (criterion(near, slow), near, slow)
            for near in {max(pace - step, 0.0), pace, min(pace + step, 1.0)}
            for slow in (slow_down / factor, slow_down, slow_down * factor)
        )
        step, factor = step / 2, math.sqrt(factor)
    return [*found, best]


def drivers_of(activity: ServerActivity) -> list[Driver]:
    """List what power may be proportional to.

    Of prefill: prompt tokens, their positions (attention looks back at each), and time. Of decode:
    output tokens, their positions, steps (each makes one token of every request that is decoded),
    time, and the root and logarithm of the number that is decoded. Of both: time in which anything
    is processed. Prompts that are processed at a time have parts in that time by their tokens; in
    all else that is not by token, the requests that are processed have equal parts.
    """
    prefill = activity.prefill
    ones = np.ones(prefill.tokens.size)
    has_output = (activity.decode.tokens > 0).astype(np.float64)
    steady = np.ones(activity.length_s.size)
    decoding = np.maximum(activity.decoding, 1.0)
    running = activity.running
    share = 1.0 / np.maximum(activity.prefilling + activity.decoding * running, 1e-9)
    share = np.minimum(share, 1.0)
    prompt_per_s = prefill.tokens / prefill.length_s
    tokens_in = Driver("input", (Part(True, prompt_per_s, steady),))
    input_per_s = activity.rate(tokens_in)
    # Prompts without tokens have no part, nor has what rounding leaves of others.
    is_processed = input_per_s > 1e-9 * input_per_s.max(initial=0.0)
    per_input = np.divide(1.0, input_per_s, out=np.zeros_like(steady), where=is_processed)
    per_pace = activity.tokens_per_pace
    tokens = Driver("output", (Part(False, per_pace, activity.pace),))
    steps_per_s = activity.rate(tokens) / decoding
    return [
        tokens_in,
        Driver("input positions", (Part(True, prompt_per_s * prefill.tokens / 2, steady),)),
        Driver("prefill time", (Part(True, prompt_per_s, per_input),)),
        tokens,
        Driver(
            "output positions", (Part(False, per_pace * activity.context_tokens, activity.pace),)
        ),
        Driver("steps", (Part(False, has_output, steps_per_s / decoding),)),
        Driver("decode time", (Part(False, has_output, running / decoding),)),
        Driver(
            "logarithm of batch",
            (Part(False, has_output, running * np.log1p(decoding) / decoding),),
        ),
        Driver("root of batch", (Part(False, has_output, running / np.sqrt(decoding)),)),
        Driver("busy", (Part(True, ones, share), Part(False, has_output, share * running))),
    ]


def activities(requests: RequestLog) -> Iterator[ServerActivity]:
    """Yield what the server may have done.

    Prompts were processed evenly from start to first token, or together with all that waited at
    the same time, or one after another (or in batches) in the order of their first tokens, and each
    of these after a wait for something else or not. While they were, decoding went on, or slower,
    or not at all.
    """
    first_s, stop_s, has_output = (
        requests.first_token_s,
        requests.stop_s,
        requests.output_tokens > 0,
    )
    # Several tokens that arrived at once were generated at unknown times before.
    known = np.isfinite(first_s) & ((stop_s > first_s) | (requests.output_tokens <= 1))
    first_s = np.where(known, first_s, stop_s)
    prompt = np.maximum(requests.input_tokens - requests.cached_tokens, 0.0)
    began_s = np.where(known, first_s, np.where(has_output, requests.start_s, stop_s))
    decode = Phase.of(began_s, stop_s, requests.output_tokens)
    context = requests.input_tokens + requests.output_tokens / 2
    is_cut = ~known & ~has_output
    timing = _PromptTiming(requests.start_s, first_s, stop_s, prompt, ~is_cut)
    steps = decode.tokens - 1
    step_s = (
        float(np.median(decode.length_s[steps > 0] / steps[steps > 0])) if steps.max() > 0 else 0.0
    )
    for begin_s, end_s in timing.candidates(step_s):
        done = np.where(is_cut, _done_share(begin_s, end_s, prompt, is_cut), 1.0)
        plain = ServerActivity(Phase.of(begin_s, end_s, prompt * done), decode, context)
        yield from plain.paced()


@dataclass(frozen=True, slots=True, eq=False)
class _PromptTiming:
    """When prompts may have been processed. Shapes: (requests,)."""

    start_s: Floats
    first_s: Floats
    stop_s: Floats
    prompt: Floats
    whole: Bools  # Which prompts were processed to their end, and not aborted.

    def candidates(self, step_s: float) -> Iterator[tuple[Floats, Floats]]:
        """Yield when each prompt's processing may have begun and ended.

        A server that is decoding begins after its step, which takes ``step_s``.
        """
        yield self.start_s, self.first_s
        if not self.whole.any():
            return
        period, starts_s, ends_s = self._busy_periods()
        tokens = np.bincount(period, self.prompt[self.whole]).astype(np.float64)
        serial_s = self._serial()
        yield serial_s, self.first_s
        freed_s = self._freed(serial_s)
        yield freed_s, self.first_s
        yield self._after(serial_s, step_s / 2), self.first_s
        alone = self.whole & (self.first_s - freed_s > SHORTEST_S)
        for n, took_s in (
            (tokens, ends_s - starts_s),
            (self.prompt[alone], (self.first_s - freed_s)[alone]),
        ):
            if not n.size:
                continue
            fixed_s, per_token_s = _fastest_s(n, took_s)
            yield self._after(serial_s, fixed_s), self.first_s
            # What does not depend on the length of a prompt is processing, or a wait.
            for each_s in (fixed_s, 0.0):
                least_s = self.first_s - each_s - per_token_s * self.prompt
                yield np.maximum(serial_s, least_s), self.first_s
                together_s = np.maximum(starts_s, ends_s - each_s - per_token_s * tokens)
                begin_s, end_s = serial_s.copy(), self.first_s.copy()
                begin_s[self.whole], end_s[self.whole] = together_s[period], ends_s[period]
                yield begin_s, end_s

    def _busy_periods(self) -> tuple[Indices, Floats, Floats]:
        """Return which period without an idle moment each whole prompt waited in, and their ends.

        Whatever the order in which a server processes the prompts of such a period, it takes the
        same time for all of them.
        """
        start_s, first_s = self.start_s[self.whole], self.first_s[self.whole]
        order = np.argsort(start_s, kind="stable")
        latest_s = np.maximum.accumulate(first_s[order])
        is_new = np.concatenate(([True], start_s[order][1:] > latest_s[:-1]))
        period = np.empty(order.size, dtype=np.intp)
        period[order] = np.cumsum(is_new) - 1
        begins = np.flatnonzero(is_new)
        ends_s = latest_s[np.append(begins[1:], order.size) - 1]
        return period, start_s[order][begins], ends_s

    def _serial(self) -> Floats:
        """Return when each prompt began if all were processed in the order of their first tokens.

        Those whose first tokens arrived together were a batch, which began when all of it was sent.
        An aborted prompt came after those that had been sent before it.
        """
        order = np.argsort(self.first_s, kind="stable")
        order = order[self.whole[order]]
        ends_s = self.first_s[order]
        is_new = np.concatenate(([True], np.diff(ends_s) > SAME_S))
        begins = np.flatnonzero(is_new)
        sent_s = np.maximum.reduceat(self.start_s[order], begins)
        before_s = np.concatenate(([-np.inf], ends_s[begins[1:] - 1]))
        begin_s = np.empty_like(self.start_s)
        begin_s[order] = np.maximum(sent_s, before_s)[np.cumsum(is_new) - 1]
        by_start = np.argsort(self.start_s, kind="stable")
        latest_s = np.maximum.accumulate(np.where(self.whole, self.first_s, -np.inf)[by_start])
        after_s = np.empty_like(self.start_s)
        after_s[by_start] = np.concatenate(([-np.inf], latest_s[:-1]))
        begin_s = np.where(self.whole, begin_s, np.maximum(self.start_s, after_s))
        return np.minimum(begin_s, self.first_s)

    def _after(self, serial_s: Floats, wait_s: float) -> Floats:
        """Return when each prompt began if it first waited for something else."""
        return np.minimum(np.maximum(serial_s, self.start_s + wait_s), self.first_s)

    def _freed(self, serial_s: Floats) -> Floats:
        """Return when each prompt began if it waited until another request left the server."""
        stops_s = np.concatenate(([-np.inf], np.sort(self.stop_s)))
        before = np.searchsorted(stops_s, self.first_s, side="left") - 1
        return np.maximum(serial_s, stops_s[np.maximum(before, 0)])


def _fastest_s(tokens: Floats, took_s: Floats) -> tuple[float, float]:
    """Estimate a time per prompt and per token that a share of the prompts did not exceed.

    Of straight lines, the one of the least quantile loss (Koenker and Bassett, 1978).
    """
    used = np.unique(np.linspace(0, tokens.size - 1, 2000).astype(np.intp))
    n, t_s = tokens[used], took_s[used]
    best = (np.inf, 0.0, 0.0)
    low_s, high_s = 0.0, float(np.quantile(t_s / np.maximum(n, 1.0), 0.9))
    for _ in range(4):
        for per_token_s in np.linspace(low_s, high_s, 21):
            each_s = max(float(np.quantile(t_s - per_token_s * n, FASTEST)), 0.0)
            left_s = t_s - each_s - per_token_s * n
            loss = float(np.sum(np.where(left_s > 0, FASTEST, FASTEST - 1) * left_s))
            if loss < best[0]:
                best = (loss, each_s, float(per_token_s))
        reach_s = (high_s - low_s) / 10
        low_s, high_s = max(best[2] - reach_s, 0.0), best[2] + reach_s
    return best[1], best[2]


def _done_share(begin_s: Floats, end_s: Floats, prompt: Floats, is_cut: Bools) -> Floats:
    """Return which part of each prompt was processed before it was aborted."""
    length_s = end_s - begin_s
    whole = ~is_cut & (prompt > 0) & (length_s > SHORTEST_S)
    if not whole.any():
        return np.ones(prompt.size)
    per_token_s = float(np.median(length_s[whole] / prompt[whole]))
    return np.clip(length_s / np.maximum(prompt * per_token_s, 1e-12), 0.0, 1.0)


def steady_window(requests: RequestLog, longest_dip_s: float) -> tuple[float, float, int] | None:
    """Return when the server was full: start, stop and the number in flight; ``None`` if never.

    It is full from when the requests in flight first are the most that there ever were, until they
    first no longer are. Shorter dips do not count: the next request of a closed loop is sent a
    moment after the one before it ended.
    """
    edges_s = np.unique(np.concatenate((requests.start_s, requests.stop_s)))
    if edges_s.size < 2:
        return None
    number = edges_s.size
    starts = np.bincount(np.searchsorted(edges_s, requests.start_s), minlength=number)
    stops = np.bincount(np.searchsorted(edges_s, requests.stop_s), minlength=number)
    in_flight = np.cumsum(starts - stops)[:-1]
    most = int(in_flight.max())
    full = np.concatenate(([False], in_flight == most, [False])).astype(np.int8)
    begin_s, end_s = edges_s[np.diff(full) > 0], edges_s[np.diff(full) < 0]
    dips = np.flatnonzero(begin_s[1:] - end_s[:-1] > longest_dip_s)
    last = int(dips[0]) if dips.size else begin_s.size - 1
    return float(begin_s[0]), float(end_s[last]), most
