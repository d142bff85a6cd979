"""The table at the end of a session of tests."""

from __future__ import annotations

import math
from collections.abc import Iterator

from joulelab.integrations.pytest_row import Row
from joulelab.integrations.pytest_session import EnergySession

MOST_ROWS = 30
"""So many tests are shown; those with a budget or something to say, then the costliest."""


def table(session: EnergySession) -> Iterator[str]:
    """The lines."""
    if session.options.shared_by > 1 and not session.refusal:
        yield (
            f"{session.options.shared_by} workers shared the machine: each figure is the whole "
            "machine's, an upper bound of the test's"
        )
    chosen = _chosen(session.rows)
    yield f"{'gross energy':>14}  {'95 % interval':>19}  {'power':>8}  {'time':>8}  test"
    for row in chosen:
        yield _line(row)
        for text in row.told:
            yield f"{'':>14}  {text}"
    if len(chosen) < len(session.rows):
        yield f"and {len(session.rows) - len(chosen)} more that took less"
    notes = {note: None for row in session.rows if row.energy for note in row.energy.notes}
    absent = {
        f"without {name}: {why}": None
        for row in session.rows
        if row.energy
        for name, why in row.energy.absent.items()
    }
    yield from (*notes, *absent)
    simulated = any(
        row.energy and str(row.energy.provenance) == "simulated" for row in session.rows
    )
    if simulated:
        yield "simulated: these are no measurements"
    unknown = sum(row.open for row in session.rows)
    if unknown:
        yield f"{unknown} could not be told: --energy-strict fails them"


def _chosen(rows: list[Row]) -> list[Row]:
    first = [row for row in rows if row.budget_j is not None or row.told]
    others = [row for row in rows if row.budget_j is None and not row.told]
    room = max(0, MOST_ROWS - len(first))
    costliest = sorted(others, key=_gross_j, reverse=True)[:room]
    kept = {id(row) for row in (*first, *costliest)}
    return [row for row in rows if id(row) in kept]


def _gross_j(row: Row) -> float:
    gross_j = math.nan if row.energy is None else row.energy.gross_j
    return -1.0 if math.isnan(gross_j) else gross_j


def _line(row: Row) -> str:
    energy = row.energy
    if energy is None or math.isnan(energy.gross_j):
        return f"{'not measured':>14}  {'':>19}  {'':>8}  {'':>8}  {row.nodeid}"
    low_j, high_j = energy.interval_j
    between = f"{low_j:.3g} to {high_j:.3g}"
    budget = "" if row.budget_j is None else f"  (budget {row.budget_j:g} J)"
    return (
        f"{energy.gross_j:>12.4g} J  {between:>19}  {energy.mean_power_w:>6.3g} W  "
        f"{energy.duration_s:>6.3g} s  {row.nodeid}{budget}"
    )
