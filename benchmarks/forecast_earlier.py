"""Make the same forecasts with the code of an earlier commit of this repository."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forecast_case import Case, Interval

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, sys
from joulelab.forecast.profile import Profile, Row
for line in sys.stdin:
    epochs, rows = json.loads(line)
    found = Profile([Row(*row) for row in rows]).forecast(epochs)
    print(json.dumps([found.gross_low_j, found.gross_high_j, found.uncertainty]))
"""


def forecasts(commit: str, cases: Sequence[Case]) -> list[Interval]:
    """Forecast every run from the same rows with the package at a commit.

    Only phases, durations and energies are given to it: earlier code does not know whether other
    programs used the machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "-C", str(ROOT), "archive", commit, "src/joulelab"]
        packed = subprocess.run(archive, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
        lines = [
            json.dumps((case.forecast.epochs, [tuple(row)[:3] for row in case.profile]))
            for case in cases
        ]
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input="\n".join(lines),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(folder) / "src")},
        )
        return [Interval(*json.loads(line)) for line in found.stdout.splitlines()]
