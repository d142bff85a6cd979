"""The tables' columns and their pandas types."""

from __future__ import annotations

from collections.abc import Mapping

_TEXT, _INT, _REAL, _FLAG = "string", "Int64", "float64", "boolean"

RUN_COLUMNS: Mapping[str, str] = {
    "run_id": _TEXT,
    "model": _TEXT,
    "phase": _TEXT,
    "batch_size": _INT,
    "repeat": _INT,
    "epochs": _INT,
    "samples": _INT,
    "steps": _INT,
    "duration_s": _REAL,
    "gross_j": _REAL,
    "idle_j": _REAL,
    "net_j": _REAL,
    "gross_low_j": _REAL,
    "gross_high_j": _REAL,
    "gpu_j": _REAL,
    "cpu_j": _REAL,
    "dram_j": _REAL,
    "provenance": _TEXT,
    "mean_power_w": _REAL,
    "gpu_power_w": _REAL,
    "cpu_power_w": _REAL,
    "dram_power_w": _REAL,
    "gpu_utilization_pct": _REAL,
    "cpu_utilization_pct": _REAL,
    "memory_utilization_pct": _REAL,
    "vram_peak_bytes": _INT,
    "gross_j_per_sample": _REAL,
    "net_j_per_sample": _REAL,
    "loss": _REAL,
    "accuracy_pct": _REAL,
    "parameters": _INT,
    "trainable_parameters": _INT,
    "buffer_bytes": _INT,
    "size_bytes": _INT,
    "macs": _INT,
    "macs_per_parameter": _REAL,
    "host": _TEXT,
    "gpu_name": _TEXT,
    "study": _TEXT,
    "machine": _TEXT,
    "block": _INT,
    "order": _INT,
    "status": _TEXT,
    "precision": _TEXT,
    "memory_format": _TEXT,
    "compile": _FLAG,
    "optimizer": _TEXT,
    "input_path": _TEXT,
    "device": _TEXT,
    "resolved_device": _TEXT,
    "dataset": _TEXT,
    "sources": _TEXT,
    "absent": _TEXT,
    "idle_power_w": _REAL,
    "net_low_j": _REAL,
    "net_high_j": _REAL,
    "gross_correlated_uncertainty_j": _REAL,
    "gross_independent_uncertainty_j": _REAL,
    "net_correlated_uncertainty_j": _REAL,
    "net_independent_uncertainty_j": _REAL,
    "gap_s": _REAL,
    "data_wait_s": _REAL,
    "train_accuracy_pct": _REAL,
    "cudnn_benchmark": _FLAG,
    "operators": _INT,
}
"""Columns of ``results.*`` and their pandas types. The uncertainties are standard (k = 1)."""

EPOCH_COLUMNS: Mapping[str, str] = {
    "run_id": _TEXT,
    "epoch": _INT,
    "duration_s": _REAL,
    "gross_j": _REAL,
    "net_j": _REAL,
    "loss": _REAL,
    "accuracy_pct": _REAL,
    "study": _TEXT,
    "model": _TEXT,
    "phase": _TEXT,
    "samples": _INT,
    "complete": _FLAG,
}
"""Columns of ``epochs.parquet`` and their pandas types."""

FAILURE_COLUMNS: Mapping[str, str] = dict.fromkeys(
    ("run_id", "study", "model", "factors", "kind", "reason"), _TEXT
)
"""Columns of :func:`failures` and their pandas types."""

IDLE_COLUMNS: Mapping[str, str] = {
    "run_id": _TEXT,
    "study": _TEXT,
    "block": _INT,
    "component": _TEXT,
    "time_s": _REAL,
    "duration_s": _REAL,
    "power_w": _REAL,
    "uncertainty_w": _REAL,
}
"""Columns of :func:`idle_rows` and their pandas types."""
