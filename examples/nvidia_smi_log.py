"""Compute the energy of spans from a log of nvidia-smi.

Run it with `python examples/nvidia_smi_log.py`. The log `smi.csv` was recorded on an H100; record
your own with `nvidia-smi --query-gpu=timestamp,index,power.draw.instant --format=csv -lms 100`.
The command `joulelab import --power smi.csv --spans spans.csv --idle idle` does the same.
"""

from pathlib import Path

from joulelab.format import with_interval
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import energy_rows, idle_spans, read_spans

FILES = Path(__file__).parent

log = read_logs([FILES / "smi.csv"])
spans = read_spans(FILES / "spans.csv")
for row in energy_rows(log, spans, idle_spans("idle", spans)):
    gross = with_interval(row["gross_j"], row["low_j"], row["high_j"], "J")
    net = with_interval(row["net_j"], row["net_low_j"], row["net_high_j"], "J")
    print(f"{row['name']}: {gross} gross, {net} net")
