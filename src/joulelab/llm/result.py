"""The energy of requests and tokens, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from joulelab.arrays import Floats
from joulelab.energy.energy import Energy
from joulelab.format import finite_or_none, with_ends
from joulelab.llm.requests import RequestLog
from joulelab.uncertain import Ratio


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Joules per token, each with its 95 % interval; NaN where it is not known."""

    j_per_input_token: Ratio  # Energy of prefill over the tokens of the prompts, without idle.
    j_per_output_token: Ratio  # Energy of decode over the generated tokens, without idle.

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        fields: dict[str, Any] = {}
        for name in ("j_per_input_token", "j_per_output_token"):
            fields |= ratio_fields(name, getattr(self, name))
        return fields


def ratio_fields(name: str, ratio: Ratio) -> dict[str, Any]:
    """Return a ratio and its interval as fields of a JSON object; what is not known is null."""
    return dict(finite_or_none(with_ends(name, "", ratio.value, ratio.low, ratio.high)))


@dataclass(frozen=True, slots=True)
class RequestEnergies:
    """Net energy of each request. Shapes: (requests,); 95 % intervals."""

    # Its tokens' energy and its part of what was shared; they add up to the net energy of the
    # whole.
    energy_j: Floats
    low_j: Floats
    high_j: Floats
    prefill_j: Floats  # The part until its first token.
    decode_j: Floats  # The part from then on.


@dataclass(frozen=True, slots=True)
class SteadyState:
    """The time from when the server was first full until it first no longer was."""

    start_s: float
    stop_s: float
    concurrency: int  # Requests in flight in that time.
    cost: TokenCost  # Joules per token in it.
    output_tokens_per_s: float  # Throughput in it.
    gross_j_per_output_token: Ratio  # Energy with idle over all tokens that were generated in it.

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        return {
            "start_s": self.start_s,
            "stop_s": self.stop_s,
            "concurrency": self.concurrency,
            "output_tokens_per_s": self.output_tokens_per_s,
            **self.cost.to_json(),
            **ratio_fields("gross_j_per_output_token", self.gross_j_per_output_token),
        }


@dataclass(frozen=True, slots=True)
class LlmResult:
    """The energy of a server's requests."""

    requests: RequestLog  # The requests, on the clock of the readings.
    energy: Energy  # Gross, idle and net energy by component, from first start to last stop.
    cost: TokenCost  # Marginal joules per token over all components.
    gross_j_per_output_token: Ratio  # Gross energy over all output tokens.
    component_costs: dict[str, TokenCost]  # Marginal joules per token of each component.
    steady_state: SteadyState | None  # ``None`` if the server never was full, or only for a moment.
    per_request: RequestEnergies | None  # Energy of each request; ``None`` without idle power.
    notes: tuple[str, ...] = ()  # What was assumed, and what limits the result.

    def shifted(self, offset_s: float) -> Self:
        """Return the same result on a clock that shows ``offset_s`` more."""
        steady = self.steady_state
        if steady is not None:
            steady = replace(
                steady, start_s=steady.start_s + offset_s, stop_s=steady.stop_s + offset_s
            )
        return replace(self, requests=self.requests.shifted(offset_s), steady_state=steady)

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        return {
            "requests": len(self.requests),
            "input_tokens": int(self.requests.input_tokens.sum()),
            "output_tokens": int(self.requests.output_tokens.sum()),
            "duration_s": self.energy.duration_s,
            **finite_or_none(
                with_ends("gross", "_j", self.energy.gross_j, *self.energy.interval_j)
                | {"idle_j": self.energy.idle_j}
                | with_ends("net", "_j", self.energy.net_j, *self.energy.net_interval_j)
            ),
            **self.cost.to_json(),
            **ratio_fields("gross_j_per_output_token", self.gross_j_per_output_token),
            "components": {name: one.to_json() for name, one in self.component_costs.items()},
            "absent": dict(self.energy.absent),
            "steady_state": self.steady_state and self.steady_state.to_json(),
            "per_request": self._requests_json(),
            "notes": [*self.notes, *self.energy.notes],
        }

    def _requests_json(self) -> list[dict[str, Any]]:
        if self.per_request is None:
            return []
        columns = ("energy_j", "low_j", "high_j", "prefill_j", "decode_j")
        values = zip(*(getattr(self.per_request, name).tolist() for name in columns), strict=True)
        return [
            {"request": name, **{c: finite_or_none(v) for c, v in zip(columns, row, strict=True)}}
            for name, row in zip(self.requests.request, values, strict=True)
        ]
