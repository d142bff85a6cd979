"""The energy of the time in which at least one of several processes was in a span.

Ranks of a job are in the same epoch at the same time, and sensors read the whole host: adding up
their spans' energies would count it once for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.energy import Energy, total
from joulelab.accounting.marked import Marked

Times = NDArray[np.int64]


def energy_of_spans(accounts: Accounts, spans: Sequence[Marked]) -> Energy:
    """The energy of all spans of one name: of one process their sum, of several their union.

    Args:
        accounts: Of the trace.
        spans: They ended; at least one.
    """
    windows = [span.window for span in spans]
    if len({span.key[0] for span in spans}) == 1:
        return total(accounts.energies(windows))
    return energy_of_union(accounts, windows)


def energy_of_union(accounts: Accounts, windows: Sequence[Window]) -> Energy:
    """The energy of all times that lie in at least one window, each counted once.

    GPUs are accounted over the union of the windows' times on the GPU, everything else over that of
    their times on the host. The length is the latter's.

    Args:
        accounts: Of the trace.
        windows: On its clock; at least one.
    """
    uncertainty_ns = max(window.device_uncertainty_ns for window in windows)
    host = union_of([(window.start_ns, window.stop_ns) for window in windows])
    device = union_of([_on_device(window) for window in windows])
    on_host = total(accounts.energies([Window(start, stop) for start, stop in host.tolist()]))
    if np.array_equal(host, device) and uncertainty_ns == 0:
        return on_host
    own_times = [
        Window(start, stop, start, stop, uncertainty_ns) for start, stop in device.tolist()
    ]
    on_device = total(accounts.energies(own_times))
    parts = {
        name: part
        for energy, gpus in ((on_host, False), (on_device, True))
        for name, part in energy.components.items()
        if name.startswith("gpu") is gpus
    }
    absent = {**on_host.absent, **on_device.absent}
    return replace(
        on_host,
        components=dict(sorted(parts.items())),
        absent={name: why for name, why in absent.items() if name not in parts},
        notes=tuple(dict.fromkeys((*on_host.notes, *on_device.notes))),
    )


def union_of(intervals: Sequence[tuple[int, int]]) -> Times:
    """The times that lie in at least one interval, as intervals that are apart, in order.

    Args:
        intervals: Start and stop of each.

    Returns:
        Shape: (intervals, 2).

    Example:
        >>> union_of([(5, 7), (0, 2), (1, 3)]).tolist()
        [[0, 3], [5, 7]]
    """
    times = np.array(sorted(intervals), dtype=np.int64).reshape(-1, 2)
    if not len(times):
        return times
    latest = np.maximum.accumulate(times[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], times[1:, 0] > latest[:-1])))
    return np.column_stack((times[begins, 0], np.maximum.reduceat(times[:, 1], begins)))


def _on_device(window: Window) -> tuple[int, int]:
    if window.device_start_ns is None or window.device_stop_ns is None:
        return window.start_ns, window.stop_ns
    return window.device_start_ns, window.device_stop_ns
