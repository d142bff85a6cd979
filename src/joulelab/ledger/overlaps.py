"""Energy that is in more than one record, since they were made at the same time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from itertools import pairwise

from joulelab.ledger.entries import Entry

Stretch = tuple[float, float, float]
"""Start and end, unix seconds, and mean power, W."""


def counted_twice_j(entries: Iterable[Entry], *, unshared_only: bool = False) -> float:
    """How much more the sum of the entries is than what their machines drew.

    A job's record has all that its machine's components drew meanwhile. Where records of one
    component overlap, all but the largest of their mean powers is in the sum once too often.

    Args:
        entries: All that are in the sum.
        unshared_only: Only components whose share is not known: of the others own parts are added.
    """
    stretches: dict[Hashable, list[Stretch]] = {}
    for entry in entries:
        if not entry.duration_s > 0 or math.isnan(entry.started_unix_s):
            continue
        parts = [one for one in entry.parts if one.share is None or not unshared_only]
        for component in {part.component for part in parts}:
            board = entry.boards.get(component, entry.host)
            gross_j = math.fsum(one.gross_j for one in parts if one.component == component)
            end_unix_s = entry.started_unix_s + entry.duration_s
            stretch = (entry.started_unix_s, end_unix_s, gross_j / entry.duration_s)
            stretches.setdefault((board, component), []).append(stretch)
    return math.fsum(_too_often_j(found) for found in stretches.values())


def _too_often_j(stretches: list[Stretch]) -> float:
    """Of one component.

    Example:
        >>> _too_often_j([(0.0, 10.0, 100.0), (5.0, 10.0, 90.0), (20.0, 30.0, 100.0)])
        450.0
    """
    edges = sorted({edge for start, end, _ in stretches for edge in (start, end)})
    waiting = sorted(stretches, reverse=True)
    under_way: list[Stretch] = []
    total_j = 0.0
    for begin, end in pairwise(edges):
        while waiting and waiting[-1][0] <= begin:
            under_way.append(waiting.pop())
        under_way = [one for one in under_way if one[1] > begin]
        powers_w = [power_w for _, _, power_w in under_way]
        if len(powers_w) > 1:
            total_j += (math.fsum(powers_w) - max(powers_w)) * (end - begin)
    return total_j
