"""Recorded tables in place of hardware: rows of time and energy at settings, and probes of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joulelab.errors import UserError, nearest
from joulelab.logs.text_files import open_text, read_lines
from joulelab.tune.knobs import DEVICE_KNOBS, PROGRAM_KNOBS, device_knob, parse_level
from joulelab.tune.probes import Knob, Level, Probe, Search, Settings
from joulelab.tune.result import Estimate, FrontPoint, Result

REPEATS = ("repeat", "run", "seed", "trial")
"""Columns that may differ between rows of the same settings."""
VALUES = ("duration_s", "energy_j", "power_w")
TO_TARGET = "epochs_to_target"
"""Column with the number of units of work that a run took to its target; empty if it never did."""
NEVER = {"", "nan", "inf", "none", "null"}
"""Texts in the column for runs that never reached the target."""
LEAST_FACTOR = 0.01
"""Noise never makes a time or an energy smaller than this part of it."""


@dataclass(frozen=True, slots=True)
class ReplayTable:
    """A recorded table."""

    knobs: tuple[Knob, ...]  # The knobs, in the requested order.
    # (time in s, energy in J) of each measurement, by a level of each knob.
    rows: Mapping[tuple[Level, ...], Sequence[tuple[float, float]]]
    # Likewise the units of work until the target, infinite if it was not reached. 1 without such a
    # column: the unit of work is the whole run to the target.
    work_to_target: Mapping[tuple[Level, ...], Sequence[float]]

    @property
    def baseline(self) -> tuple[Level, ...]:
        """The baseline level of each knob."""
        return tuple(knob.baseline for knob in self.knobs)

    @property
    def baseline_point(self) -> FrontPoint | None:
        """The baseline's mean time and energy; ``None`` if it never reached the target."""
        rows, work = (np.array(of[self.baseline]) for of in (self.rows, self.work_to_target))
        if not np.isfinite(work).all():
            return None
        means = (rows * work[:, None]).mean(axis=0).tolist()
        duration, energy = (Estimate(mean, mean, mean) for mean in means)
        return FrontPoint({knob.name: knob.baseline for knob in self.knobs}, duration, energy)

    @property
    def scatter(self) -> tuple[float, float]:
        """Relative standard deviation of times and of energies over repeats; NaN without any."""
        repeated = [np.log(rows) for rows in self.rows.values() if len(rows) > 1]
        freedom = sum(len(rows) - 1 for rows in repeated)
        if not freedom:
            return math.nan, math.nan
        squares = sum(((rows - rows.mean(axis=0)) ** 2).sum(axis=0) for rows in repeated)
        of_time, of_energy = np.sqrt(squares / freedom).tolist()
        return of_time, of_energy

    def probe(self, settings: Settings, noise: float, rng: np.random.Generator) -> Probe:
        """Measure some settings: one of their rows at random, with noise.

        Args:
            settings: A level of each knob.
            noise: Relative standard deviation of time and of energy, which are independent.
            rng: Source of the noise.
        """
        key = tuple(settings[knob.name] for knob in self.knobs)
        index = int(rng.integers(len(self.rows[key])))
        row = np.array(self.rows[key][index])
        factors = np.maximum(1 + noise * rng.standard_normal(2), LEAST_FACTOR)
        duration_s, energy_j = (row * factors).tolist()
        of_time, of_energy = self.scatter
        return Probe(
            settings,
            duration_s,
            energy_j,
            # A few probes may agree by chance: repeats show how much they can differ.
            duration_uncertainty_s=of_time * duration_s,
            energy_uncertainty_j=of_energy * energy_j,
            work_to_target=self.work_to_target[key][index],
        )


def replay(table: ReplayTable, search: Search, noise: float, seed: int) -> Result:
    """Run a search against a recorded table until it is over, and return its result."""
    rng = np.random.default_rng(seed)
    while (settings := search.next()) is not None:
        search.add(table.probe(settings, noise, rng))
    return search.result()


def read_replay_table(
    path: Path, names: Sequence[str] = (), baseline: Mapping[str, str] | None = None
) -> ReplayTable:
    """Read a CSV table of one workload: columns of knobs, ``duration_s``, and an energy.

    The energy is ``energy_j`` or, if there is no such column, ``duration_s`` times ``power_w``,
    per unit of work. Several rows of the same settings are repeated measurements. The optional
    column ``epochs_to_target`` has the number of units of work that a run took to a target; it is
    empty if the run never reached it.

    Args:
        path: The table.
        names: Columns that are knobs. Default: those with the name of a knob and several levels.
        baseline: Baseline level by knob. Default: the highest level of a limit, the first level in
            the table of any other knob.

    Raises:
        UserError: The table cannot be read, or has no such columns or levels.
    """
    with open_text(path) as file:
        lines = list(csv.reader(read_lines(file), skipinitialspace=True))
    header, *lines = lines or [[]]
    columns = [cell.strip().replace("-", "_") for cell in header]
    names = names or _known_knobs(columns, lines, path)
    for name in (*names, "duration_s"):
        if name not in columns:
            raise UserError(f"{path} has no column {name!r}", hint=nearest(name, columns))
    for name in (baseline or {}).keys() - {*names}:
        raise UserError(f"--baseline: {name!r} is no knob", hint=nearest(name, names))
    if not {"energy_j", "power_w"} & set(columns):
        raise UserError(f"{path} has no column 'energy_j' or 'power_w'", hint="add one")
    rows: dict[tuple[Level, ...], list[tuple[float, float]]] = {}
    work: dict[tuple[Level, ...], list[float]] = {}
    others: dict[tuple[Level, ...], dict[str, str]] = {}
    known = {*names, *VALUES, *REPEATS, TO_TARGET}
    for index, line in enumerate(lines, start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(columns):
            raise UserError(f"{path}: row {index} has {len(line)} cells, not {len(columns)}")
        cells = dict(zip(columns, map(str.strip, line), strict=True))
        settings = tuple(_level(cells[name], name, path, index) for name in names)
        duration_s = _positive(cells, "duration_s", path, index)
        if "energy_j" in cells:
            energy_j = _positive(cells, "energy_j", path, index)
        else:
            energy_j = duration_s * _positive(cells, "power_w", path, index)
        extra = {name: cell for name, cell in cells.items() if name not in known}
        _check_same_curve(others.setdefault(settings, extra), extra, path, index)
        rows.setdefault(settings, []).append((duration_s, energy_j))
        never = cells.get(TO_TARGET, "1").lower() in NEVER
        to_target = (
            math.inf if never else _positive({TO_TARGET: "1", **cells}, TO_TARGET, path, index)
        )
        work.setdefault(settings, []).append(to_target)
    if not rows:
        raise UserError(f"{path} has no rows of data")
    levels = [tuple(dict.fromkeys(column)) for column in zip(*rows, strict=True)]
    knobs = tuple(
        _knob(name, column, (baseline or {}).get(name), path)
        for name, column in zip(names, levels, strict=True)
    )
    table = ReplayTable(knobs, rows, work)
    if table.baseline not in rows:
        raise UserError(
            f"{path} has no row with the baseline {', '.join(_texts(table.baseline))}",
            hint="give settings that it has with --baseline KNOB=LEVEL",
        )
    return table


def _known_knobs(columns: Sequence[str], lines: Iterable[Sequence[str]], path: Path) -> list[str]:
    """Return the columns with the name of a knob that have several levels."""
    filled = [line for line in lines if len(line) == len(columns)]
    if not filled:
        raise UserError(f"{path} has no rows of data")
    levels = dict(zip(columns, map(set, zip(*filled, strict=True)), strict=True))
    known = {*PROGRAM_KNOBS, *(name for name in columns if device_knob(name))}
    found = [name for name in levels if name in known and len(levels[name]) > 1]
    if not found:
        raise UserError(
            f"{path} has no column of several levels with the name of a knob",
            why=f"knobs are {', '.join([*DEVICE_KNOBS, *PROGRAM_KNOBS])}",
            hint=f"name others of its columns with --knobs: {', '.join(columns)}",
        )
    return found


def _level(text: str, name: str, path: Path, row: int) -> Level:
    level = parse_level(text)
    if isinstance(level, str) and level.lower() in {"", "nan", "inf", "-inf", "null", "none"}:
        raise UserError(f"{path}: {name} in row {row} is {text!r}, which is no level")
    return level


def _positive(cells: Mapping[str, str], name: str, path: Path, row: int) -> float:
    value = parse_level(cells[name])
    if isinstance(value, str) or value <= 0:
        raise UserError(
            f"{path}: {name} in row {row} is {cells[name]!r}, not a positive number",
            hint="correct or remove the row",
        )
    return float(value)


def _check_same_curve(
    first: Mapping[str, str], extra: Mapping[str, str], path: Path, row: int
) -> None:
    """Raise an error if two rows of the same settings differ in a column that is no repeat."""
    for name, cell in extra.items():
        if cell != first[name]:
            raise UserError(
                f"{path} contains more than one workload",
                why=f"row {row} has the settings of a row before it but another {name!r}",
                hint=f"select rows of one {name!r}, or remove this column if they are repeats",
            )


def _knob(name: str, found: tuple[Level, ...], baseline: str | None, path: Path) -> Knob:
    is_number = not any(isinstance(level, str) for level in found)
    levels = tuple(sorted(found)) if is_number else found
    is_limit = is_number and device_knob(name) != ""
    level = levels[-1] if is_limit else found[0]
    if baseline is not None:
        level = parse_level(baseline)
        if level not in levels:
            raise UserError(
                f"{path} has no row with {name} {baseline}", hint=nearest(baseline, _texts(levels))
            )
    return Knob(name, levels, level, is_limit=is_limit)


def _texts(levels: Iterable[Level]) -> list[str]:
    return [str(level) for level in levels]
