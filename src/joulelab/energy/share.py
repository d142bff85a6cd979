"""A job's part of the energy of a component that others use, too: an estimate with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The job's part of a component's net energy, 0 to 1.

    Attributes:
        fraction: The estimate.
        low: Of the 95 % interval.
        high: Of the 95 % interval.
        method: What it was worked out by, as ``"CPU time"``.
    """

    fraction: float
    low: float
    high: float
    method: str

    @classmethod
    def whole(cls, method: str) -> Self:
        """Nobody else used it, or so little that it is not worth saying."""
        return cls(fraction=1.0, low=1.0, high=1.0, method=method)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Self | None:
        """What ``dataclasses.asdict`` made of it."""
        return None if data is None else cls(**data)

    @property
    def is_whole(self) -> bool:
        """Whether the job was alone."""
        return self.low == 1


def together(shares: Sequence[Share | None], gross_j: Sequence[float]) -> Share | None:
    """The share of several spans together, by their energies; ``None`` if one is not known.

    What two users differ in is the same in all spans, so that bounds add up like estimates.

    Args:
        shares: Of each span; at least one.
        gross_j: Its energy.

    Example:
        >>> half = Share(fraction=0.5, low=0.25, high=0.75, method="CPU time")
        >>> together([half, Share.whole("CPU time")], [10.0, 10.0]).fraction
        0.75
    """
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    if all(share.is_whole for share in known):
        return known[0]
    weights = [max(one_j, 0.0) for one_j in gross_j]
    whole = math.fsum(weights)
    if whole <= 0:
        weights, whole = [1.0] * len(known), float(len(known))
    fraction, low, high = (
        math.fsum(
            weight * getattr(share, name) for weight, share in zip(weights, known, strict=True)
        )
        / whole
        for name in ("fraction", "low", "high")
    )
    return Share(fraction=fraction, low=low, high=high, method=known[0].method)


class HasShare(Protocol):
    """A component's energy, as far as it matters here."""

    @property
    def component(self) -> str:
        """As ``"cpu:0"``."""
        ...

    @property
    def gross_j(self) -> float:
        """Everybody's."""
        ...

    @property
    def share(self) -> Share | None:
        """The job's, if it is known."""
        ...

    @property
    def net_j(self) -> float:
        """Everybody's net of idle; NaN where idle is not known."""
        ...


def in_words(parts: Sequence[HasShare]) -> str:
    """What is to be said of the job's part; empty where it was alone or nothing is known.

    Args:
        parts: All components.
    """
    known = [part for part in parts if part.share is not None]
    methods = dict.fromkeys(
        part.share.method for part in known if part.share and not part.share.is_whole
    )
    whole_j = math.fsum(part.gross_j for part in known)
    if not methods or not whole_j > 0:
        return ""
    shares = [(part.share, part.gross_j, part.net_j) for part in known if part.share]
    job = math.fsum(share.fraction * gross_j for share, gross_j, _ in shares)
    high = math.fsum(share.high * gross_j for share, gross_j, _ in shares)
    low = math.fsum(
        share.low * (gross_j if share.is_whole or math.isnan(net_j) else max(net_j, 0.0))
        for share, gross_j, net_j in shares
    )
    of = "it" if len(known) == len(parts) else " and ".join(part.component for part in known)
    job_pct, low_pct, high_pct = (100 * value_j / whole_j for value_j in (job, low, high))
    return (
        f"of {of} this job's about {job_pct:.0f} % ({low_pct:.0f} to {high_pct:.0f}), "
        f"by {' and '.join(methods)}: an estimate"
    )
