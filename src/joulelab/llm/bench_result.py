"""What a benchmark of a server found, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from joulelab.carbon.token_costs import TokenCosts
from joulelab.format import finite_or_none, number, with_interval
from joulelab.llm.load import Level
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult, ratio_fields
from joulelab.llm.sweep import Knee
from joulelab.llm.text import to_json
from joulelab.uncertain import Ratio, UncertainValue


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a time, s; NaN without values."""

    p50: float = math.nan
    p90: float = math.nan
    p99: float = math.nan

    @classmethod
    def of(cls, values_s: ArrayLike) -> Percentiles:
        """Compute them from single values; those that are NaN do not count."""
        known = np.asarray(values_s, dtype=np.float64)
        known = known[np.isfinite(known)]
        return cls(*np.percentile(known, (50, 90, 99)).tolist()) if known.size else cls()

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        return {name: finite_or_none(getattr(self, name)) for name in ("p50", "p90", "p99")}


@dataclass(frozen=True, slots=True)
class LevelResult:
    """The result of one level of load."""

    level: Level  # The load on the server.
    # Those that it worked on, failed ones included, on the clock of the readings.
    requests: RequestLog
    # Number of failed requests by reason, those included that it refused.
    failures: Mapping[str, int]
    first_token: Percentiles  # Times from sending a request to its first token.
    between_tokens: Percentiles  # Times between the chunks of a reply.
    latency: Percentiles  # Times from sending a request to its last token.
    client_cpu_s: float  # CPU time of the load generator.
    energy: LlmResult | None = None  # The energy of the requests; ``None`` if none was measured.
    # Gross energy per output token, J, comparable with that of other levels; NaN if it was not
    # measured. In a closed loop, that while the server was full.
    cost: UncertainValue = field(default_factory=lambda: UncertainValue(math.nan))
    notes: tuple[str, ...] = ()  # What limits the values.

    @property
    def duration_s(self) -> float:
        """Time from the first start to the last token; NaN without requests."""
        if not len(self.requests):
            return math.nan
        start_s, stop_s = self.requests.window_s
        return stop_s - start_s

    @property
    def requests_per_s(self) -> float:
        """Requests per second."""
        return len(self.requests) / self.duration_s

    @property
    def input_tokens_per_s(self) -> float:
        """Tokens of prompts per second."""
        return float(self.requests.input_tokens.sum()) / self.duration_s

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return float(self.requests.output_tokens.sum()) / self.duration_s

    @property
    def cost_ratio(self) -> Ratio:
        """The cost with its 95 % interval."""
        return Ratio.of(self.cost)

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        energy = {} if self.energy is None else self.energy.to_json()
        energy.pop("per_request", None)
        return {
            "level": str(self.level),
            **self.level.to_json(),
            "requests": len(self.requests),
            "failures": dict(self.failures),
            "input_tokens": int(self.requests.input_tokens.sum()),
            "cached_tokens": int(self.requests.cached_tokens.sum()),
            "output_tokens": int(self.requests.output_tokens.sum()),
            "duration_s": finite_or_none(self.duration_s),
            "requests_per_s": finite_or_none(self.requests_per_s),
            "input_tokens_per_s": finite_or_none(self.input_tokens_per_s),
            "output_tokens_per_s": finite_or_none(self.output_tokens_per_s),
            "time_to_first_token_s": self.first_token.to_json(),
            "inter_token_latency_s": self.between_tokens.to_json(),
            "latency_s": self.latency.to_json(),
            **ratio_fields("gross_j_per_output_token", self.cost_ratio),
            "client_cpu_s": self.client_cpu_s,
            "energy": energy or None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What a benchmark found."""

    url: str  # Address of the server.
    model: str  # Name of its model.
    api: str  # The kind of requests.
    levels: Sequence[LevelResult]  # In the order in which they ran.
    total: LlmResult | None  # The energy of all requests together; ``None`` if none was measured.
    costs: Mapping[str, TokenCosts]  # What a million tokens of all requests cost.
    knee: Knee | None  # ``None`` unless several concurrencies were measured.
    is_interrupted: bool = False  # Whether it ended early.
    notes: tuple[str, ...] = ()  # What limits the values; those of ``total`` contain them.

    @property
    def best(self) -> LevelResult:
        """The level at the knee; without one, that with the most tokens per second."""
        if self.knee is not None:
            return next(
                one for one in self.levels if one.level.concurrency == self.knee.concurrency
            )
        known = [one for one in self.levels if len(one.requests)]
        return max(known, key=lambda one: one.output_tokens_per_s)

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        if self.knee is not None:
            return self.knee.text
        best = self.best
        if math.isnan(best.cost.value):
            return (
                f"The server generates {number(best.output_tokens_per_s)} tokens/s at {best.level}."
            )
        one = best.cost_ratio
        return f"A token costs {with_interval(one.value, one.low, one.high, 'J')} at {best.level}."

    def to_json(self) -> dict[str, Any]:
        """Convert to a dictionary; the totals have the names of ``joulelab llm report --json``."""
        total = {} if self.total is None else to_json(self.total, self.costs)
        return {
            "url": self.url,
            "model": self.model,
            "api": self.api,
            "is_interrupted": self.is_interrupted,
            "headline": self.headline,
            "knee": self.knee and self.knee.to_json(),
            "levels": [one.to_json() for one in self.levels],
            "notes": list(self.notes),
            **total,
        }
