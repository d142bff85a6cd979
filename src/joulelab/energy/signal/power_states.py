"""What the program said it was doing, and the power that goes with it.

The spans that are open at a time are the program's state. Where marks follow each other faster
than a sensor's readings, no single reading tells the power on either side of a mark; but many
readings, each with its own share of every state, tell the power of the states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.least_squares import LEAST_W2, posterior

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

MOST_STATES = 24
"""With more, states are not told apart: each would be seen too seldom."""
AT_ONCE = 512
"""Readings from which the states' powers are worked out: states change as training goes on."""
ROUNDS = 4


@dataclass(frozen=True)
class Marks:
    """Times at which power may have changed.

    Attributes:
        time_s: In order, each once. Shape: (marks,).
        state: The program's state before the first mark, and after each. Shape: (marks + 1,).
    """

    time_s: Floats
    state: Indices

    @classmethod
    def at(cls, times_s: Floats) -> Marks:
        """Marks of which it is not known what changed there."""
        time_s = np.unique(times_s)
        return cls(time_s, np.zeros(time_s.size + 1, dtype=np.intp))

    @classmethod
    def of_spans(
        cls, names: NDArray[np.str_], start_s: Floats, stop_s: Floats, further_s: Floats
    ) -> Marks:
        """The edges of spans; a state is the set of the names that are open.

        Args:
            names: Of the spans. Shape: (spans,).
            start_s: When they began. Shape: (spans,).
            stop_s: When they ended; NaN for one that is open. Shape: (spans,).
            further_s: Further times.

        Example:
            >>> marks = Marks.of_spans(np.array(["step", "epoch"]), np.array([1.0, 0.0]),
            ...     np.array([2.0, 5.0]), np.zeros(0))
            >>> marks.time_s.tolist(), marks.state.tolist()
            ([0.0, 1.0, 2.0, 5.0], [0, 1, 2, 1, 0])
        """
        edges = np.concatenate((start_s, stop_s, further_s))
        time_s = np.unique(edges[np.isfinite(edges)])
        found, code = np.unique(names, return_inverse=True)
        if found.size > MOST_STATES:
            return cls.at(time_s)
        is_open = np.zeros((time_s.size + 1, found.size), dtype=bool)
        for i in range(found.size):
            starts, stops = np.sort(start_s[code == i]), np.sort(stop_s[code == i])
            began = np.searchsorted(starts, time_s, side="right")
            is_open[1:, i] = began > np.searchsorted(stops, time_s, side="right")
        states, state = np.unique(is_open, axis=0, return_inverse=True)
        if len(states) > MOST_STATES:
            return cls.at(time_s)
        return cls(time_s, np.asarray(state.reshape(-1), dtype=np.intp))

    @property
    def states(self) -> int:
        """How many states there are."""
        return int(self.state.max()) + 1

    def only(self, keep: Bools) -> Marks:
        """Some of the marks, with the one before each stretch that is kept: it says the state."""
        keep = keep | np.append(keep[1:], False)
        return Marks(self.time_s[keep], np.concatenate((self.state[:1], self.state[1:][keep])))

    def shares(self, start_s: Floats, stop_s: Floats) -> Floats:
        """The share of each window that each state took. Shape: (windows, states).

        Args:
            start_s: Shape: (windows,).
            stop_s: After the starts. Shape: (windows,).
        """
        if not self.time_s.size:
            return np.ones((start_s.size, 1))
        lengths = np.zeros((self.time_s.size, self.states))
        lengths[np.arange(1, self.time_s.size), self.state[1:-1]] = np.diff(self.time_s)
        until = np.cumsum(lengths, axis=0)

        def spent(t_s: Floats) -> Floats:
            after = np.searchsorted(self.time_s, t_s, side="right")
            last = np.maximum(after - 1, 0)
            done = until[last]
            done[np.arange(t_s.size), self.state[after]] += t_s - self.time_s[last]
            return done

        return np.asarray((spent(stop_s) - spent(start_s)) / (stop_s - start_s)[:, None])


NO_MARKS = Marks.at(np.zeros(0))


class StatePowers(NamedTuple):
    """The power of each state around each reading.

    Attributes:
        power_w: Shape: (readings, states).
        uncertainty_w: Standard uncertainty. Shape: (readings, states).
        scatter_w: How much a state's power differs from one time to the next.
            Shape: (readings,).
    """

    power_w: Floats
    uncertainty_w: Floats
    scatter_w: Floats


def state_powers(
    shares: Floats, power: Floats, usable: Bools, share_uncertainty: Floats
) -> StatePowers:
    """The power of the states, from readings that have different shares of them.

    A linear model, p_k = Σ_s f_ks x_s, by Bayesian least squares over :data:`AT_ONCE` readings
    that follow each other. Beforehand a state's power is the readings' mean, with a standard
    uncertainty as large; what the readings do not tell apart stays that uncertain. Shares are
    uncertain themselves, as stamps are, which draws the states' powers together (Fuller,
    *Measurement Error Models*, 1987, section 1.1): where the shares differ by no more than that,
    they tell nothing.

    Args:
        shares: Of each reading's window that each state took. Shape: (readings, states).
        power: The readings. Shape: (readings,).
        usable: Which of them are readings, and no gaps. Shape: (readings,).
        share_uncertainty: Standard uncertainty of the shares. Shape: (readings, states).

    Example:
        >>> share = np.linspace(0, 1, 50)
        >>> found = state_powers(np.stack((share, 1 - share), axis=1), 100 + 400 * share,
        ...     np.ones(50, dtype=bool), np.zeros((50, 2)))
        >>> found.power_w[0].round(3).tolist()
        [500.0, 100.0]
    """
    count, states = shares.shape
    found = StatePowers(np.empty((count, states)), np.empty((count, states)), np.empty(count))
    for first in range(0, count, AT_ONCE):
        # The last block has as many readings as the others: it reaches back.
        begin = max(min(first, count - AT_ONCE), 0)
        rows = np.arange(begin, min(begin + AT_ONCE, count))
        rows = rows[usable[rows]]
        block = slice(first, first + AT_ONCE)
        solved = _solved(shares[rows], power[rows], share_uncertainty[rows])
        found.power_w[block], found.uncertainty_w[block], found.scatter_w[block] = solved
    return found


def _solved(
    shares: Floats, power: Floats, share_uncertainty: Floats
) -> tuple[Floats, Floats, float]:
    states = shares.shape[1]
    if power.size == 0:
        return np.zeros(states), np.zeros(states), 0.0
    usual_w = float(power.mean())
    prior_w2 = max(usual_w**2, float(power.var()), LEAST_W2)
    normal, right = shares.T @ shares, shares.T @ (power - usual_w)
    scatter_w2 = max(float(power.var()), prior_w2 * 1e-12, LEAST_W2)
    for _ in range(ROUNDS):
        covariance = posterior(normal, scatter_w2, prior_w2)
        off_w = covariance @ right / scatter_w2
        told = states - float(np.trace(covariance)) / prior_w2
        residual = power - usual_w - shares @ off_w
        left_w2 = float(residual @ residual) / max(power.size - told, 1.0)
        scatter_w2 = max(left_w2, prior_w2 * 1e-12, LEAST_W2)
    explained_w2 = max(float(power.var()) * power.size - float(residual @ residual), 0.0)
    # Differences that chance makes as well are drawn together (James and Stein, 1961).
    by_chance_w2 = (states - 1) * scatter_w2
    off_w *= max(0.0, 1 - by_chance_w2 / explained_w2) if explained_w2 > 0 else 0.0
    differ = shares.var(axis=0)
    blurred = (share_uncertainty**2).mean(axis=0) / np.maximum(differ, np.finfo(float).tiny)
    untold_w2 = np.minimum(blurred, 1.0) ** 2 * prior_w2
    # A reading's residual is the mean over its parts', weighted by their shares.
    parts = float((shares**2).sum(axis=1).mean())
    return (
        np.maximum(usual_w + off_w, 0.0),
        np.sqrt(np.diag(covariance) + untold_w2),
        float(np.sqrt(scatter_w2 / parts)),
    )
