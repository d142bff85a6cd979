"""The energy of a session of tests: what each test used, whether that is too much, and a table."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from joulelab.energy.energy import Energy
from joulelab.format import count, duration, interval, quantity, with_interval
from joulelab.integrations.pytest_baseline import Baselines
from joulelab.meter import Meter

if TYPE_CHECKING:
    import pytest

    from joulelab.recording.spans import Span

MOST_ROWS = 30
"""Number of tests in the table: those with a budget or a note, then the top consumers."""


@dataclass(slots=True)
class EnergyResult:
    """The energy of one test's call, and the results of its budget and its baseline."""

    nodeid: str  # Pytest's name of the test.
    energy: Energy | None  # ``None`` if it was not measured.
    passed: bool = True
    budget_j: float | None = None  # Most energy that it may use.
    notes: list[str] = field(default_factory=list)  # What the table says about it.
    # Whether the budget or the baseline lies within the interval, so that it cannot be decided.
    is_undecided: bool = False
    started_unix_s: float = math.nan

    @property
    def gross_j(self) -> float:
        """Gross energy; NaN if it was not measured."""
        return math.nan if self.energy is None else self.energy.gross_j

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; :meth:`from_json` is the inverse."""
        energy = None if self.energy is None else self.energy.to_json()
        return {name: getattr(self, name) for name in EnergyResult.__slots__} | {"energy": energy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        energy = None if data["energy"] is None else Energy.from_json(data["energy"])
        return cls(**{**data, "energy": energy})


class EnergySession:
    """The measured tests, in the order in which they ran; the meter starts with the first.

    Args:
        option: The options of the command line.
        tolerance: How much more than its baseline a test may use, for example 0.1.
        workers: Number of processes that run tests on this machine at the same time.
        refusal: Why nothing is measured; empty if it is.
    """

    def __init__(
        self, option: Namespace, tolerance: float, workers: int, refusal: str = ""
    ) -> None:
        self.option, self._tolerance, self.refusal = option, tolerance, refusal
        self._is_shared, self._workers = workers > 1, workers
        self.results: list[EnergyResult] = []
        self._unresolved: list[tuple[EnergyResult, Span]] = []

    @cached_property
    def meter(self) -> Meter:
        """The session's meter."""
        sensors = self.option.joulelab_sensors
        if sensors is not None:
            sensors = [sensors] if sensors.startswith("simulated:") else sensors.split(",")
        return Meter(sensors=sensors)

    @cached_property
    def baselines(self) -> Baselines | None:
        """The baselines in the file, if there is one."""
        path = self.option.joulelab_baseline
        return None if path is None else Baselines.read(Path(path))

    def add_refused(self, nodeid: str) -> None:
        """Add a test that should have been measured."""
        self.results.append(EnergyResult(nodeid, None, notes=[self.refusal]))

    def add(self, item: pytest.Item, span: Span) -> str:
        """Add a test that passed, and return why its budget or its baseline lets it fail.

        Without either, its energy is computed when the session ends.
        """
        marks = [mark.kwargs for mark in item.iter_markers("energy")]
        chosen = {name: value for mark in reversed(marks) for name, value in mark.items()}
        result = EnergyResult(item.nodeid, None, budget_j=chosen.get("budget_j"))
        result.started_unix_s = time.time() - span.duration_s
        self.results.append(result)
        if result.budget_j is None and self.option.joulelab_baseline is None:
            self._unresolved.append((result, span))
            return ""
        result.energy = span.energy
        tolerance = chosen.get("tolerance") or self._tolerance
        why = self._over_budget(result) or self._over_baseline(result, tolerance)
        result.passed = not why
        return why

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add the results of a worker."""
        self.results += [EnergyResult.from_json(one) for one in results]

    def close(self) -> None:
        """Compute the remaining energies, stop the recording and update the baselines."""
        if "meter" not in vars(self):
            return
        energies = self.meter.energies([span for _, span in self._unresolved])
        for (result, _), energy in zip(self._unresolved, energies, strict=True):
            result.energy = energy
        self._unresolved.clear()
        self.meter.close()
        if self.option.joulelab_update and self.baselines is not None:
            passed = {
                one.nodeid: (one.energy, one.started_unix_s)
                for one in self.results
                if one.passed and one.energy is not None and one.energy.components
            }
            self.baselines.add(passed)

    def table(self) -> Iterator[str]:
        """Write the lines of the table at the end of a session."""
        if self._is_shared and not self.refusal:
            yield f"{self._workers} workers shared the machine: each value is the whole machine's"
        shown = self._shown()
        yield f"{'energy':>12}  {'95 % CI':>19}  {'power':>8}  {'time':>10}  test"
        for one in shown:
            yield _line(one)
            for note in one.notes:
                yield f"{'':>12}  {note}"
        if len(shown) < len(self.results):
            yield f"and {count(len(self.results) - len(shown), 'test')} with less energy"
        energies = [one.energy for one in self.results if one.energy]
        notes = [note for energy in energies for note in energy.notes]
        notes += [f"no {name}: {why}" for one in energies for name, why in one.absent.items()]
        yield from dict.fromkeys(notes)
        if any(str(energy.provenance) == "simulated" for energy in energies):
            yield "simulated energy, not measured"
        undecided = sum(one.is_undecided for one in self.results)
        if undecided:
            yield f"{count(undecided, 'test')} undecided: --joulelab-strict lets them fail"

    def _shown(self) -> list[EnergyResult]:
        first = [one for one in self.results if one.budget_j is not None or one.notes]
        others = [one for one in self.results if one.budget_j is None and not one.notes]
        others.sort(key=lambda one: -1.0 if math.isnan(one.gross_j) else one.gross_j, reverse=True)
        shown = {id(one) for one in (*first, *others[: max(0, MOST_ROWS - len(first))])}
        return [one for one in self.results if id(one) in shown]

    def _over_budget(self, result: EnergyResult) -> str:
        if result.budget_j is None or result.energy is None:
            return ""
        gross_j, (low_j, high_j) = result.energy.gross_j, result.energy.interval_j
        if math.isnan(low_j):
            return self._undecided(result, f"budget not checked: {result.energy}")
        if self._is_shared:
            within = high_j <= result.budget_j
            return "" if within else self._undecided(result, "budget not checked: shared machine")
        energy = with_interval(gross_j, low_j, high_j, "J")
        if low_j > result.budget_j:
            result.notes.append("over budget")
            more = f"{energy} is significantly more than {quantity(result.budget_j, 'J')}"
            return f"energy budget exceeded: {more}\n{result.energy}"
        if high_j > result.budget_j:
            return self._undecided(result, f"budget within the interval, {energy}")
        return ""

    def _over_baseline(self, result: EnergyResult, tolerance: float) -> str:
        if self.baselines is None or result.energy is None:
            return ""
        compared = self.baselines.compare(result.nodeid, result.energy, tolerance)
        result.notes.append(compared.text)
        if self.option.joulelab_update or self._is_shared:
            return ""
        if compared.is_above:
            return f"more energy than its baseline: {compared.text}\n{result.energy}"
        return self._undecided(result) if compared.is_above is None else ""

    def _undecided(self, result: EnergyResult, note: str = "") -> str:
        result.is_undecided = True
        if note:
            result.notes.append(note)
        return f"energy undecided: {'; '.join(result.notes)}" if self.option.joulelab_strict else ""


def _line(one: EnergyResult) -> str:
    energy = one.energy
    if energy is None or math.isnan(energy.gross_j):
        return f"{'not measured':>12}  {'':>19}  {'':>8}  {'':>10}  {one.nodeid}"
    ends = f"{interval(*energy.interval_j, energy.gross_j)} J"
    budget = "" if one.budget_j is None else f"  (budget {quantity(one.budget_j, 'J')})"
    # The readings around a shorter test do not even show that it drew power.
    too_short = "" if energy.interval_j[0] > 0 else "  (too short: repeat the work in it)"
    return (
        f"{quantity(energy.gross_j, 'J'):>12}  {ends:>19}  "
        f"{quantity(energy.mean_power_w, 'W'):>8}  {duration(energy.duration_s):>10}  "
        f"{one.nodeid}{budget}{too_short}"
    )
