"""What tests took before, kept in a file, and whether they take more now."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.uncertainty import METRICS, find_boards, metric_value
from joulelab.errors import UserError
from joulelab.machine import Machine, describe
from joulelab.sensors.sensor import Provenance
from joulelab.storage import write_whole, writing
from joulelab.uncertain import CONFIDENCE

if TYPE_CHECKING:
    from joulelab.integrations.pytest_row import Row

SCHEMA = "joulelab-pytest-1"
MOST_RUNS = 20
"""So many runs of a test are kept, the newest."""

LEAST_RUNS = 3
"""So many runs are advised."""

KEPT = (
    "source",
    "provenance",
    "duration_s",
    "gross_j",
    "gain_uncertainty",
    "offset_uncertainty_w",
    "edge_uncertainty_j",
)
"""What is kept of each component."""

Boards = Mapping[str, Hashable]


@dataclass(frozen=True, slots=True)
class Judged:
    """A test against its baseline.

    Attributes:
        above: Whether it is shown to be above it by more than the tolerance; ``None`` where it
            cannot be told.
        words: What came of it.
    """

    above: bool | None
    words: str


class Baselines:
    """The runs of each test that a file keeps, with the machine that they ran on."""

    def __init__(self, path: Path, tests: dict[str, list[Mapping[str, Any]]]) -> None:
        self.path, self._tests = path, tests

    @classmethod
    def read(cls, path: Path) -> Self:
        """The baselines in a file; none where there is no file yet.

        Raises:
            UserError: It cannot be read or is something else.
        """
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}", why=str(error)) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise UserError(
                f"{path} is no file of energy baselines",
                hint="name another with --energy-baseline, or let --energy-update make it",
            )
        return cls(path, data["tests"])

    def judge(self, nodeid: str, energy: Energy, tolerance: float) -> Judged:
        """A test's energy against what it took before on this machine.

        Args:
            nodeid: The test.
            energy: What it took now.
            tolerance: How much more is borne, as 0.1.

        Raises:
            UserError: The file is damaged, or SciPy is not installed.
        """
        runs = self._tests.get(nodeid, [])
        here = [run for run in runs if run.get("machine") == self._machine.identity]
        if not here:
            there = " of this machine" if runs else ""
            return Judged(None, f"no baseline{there}: run with --energy-update")
        try:
            kept = [(_energy(run), run["boards"]) for run in here]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged at {nodeid}", why=f"{type(error).__name__}: {error}"
            ) from error
        boards = find_boards(self._machine, self._machine.host, energy)
        return _judged(kept, (energy, boards), tolerance)

    def add(self, rows: Sequence[Row]) -> None:
        """Adds the tests that passed, and writes the file.

        Raises:
            UserError: It cannot be written.
        """
        for row in rows:
            if row.passed and row.energy is not None and row.energy.components:
                runs = [*self._tests.get(row.nodeid, []), self._run(row.energy, row.started_unix_s)]
                self._tests[row.nodeid] = runs[-MOST_RUNS:]
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, _text(self._tests).encode())

    @cached_property
    def _machine(self) -> Machine:
        return describe()

    def _run(self, energy: Energy, started_unix_s: float) -> dict[str, Any]:
        return {
            "started_unix_s": round(started_unix_s),
            "machine": self._machine.identity,
            "duration_s": energy.duration_s,
            "boards": find_boards(self._machine, self._machine.host, energy),
            "components": {
                name: {field: getattr(part, field) for field in KEPT}
                for name, part in energy.components.items()
            },
        }


def _energy(run: Mapping[str, Any]) -> Energy:
    components = {
        name: ComponentEnergy(
            component=name, **{**part, "provenance": Provenance(part["provenance"])}
        )
        for name, part in run["components"].items()
    }
    return Energy(duration_s=run["duration_s"], components=components)


def _judged(
    before: Sequence[tuple[Energy, Boards]], now: tuple[Energy, Boards], tolerance: float
) -> Judged:
    try:
        from joulelab.stats.difference import Cell, Repeats, difference  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UserError(
            f"baselines need {error.name}, which is not installed",
            hint="run pip install 'joulelab[study]'",
        ) from error
    measured = [frozenset(energy.components) for energy, _ in (*before, now)]
    common = frozenset.intersection(*measured)
    figures = [
        metric_value(METRICS["gross_j"], energy, on, common) for energy, on in (*before, now)
    ]
    if not all(one.value > 0 for one in figures):
        return Judged(None, "nothing was measured then and now")
    *then, last = figures
    found = difference(
        [
            Cell(
                Repeats(tuple(then), tuple(range(len(then)))), Repeats((last,), (len(then),))
            ).logarithms()
        ]
    )
    low, high = (math.exp(end) for end in found.interval(CONFIDENCE))
    ratio = math.exp(found.value)
    words = f"{ratio:.3g} times its baseline ({low:.3g} to {high:.3g}; {_counted(len(then))})"
    if not found.is_tested:
        return Judged(None, f"{words}: not shown, {LEAST_RUNS} runs or more tell how they scatter")
    if low > 1 + tolerance:
        return Judged(True, words)
    return Judged(False if high <= 1 + tolerance else None, words)


def _counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _text(tests: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """JSON with one run a line, so that a change of the file is easy to read."""
    parts = []
    for nodeid in sorted(tests):
        runs = ",\n".join(f"   {json.dumps(run, allow_nan=False)}" for run in tests[nodeid])
        parts.append(f"  {json.dumps(nodeid)}: [\n{runs}\n  ]")
    body = ",\n".join(parts)
    return f'{{\n "schema": "{SCHEMA}",\n "tests": {{\n{body}\n }}\n}}\n'
