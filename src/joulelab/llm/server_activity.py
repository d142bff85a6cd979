"""What a server did in each moment, reconstructed from its requests.

Between two events (a request is sent, its prompt begins, its first or its last token arrives) all
rates are constant, so that every total between any two times is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from joulelab.llm.requests import RequestLog

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

SHORTEST_S = 1e-6
"""A phase that took no measurable time is spread over this much."""


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

    @property
    def length_s(self) -> Floats:
        """How long each took."""
        return self.stop_s - self.start_s


def is_streamed(requests: RequestLog) -> NDArray[np.bool_]:
    """Report for each request whether the arrival of its first token is known."""
    return np.isfinite(requests.first_token_s)


class ServerActivity:
    """Rates over time, for one assumption about when prompts were processed.

    Args:
        prefill: When each prompt was processed, and how many of its tokens were.
        decode: When each output was generated, and how many of its tokens were.
        context_tokens: Mean length of the context of each request while it was decoded.
        stall: By which share decoding slows down while any prompt is processed.

    Attributes:
        edges_s: Times of the events, in order.
    """

    def __init__(
        self, prefill: Phase, decode: Phase, context_tokens: Floats, stall: float = 0.0
    ) -> None:
        self.prefill, self.decode = prefill, decode
        self.context_tokens = context_tokens
        self.stall = stall
        bounds = (prefill.start_s, prefill.stop_s, decode.start_s, decode.stop_s)
        self.edges_s = np.unique(np.concatenate(bounds))

    @cached_property
    def length_s(self) -> Floats:
        """Time between events. Shape: (cells,)."""
        return np.diff(self.edges_s)

    @cached_property
    def prefilling(self) -> Floats:
        """Requests whose prompt is being processed. Shape: (cells,)."""
        return np.rint(self._sum(self.prefill, np.ones(self.prefill.tokens.size)))

    @cached_property
    def decoding(self) -> Floats:
        """Requests whose output is being generated. Shape: (cells,)."""
        return np.rint(self._sum(self.decode, np.ones(self.decode.tokens.size)))

    @cached_property
    def pace(self) -> Floats:
        """Speed of decoding relative to that without a prompt being processed. Shape: (cells,)."""
        return np.where(self.prefilling > 0, 1.0 - self.stall, 1.0)

    @cached_property
    def tokens_per_s(self) -> Floats:
        """Tokens per second of each request while nothing slows it down. Shape: (requests,)."""
        paced_s = self.within(self.decode, self.pace)
        # A request that was decoded only while prompts were processed was not stalled by them.
        usable = paced_s > 0.02 * self.decode.length_s
        return self.decode.tokens / np.where(usable, paced_s, self.decode.length_s)

    def within(self, phase: Phase, gain: Floats) -> Floats:
        """Integrate a function of time over each request's phase. Shape: (requests,)."""
        integral = np.concatenate(([0.0], np.cumsum(gain * self.length_s)))
        at = np.interp(np.stack((phase.start_s, phase.stop_s)), self.edges_s, integral)
        return np.asarray(at[1] - at[0])

    def rate(self, part: Part) -> Floats:
        """Return a part's sum over the requests at each time. Shape: (cells,)."""
        phase = self.prefill if part.is_prefill else self.decode
        return part.gain * self._sum(phase, part.weight)

    def of_requests(self, part: Part) -> Floats:
        """Return each request's total of a part. Shape: (requests,)."""
        phase = self.prefill if part.is_prefill else self.decode
        return part.weight * self.within(phase, part.gain)

    def _sum(self, phase: Phase, weight: Floats) -> Floats:
        """Add up the weights of the requests in a phase. Shape: (cells,)."""
        number = self.edges_s.size
        first, after = np.searchsorted(self.edges_s, (phase.start_s, phase.stop_s))
        change = np.bincount(first, weight, number) - np.bincount(after, weight, number)
        # Rounding would leave a little where nothing is.
        count = np.bincount(first, minlength=number) - np.bincount(after, minlength=number)
        return np.where(np.cumsum(count) > 0, np.cumsum(change), 0.0)[:-1]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something that requests cause in one phase: at each time, a gain times their weights' sum.

    Attributes:
        is_prefill: Whether prompts cause it, or decoding.
        weight: Of each request. Shape: (requests,).
        gain: At each time. Shape: (cells,).
    """

    is_prefill: bool
    weight: Floats
    gain: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Driver:
    """What power may be proportional to, with the parts that requests have in it."""

    name: str
    parts: tuple[Part, ...]


def drivers_of(activity: ServerActivity) -> list[Driver]:
    """List what power may be proportional to.

    Prompt tokens; output tokens; steps of decoding, each of which makes one token of every request
    that is being decoded; and time in which anything is processed. The requests that are processed
    at a time have equal parts in the last two.
    """
    prefill, decode, pace = activity.prefill, activity.decode, activity.pace
    ones_in, ones_out = np.ones(prefill.tokens.size), np.ones(decode.tokens.size)
    steady = np.ones(activity.length_s.size)
    per_s = activity.tokens_per_s
    tokens = Part(False, per_s, pace)
    decoding = np.maximum(activity.decoding, 1.0)
    steps_per_s = activity.rate(tokens) / decoding
    active = activity.prefilling + activity.decoding * pace
    share = 1.0 / np.maximum(active, 1.0)
    return [
        Driver("input", (Part(True, prefill.tokens / prefill.length_s, steady),)),
        Driver("output", (tokens,)),
        Driver("steps", (Part(False, ones_out, steps_per_s / decoding),)),
        Driver("busy", (Part(True, ones_in, share), Part(False, ones_out, share * pace))),
    ]


def even_activity(requests: RequestLog) -> ServerActivity:
    """Assume that each prompt was processed evenly from its start to its first token."""
    known = is_streamed(requests)
    first_s = np.where(known, requests.first_token_s, requests.stop_s)
    began_s = np.where(known, requests.first_token_s, requests.start_s)
    prompt = np.maximum(requests.input_tokens - requests.cached_tokens, 0.0)
    context = requests.input_tokens + requests.output_tokens / 2
    return ServerActivity(
        Phase.of(requests.start_s, first_s, prompt),
        Phase.of(began_s, requests.stop_s, requests.output_tokens),
        context,
    )


def steady_window(requests: RequestLog, shortest_dip_s: float) -> tuple[float, float, int] | None:
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
    dips = np.flatnonzero(begin_s[1:] - end_s[:-1] > shortest_dip_s)
    last = int(dips[0]) if dips.size else begin_s.size - 1
    return float(begin_s[0]), float(end_s[last]), most
