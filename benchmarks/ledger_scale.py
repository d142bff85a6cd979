"""Add up the records of a table: time and memory by their number.

``python -m benchmarks.ledger_scale [--records 10000,100000,1000000] [--out FILE]`` writes tables of
invented records to a temporary directory, answers `joulelab ledger TABLE --by month --json` on each
in a process of its own, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import Site
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.ledger.entries import Entry
from joulelab.ledger.records_table import as_table, write_table
from joulelab.runs import PHASES
from joulelab.runs.record import Run
from joulelab.sensors.sensor import Provenance

HOSTS, PROJECTS, MODELS = 100, 20, 50
GROSS_J = 1000.0
DURATION_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", default="10000,100000,1000000", help="numbers of records")
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    results = []
    print("records   table      answered   processors     memory   energy off by")
    for records in map(int, options.records.split(",")):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "ledger.parquet")
            write_table(path, make_table(records))
            found = {"records": records, "table_bytes": path.stat().st_size} | measure(path)
        found["error"] = found.pop("gross_j") / (records * GROSS_J) - 1
        results.append(found)
        print(
            f"{records:<9,} {found['table_bytes'] / 1e6:6.1f} MB {found['duration_s']:7.1f} s  "
            f"{found['cpu_s']:8.1f} s  {found['peak_bytes'] / 1e9:8.2f} GB   "
            f"{100 * found['error']:+.4f} %",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def make_table(records: int) -> pa.Table:
    """Repeat some records with other names and times: hosts run one record after another."""
    kinds = as_table([_entry(i) for i in range(HOSTS * len(PHASES))])
    number = np.arange(records)
    table = kinds.take(number % kinds.num_rows)
    started_s = 1.7e9 + DURATION_S * (number // HOSTS)
    for name, values in (
        ("id", [f"r{i}" for i in number]),
        ("started_unix_s", started_s),
    ):
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(name), pa.array(values))
    return table


def _entry(number: int) -> Entry:
    host = f"n{number % HOSTS:03d}"
    parts = [
        ComponentEnergy(
            component=component,
            source=source,
            provenance=Provenance.MEASURED,
            duration_s=DURATION_S,
            gross_j=share * GROSS_J,
            gain_uncertainty=0.065,
            edge_uncertainty_j=1.0,
        )
        for component, source, share in (("gpu:0", "nvml.samples", 0.8), ("cpu:0", "rapl", 0.2))
    ]
    run = Run(
        directory=Path(f"runs/{number}"),
        id="",
        kind="command",
        name=f"train{number % MODELS}",
        command=("python", f"train{number % MODELS}.py"),
        project=f"project{number % PROJECTS}",
        phase=PHASES[number % len(PHASES)],
        model=f"model{number % MODELS}",
        host=host,
        status="done",
        duration_s=DURATION_S,
        energy=Energy(duration_s=DURATION_S, components={part.component: part for part in parts}),
    )
    costs: Costs = Site(country="DE").costs(run.energy)
    return Entry(run, Site(), costs=costs)


def measure(path: Path) -> dict[str, Any]:
    """Answer as the command does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "joulelab", "ledger", str(path), "--by", "month", "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    duration_s = time.monotonic() - begin_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "duration_s": duration_s,
        "cpu_s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "gross_j": json.loads(done.stdout)["total"]["gross_j"],
    }


if __name__ == "__main__":
    main()
