"""What a command's own spans took, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTotal:
    """The spans of one name that a command marked from inside. What was not measured is NaN.

    Attributes:
        name: Of the spans.
        count: How many ended.
        duration_s: Of all together.
        gross_j: Of all together.
        low_j: Lower end of the 95 % interval of ``gross_j``.
        high_j: Its upper end.
        net_j: Gross less idle; NaN without a baseline.
    """

    name: str
    count: int
    duration_s: float
    gross_j: float
    low_j: float
    high_j: float
    net_j: float

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; NaN becomes ``None``."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` wrote."""
        values: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in data.items()
        }
        return cls(**values)
