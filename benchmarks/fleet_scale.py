"""Gather simulated fleets: time and memory by the number of hosts.

``python -m benchmarks.fleet_scale [--hosts 100,1000,10000] [--spans 100] [--out FILE]`` writes
recordings of that many hosts to a temporary directory, adds them up in a process of its own, and
prints a table.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.own_process import in_own_process
from joulelab.parallel import usable_cpus
from joulelab.recording.trace_format import TraceWriter, pack, span_lines
from joulelab.runs.hosts import add_up
from joulelab.sensors.sensor import Channel, Provenance, Quantity

S = 10**9
READ_EVERY_NS = S // 10
SPAN_NS = S
POWERS_W = {"gpu:0": 300.0, "cpu:0": 80.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", default="100,1000,10000", help="numbers of hosts")
    parser.add_argument("--spans", type=int, default=100, help="spans on each host")
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    results = []
    print("hosts   written     gathered   processors     memory   energy off by")
    for hosts in map(int, options.hosts.split(",")):
        with tempfile.TemporaryDirectory() as directory:
            begin_s = time.monotonic()
            for host in range(hosts):
                write_recording(Path(directory), host, hosts, options.spans)
            written_s = time.monotonic() - begin_s
            gathered = in_own_process(measure, Path(directory))
        truth_j = hosts * options.spans * sum(POWERS_W.values()) * SPAN_NS / S
        found = {"hosts": hosts, "spans": options.spans, **gathered}
        found["error"] = found["epoch_j"] / truth_j - 1
        results.append(found)
        print(
            f"{hosts:<7} {written_s:5.1f} s  {found['duration_s']:8.1f} s  "
            f"{found['cpu_s']:8.1f} s  "
            f"{found['peak_bytes'] / 1e9:6.2f} GB   {100 * found['error']:+.4f} %",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def write_recording(directory: Path, number: int, hosts: int, spans: int) -> None:
    """Write what one host of a job recorded: constant power, and one span after another."""
    name = f"n{number:05d}"
    path = directory / name / "0"
    path.mkdir(parents=True)
    start_ns = (1 + number) * S
    channels = [
        Channel(
            component=component,
            quantity=Quantity.POWER,
            source="simulated.samples",
            provenance=Provenance.SIMULATED,
            update_period_s=READ_EVERY_NS / S,
            window_s=READ_EVERY_NS / S,
        )
        for component in POWERS_W
    ]
    header = {
        "channels": [channel.to_json() for channel in channels],
        "absent": [],
        "host": name,
        "boot_id": f"boot of {name}",
        "start_ns": start_ns,
        "start_unix_s": 1e9,
    }
    writer = TraceWriter(path, header)
    readings = spans * SPAN_NS // READ_EVERY_NS
    writer.readings(
        pack(start_ns + i * READ_EVERY_NS, watts, channel)
        for i in range(-5, readings + 5)
        for channel, watts in enumerate(POWERS_W.values())
    )
    launch = {
        "launcher": "slurm", "job": "test 1 0 ", "rank": number, "local_rank": 0,
        "world_size": hosts, "node": number, "nodes": hosts,
    }  # fmt: skip
    writer.event(event="joined", pid=1, launch=launch, gpus=None, t_ns=start_ns)
    rows = [
        (i, None, 1, "epoch", {"index": i}, start_ns + i * SPAN_NS, start_ns + (i + 1) * SPAN_NS)
        for i in range(spans)
    ]
    for line in span_lines("spans", rows):
        writer.events(line)
    writer.event(event="left", pid=1, t_ns=start_ns + spans * SPAN_NS)
    writer.close()


def measure(directory: Path) -> dict[str, Any]:
    """Add up a directory as ``joulelab gather`` does."""
    begin_s = time.monotonic()
    job = add_up(directory, processes=usable_cpus())
    duration_s = time.monotonic() - begin_s
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "duration_s": duration_s,
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_bytes": sum(one.ru_maxrss for one in used) * 1024,  # of the largest child only
        "epoch_j": job.spans["epoch"].gross_j,
        "total_j": job.total.gross_j,
    }


if __name__ == "__main__":
    main()
