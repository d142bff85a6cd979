"""One session of tests: its meter, what each test took, and whether that is too much."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulelab.integrations.pytest_row import Row
from joulelab.meter import Meter

if TYPE_CHECKING:
    import pytest

    from joulelab.integrations.pytest_baseline import Baselines
    from joulelab.recording.spans import Span


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        sensors: What to read; ``None`` for everything.
        baseline: The file of baselines, if any.
        update: Whether this session's runs are added to it.
        tolerance: What a test may take more than its baseline, as 0.1.
        strict: Whether a test fails where it cannot be told.
        shared_by: How many workers run tests on this machine at once.
    """

    sensors: Sequence[str] | None
    baseline: str | None
    update: bool
    tolerance: float
    strict: bool
    shared_by: int = 1


class EnergySession:
    """The tests that were measured. The meter starts with the first of them.

    Attributes:
        options: What was asked for.
        refusal: Why nothing is measured; empty when it is.
        rows: One a test, in the order in which they ran.
    """

    def __init__(self, options: Options, refusal: str = "") -> None:
        self.options, self.refusal = options, refusal
        self.rows: list[Row] = []
        self._unresolved: list[tuple[Row, Span]] = []

    @cached_property
    def meter(self) -> Meter:
        """The session's.

        Raises:
            UserError: A sensor that was asked for does not exist.
            RecorderError: The recorder did not start.
        """
        return Meter(sensors=self.options.sensors)

    @cached_property
    def baselines(self) -> Baselines | None:
        """Those of the file, if there is one.

        Raises:
            UserError: The file is damaged, or statistics are not installed.
        """
        if self.options.baseline is None:
            return None
        from joulelab.integrations.pytest_baseline import Baselines  # noqa: PLC0415

        return Baselines.read(Path(self.options.baseline))

    def not_measured(self, nodeid: str, why: str) -> None:
        """Notes a test that should have been measured."""
        self.rows.append(Row(nodeid, None, told=[why]))

    def add(self, item: pytest.Item, span: Span) -> str:
        """Notes a test that passed otherwise.

        Returns:
            Why it fails; empty when it does not. Without a budget or a baseline nothing is worked
            out before the session ends.
        """
        marks = [mark.kwargs for mark in item.iter_markers("energy")]
        chosen = {name: value for mark in reversed(marks) for name, value in mark.items()}
        row = Row(item.nodeid, None, budget_j=chosen.get("budget_j"))
        row.started_unix_s = time.time() - span.duration_s
        self.rows.append(row)
        if row.budget_j is None and self.options.baseline is None:
            self._unresolved.append((row, span))
            return ""
        row.energy = span.energy
        tolerance = chosen.get("tolerance") or self.options.tolerance
        why = self._over_budget(row) or self._over_baseline(row, tolerance)
        if why:
            row.passed = False
        return why

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes over what a worker has measured."""
        self.rows += [Row.from_json(row) for row in rows]

    def close(self) -> None:
        """Works out what is left and ends the recording."""
        if "meter" not in vars(self):
            return
        energies = self.meter.energies([span for _, span in self._unresolved])
        for (row, _), energy in zip(self._unresolved, energies, strict=True):
            row.energy = energy
        self._unresolved.clear()
        self.meter.close()

    def keep(self) -> None:
        """Adds what passed to the file of baselines, where that was asked for."""
        if self.options.update and self.baselines is not None:
            self.baselines.add(self.rows)

    def _over_budget(self, row: Row) -> str:
        if row.budget_j is None or row.energy is None:
            return ""
        low_j, high_j = row.energy.interval_j
        if math.isnan(low_j):
            return self._cannot_tell(row, f"the budget was not checked: {row.energy}")
        between = f"{row.energy.gross_j:.3g} J ({low_j:.3g} to {high_j:.3g})"
        if self.options.shared_by > 1:
            kept = high_j <= row.budget_j
            return "" if kept else self._cannot_tell(row, "the budget: the machine was shared")
        if low_j > row.budget_j:
            row.told.append("over its budget")
            return (
                f"energy budget exceeded: {between} over {row.budget_j:g} J; the whole 95 % "
                f"interval is above it\n{row.energy}"
            )
        if high_j > row.budget_j:
            return self._cannot_tell(row, f"the budget is within the interval, {between}")
        return ""

    def _over_baseline(self, row: Row, tolerance: float) -> str:
        if self.baselines is None or row.energy is None:
            return ""
        judged = self.baselines.judge(row.nodeid, row.energy, tolerance)
        row.told.append(judged.words)
        if self.options.update or self.options.shared_by > 1:
            return ""
        if judged.above:
            return f"more energy than its baseline: {judged.words}\n{row.energy}"
        return self._cannot_tell(row, "") if judged.above is None else ""

    def _cannot_tell(self, row: Row, why: str) -> str:
        row.open = True
        if why:
            row.told.append(why)
        return f"energy: cannot be told: {'; '.join(row.told)}" if self.options.strict else ""
