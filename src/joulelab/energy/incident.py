"""An incident: something that happened between two times and affects energies, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.arrays import Floats


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened between two times on CLOCK_MONOTONIC."""

    start_s: float
    stop_s: float
    text: str


def notes_within_spans(incidents: Sequence[Incident], spans_s: Floats) -> tuple[str, ...]:
    """Return the texts of the incidents within spans, each once. Shape of the spans: (spans, 2)."""
    if not incidents or not len(spans_s):
        return ()
    starts_s, stops_s = spans_s[np.argsort(spans_s[:, 0], kind="stable")].T
    latest_s = np.maximum.accumulate(stops_s)
    times_s = np.array([(one.start_s, one.stop_s) for one in incidents])
    first = np.searchsorted(latest_s, times_s[:, 0], side="right")
    found = np.flatnonzero(first < np.searchsorted(starts_s, times_s[:, 1], side="left"))
    in_order = found[np.argsort(first[found], kind="stable")]
    return tuple(dict.fromkeys(incidents[i].text for i in in_order.tolist()))
