"""Energy baselines of tests: their earlier runs in a file, and the comparison with them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.uncertainty import METRICS, find_boards, metric_value
from joulelab.errors import UserError, optional_packages
from joulelab.format import count, interval, is_undetermined, number, undetermined
from joulelab.machine import Machine, describe
from joulelab.sensors.sensor import Provenance
from joulelab.storage import read_whole, write_whole, writing
from joulelab.validation import InvalidData, convert, parse_json

SCHEMA = "joulelab-pytest-1"
MOST_RUNS = 20
"""Number of runs of a test that are saved, the newest."""

ADVISED_RUNS = 3
SAVED_FIELDS = (
    *("source", "provenance", "duration_s", "gross_j", "gain_uncertainty"),
    *("offset_uncertainty_w", "edge_uncertainty_j"),
)
"""Fields of a component that are saved."""

Boards = Mapping[str, Hashable]


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """Whether a test is significantly above its baseline plus tolerance; ``None``: undecided."""

    is_above: bool | None
    text: str


class _Saved(TypedDict):
    tests: dict[str, list[Mapping[str, Any]]]


class Baselines:
    """The saved runs of each test, with the machine that they ran on."""

    def __init__(self, path: Path, tests: dict[str, list[Mapping[str, Any]]]) -> None:
        self.path, self._tests = path, tests

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the baselines in a file; none if it does not exist yet.

        Raises:
            UserError: It cannot be read, or is something else.
        """
        try:
            data = parse_json(read_whole(path))
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, InvalidData) as error:
            raise UserError(f"cannot read {path}", why=str(error)) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise UserError(
                f"{path} is not a file of energy baselines",
                hint="give --joulelab-baseline another file, or create one by --joulelab-update",
            )
        try:
            return cls(path, convert(data, _Saved)["tests"])
        except InvalidData as error:
            raise UserError(f"{path} is damaged", why=str(error)) from error

    def compare(self, nodeid: str, energy: Energy, tolerance: float) -> BaselineResult:
        """Compare a test's energy with its earlier runs on this machine.

        Raises:
            UserError: The file is damaged, or SciPy is not installed.
        """
        runs = self._tests.get(nodeid, [])
        here = [run for run in runs if run.get("machine") == self._machine.identity]
        if not here:
            where = " for this machine" if runs else ""
            return BaselineResult(None, f"no baseline{where}: run with --joulelab-update")
        try:
            measured = [(_energy(run), run["boards"]) for run in here]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.path} is damaged at {nodeid}", why=f"{type(error).__name__}: {error}"
            ) from error
        return _compare([*measured, (energy, self._boards(energy))], tolerance)

    def add(self, runs: Mapping[str, tuple[Energy, float]]) -> None:
        """Add runs, each an energy and its start in Unix time, by test, and write the file."""
        for nodeid, (energy, started_unix_s) in runs.items():
            run = {
                "started_unix_s": round(started_unix_s),
                "machine": self._machine.identity,
                "duration_s": energy.duration_s,
                "boards": self._boards(energy),
                "components": {
                    name: {field: getattr(part, field) for field in SAVED_FIELDS}
                    for name, part in energy.components.items()
                },
            }
            self._tests[nodeid] = [*self._tests.get(nodeid, []), run][-MOST_RUNS:]
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, _text(self._tests).encode())

    @cached_property
    def _machine(self) -> Machine:
        return describe()

    def _boards(self, energy: Energy) -> Boards:
        return find_boards(self._machine, self._machine.host, energy)


def _energy(run: Mapping[str, Any]) -> Energy:
    components = {
        name: ComponentEnergy(
            component=name, **{**part, "provenance": Provenance(part["provenance"])}
        )
        for name, part in run["components"].items()
    }
    return Energy(duration_s=run["duration_s"], components=components)


def _compare(runs: Sequence[tuple[Energy, Boards]], tolerance: float) -> BaselineResult:
    """Compare the last run with those before it, on the components that all of them have."""
    with optional_packages("cannot compare with a baseline", "study"):
        from joulelab.compare.compare import estimate_effect  # noqa: PLC0415
        from joulelab.stats.difference import Cell, Repeats  # noqa: PLC0415
    common = frozenset.intersection(*(frozenset(energy.components) for energy, _ in runs))
    values = [metric_value(METRICS["gross_j"], energy, on, common) for energy, on in runs]
    if not all(one.value > 0 for one in values):
        return BaselineResult(None, "not comparable with its baseline: no component in common")
    *before, now = values
    baseline, candidate = Repeats(tuple(before), tuple(range(len(before)))), Repeats((now,), (-1,))
    effect = estimate_effect([Cell(baseline, candidate)])
    low, high = effect.ratio_interval
    counted = count(len(before), "run")
    ends = f"95 % CI {interval(low, high, effect.ratio)}; {counted}"
    text = f"{number(effect.ratio)} times its baseline ({ends})"
    if is_undetermined(low, high):
        text = f"how many times its baseline {undetermined(counted)}"
    if not effect.test:
        text += f": not tested, {ADVISED_RUNS} runs or more show how much it varies"
    return BaselineResult(effect.is_above(tolerance), text)


def _text(tests: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Format as JSON with one run per line, so that changes of the file are easy to read."""
    parts = []
    for nodeid in sorted(tests):
        runs = ",\n".join(f"   {json.dumps(run, allow_nan=False)}" for run in tests[nodeid])
        parts.append(f"  {json.dumps(nodeid)}: [\n{runs}\n  ]")
    body = ",\n".join(parts)
    return f'{{\n "schema": "{SCHEMA}",\n "tests": {{\n{body}\n }}\n}}\n'
