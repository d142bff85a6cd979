"""The requests that a server answered, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from joulelab.arrays import Floats, Indices

TIMES = ("start_s", "first_token_s", "stop_s")
TOKENS = ("input_tokens", "output_tokens")
COLUMNS = (*TIMES, *TOKENS, "cached_tokens")
"""Columns of numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestLog:
    """Requests in order of their start. Shapes: (requests,)."""

    request: tuple[str, ...]  # What identifies each, for example its number.
    start_s: Floats  # When it was sent, on the clock of the power readings.
    first_token_s: Floats  # When its first token arrived; NaN if none did.
    stop_s: Floats  # When its last token arrived, or it was aborted.
    input_tokens: Floats  # Tokens of the prompt, cached ones included; at least 0.
    output_tokens: Floats  # Generated tokens, the first included; 0 if it was aborted before.
    cached_tokens: Floats  # Tokens of the prompt that the server took from its cache; 0 if unknown.
    notes: tuple[str, ...] = field(default=())  # What was assumed or left out in reading them.

    def __len__(self) -> int:
        return len(self.request)

    @property
    def window_s(self) -> tuple[float, float]:
        """Start of the first request and end of the last."""
        return float(self.start_s.min()), float(self.stop_s.max())

    def at(self, index: Indices) -> Self:
        """Return some of the requests."""
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in COLUMNS}
        return replace(self, request=tuple(self.request[i] for i in index), **columns)

    @classmethod
    def joined(cls, logs: Sequence[RequestLog]) -> Self:
        """Return the requests of several logs that follow each other as one, without notes."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(one, name) for one in logs]) for name in COLUMNS
        }
        return cls(request=tuple(name for one in logs for name in one.request), **columns)

    def shifted(self, offset_s: float) -> Self:
        """Return the same requests on a clock that shows ``offset_s`` more."""
        return replace(
            self,
            start_s=self.start_s + offset_s,
            first_token_s=self.first_token_s + offset_s,
            stop_s=self.stop_s + offset_s,
        )
