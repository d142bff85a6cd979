"""Who else uses a component, for the trace: the most of them by name, the rest by number."""

from __future__ import annotations

from collections.abc import Mapping

from joulelab.sensors.process_table import Key
from joulelab.sensors.sensor import Happening

MOST = 10
"""So many are named at a time."""
TELL_EVERY_S = 10.0
WORTH_NAMING = 0.01
"""Of all use, and of the time: who used less is not named."""
WORTH_TELLING_AT_ONCE = 0.05


class Others:
    """Adds up what others use, and tells of it from time to time.

    Args:
        component: What they use, as ``"cpu"`` or ``"gpu:0"``.
        t_ns: When it begins, CLOCK_MONOTONIC.

    Example:
        >>> others = Others("cpu", 0)
        >>> others.add({(7, 100): ("stress", 0.9)}, 1.5)
        >>> others.told(10**9).fields["used"]
        [[7, 'stress', 0.9]]
        >>> others.told(2 * 10**9) is None  # nothing since
        True
    """

    def __init__(self, component: str, t_ns: int) -> None:
        self._component = component
        self._since_ns = t_ns
        self._all_s = 0.0
        self._used: dict[Key, tuple[str, float]] = {}
        self._named: set[Key] = set()

    def add(self, used: Mapping[Key, tuple[str, float]], all_s: float) -> None:
        """What each used since the last look, with its name, and what all did together, s."""
        self._all_s += all_s
        for key, (name, used_s) in used.items():
            self._used[key] = name, self._used.get(key, ("", 0.0))[1] + used_s

    def told(self, t_ns: int) -> Happening | None:
        """The event that names them, when it is time for one and there is somebody to name."""
        period_s = (t_ns - self._since_ns) * 1e-9
        new = self._above(WORTH_TELLING_AT_ONCE, period_s).keys() - self._named
        if period_s < TELL_EVERY_S and not new:
            return None
        worth = self._above(WORTH_NAMING, period_s)
        most = sorted(worth, key=lambda key: -worth[key][1])
        fields = {
            "event": "others",
            "component": self._component,
            "since_ns": self._since_ns,
            "all_s": round(self._all_s, 3),
            "used": [[key[0], worth[key][0], round(worth[key][1], 3)] for key in most[:MOST]],
            "more": len(most[MOST:]),
        }
        self._since_ns, self._all_s, self._used, self._named = t_ns, 0.0, {}, set(most)
        return Happening(t_ns, fields) if most else None

    def _above(self, share: float, period_s: float) -> dict[Key, tuple[str, float]]:
        least_s = share * max(self._all_s, period_s)
        return {key: one for key, one in self._used.items() if one[1] > least_s}
