"""Columns of the tables, and the finding: one answer to one question."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pandas as pd

from joulelab.format import finite_or_none, sentence

RUN_COLUMNS = (
    "run_id", "model", "phase", "batch_size", "repeat", "epochs", "samples", "steps", "duration_s",
    "gross_j", "idle_j", "net_j", "gross_low_j", "gross_high_j", "gpu_j", "cpu_j", "dram_j",
    "provenance", "mean_power_w", "gpu_power_w", "cpu_power_w", "dram_power_w",
    "gpu_utilization_pct", "cpu_utilization_pct", "memory_utilization_pct", "vram_peak_bytes",
    "gross_j_per_sample", "net_j_per_sample", "loss", "accuracy_pct", "parameters",
    "trainable_parameters", "buffer_bytes", "size_bytes", "macs", "macs_per_parameter", "host",
    "gpu_name", "study", "machine", "block", "order", "status", "precision", "memory_format",
    "compile", "optimizer", "input_path", "device", "resolved_device", "dataset", "sources",
    "absent", "idle_power_w", "net_low_j", "net_high_j", "gross_correlated_uncertainty_j",
    "gross_independent_uncertainty_j", "net_correlated_uncertainty_j",
    "net_independent_uncertainty_j", "gap_s", "data_wait_s", "train_accuracy_pct",
    "cudnn_benchmark", "operators", "shared", "power_limit_w", "clock_mhz", "tokens",
    "gross_j_per_token", "net_j_per_token", "macs_per_token", "prompt_tokens", "output_tokens",
    "attention", "cache", "enclosing", "enclosing_j", "busy_idle",
)  # fmt: skip
"""Columns of ``results.*``. ``machine`` is the machine's identity; uncertainties are standard
uncertainties (k = 1); ``shared`` is whether other processes used the machine, too; ``enclosing`` is
the outermost meter around the components, and ``enclosing_j`` its gross energy; ``busy_idle`` is
whether other processes used the machine while idle power was measured."""

EPOCH_COLUMNS = (
    "run_id", "epoch", "duration_s", "gross_j", "net_j", "loss", "accuracy_pct", "study", "model",
    "phase", "samples", "complete",
)  # fmt: skip
"""Columns of ``epochs.parquet``."""

FAILURE_COLUMNS = ("run_id", "study", "model", "factors", "kind", "reason")
"""Columns of failed and damaged runs; ``factors`` reads like ``"batch_size=128, ..."``."""

IDLE_COLUMNS = (
    "run_id", "study", "block", "component", "time_s", "duration_s", "power_w", "uncertainty_w",
)  # fmt: skip
"""Columns of idle measurements; ``time_s`` is wall-clock time since 1970."""

READABLE = ("study", "machine", "setting", "unit")
"""Study, machine and setting of a row, to read, and its unit of work: a sample, or a token."""

KEY = ("group", *READABLE)
"""First columns of the findings' tables: the group of comparable rows that a row is about (see
:func:`joulelab.findings.summary.measurements`), and what names it."""

INTERVAL = ("estimate", "low", "high")
"""An estimate and its 95 % interval."""

_TEXTS = (
    *FAILURE_COLUMNS, "phase", "provenance", "host", "gpu_name", "machine", "status", "precision",
    "memory_format", "optimizer", "input_path", "device", "resolved_device", "dataset", "sources",
    "absent", "component", "setting", "quantity", "reference", "between", "first", "second",
    "method", "limit", "predictor", "other", "level", "factor", "attention", "cache", "unit",
    "other_level", "other_reference", "enclosing",
)  # fmt: skip
_WHOLE_NUMBERS = (
    "batch_size", "repeat", "epochs", "samples", "steps", "vram_peak_bytes", "parameters",
    "trainable_parameters", "buffer_bytes", "size_bytes", "macs", "block", "order", "operators",
    "epoch", "group", "family", "n", "last_epochs", "repeats", "models_above", "best_batch_size",
    "floor_batch_size", "floor_low", "floor_high", "smallest_batch_size", "largest_batch_size",
    "cells", "tokens", "prompt_tokens", "output_tokens",
)  # fmt: skip
_FLAGS = (
    "compile", "cudnn_benchmark", "complete", "off_rule", "above_knee", "shown", "best",
    "at_floor", "on_front", "equal_to_best", "shared", "to_least", "to_choice",
    "first_setting", "less_accurate",
)  # fmt: skip
_TYPES: Mapping[str, str] = {
    **dict.fromkeys(_TEXTS, "string"),
    **dict.fromkeys(_WHOLE_NUMBERS, "Int64"),
    **dict.fromkeys(_FLAGS, "boolean"),
}
"""Type of each column, the same in all tables; all others are ``float64``. A missing value is NA,
or NaN in ``float64``."""

PHASES: Mapping[str, str] = {
    "train": "training",
    "infer": "inference",
    "prefill": "prefill",
    "decode": "decoding",
}
"""Phases and their names."""


class PhasePair(NamedTuple):
    """Two phases that are compared, and their ratio by a rule of thumb, or 1 if there is none."""

    first: str
    second: str
    rule: float

    @property
    def id(self) -> str:
        """Start of the last part of a finding's id; empty for training and inference."""
        return "" if self.second == "infer" else f"{self.first}-{self.second}."


PHASE_PAIRS = (
    PhasePair("train", "infer", 3.0),
    PhasePair("train", "prefill", 3.0),
    PhasePair("decode", "prefill", 1.0),
)
"""Pairs of phases. Training over inference in time is 3 by the paper's rule of thumb (section V-A);
in operations, the forward pass of a language model is a third of its training, too (J. Kaplan et
al., Scaling Laws for Neural Language Models, 2020, section 2.1)."""

ENERGIES: Mapping[str, str] = {"net": "net_j_per_unit", "gross": "gross_j_per_unit"}
"""Energies of a unit of work, and their columns."""

QUANTITIES: Mapping[str, str] = {"time": "duration_s_per_unit", **ENERGIES}
"""Time and energies of a unit of work, and their columns."""

NAMES: Mapping[str, str] = {
    "time": "time",
    "net": "net energy",
    "gross": "gross energy",
    "macs_per_parameter": "MACs per parameter",
    "macs": "MACs",
    "parameters": "parameters",
    "size_bytes": "size in bytes",
    "operators": "number of operators",
}
"""Names of quantities and of models' characteristics."""

ALPHA = 0.05
"""A p-value below this is significant: the 95 % level of the intervals."""

PERCENT_DECIMALS = 6
"""A change or scatter of less than this many decimals of a percent is that of rounding."""

_JSON_FIELDS = (
    "id", "question", "statement", "estimate", "low", "high", "n", "unit", "study", "setting",
    "figure", "detail", "significant",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer to a question, with its interval. Unknown values are NaN."""

    id: str  # Stable over studies, for example ``"spearman.train.net.macs_per_parameter"``.
    question: str  # What a reader asks.
    # One to three sentences made from the values: the answer, its uncertainty, and what would
    # reduce it. Never claims more than the interval supports.
    statement: str
    answer: str = ""  # One sentence that can stand alone; by default the first of the statement.
    estimate: float = math.nan  # The value that answers the question.
    low: float = math.nan  # Lower end of its 95 % interval.
    high: float = math.nan  # Upper end.
    n: int = 0  # Number of independent points (models, pairs or repeats, as the statement says).
    unit: str = "1"  # Unit of the estimate; ``"1"`` for a plain number.
    study: str = ""  # Label of its study; empty for a finding over several.
    setting: str = ""  # The levels of the factors that vary, for example ``"batch size 128"``.
    figure: str = ""  # Name of the figure that shows it; empty for none.
    # Whether it is one of a family (for example one correlation of many), which a page lists in a
    # table.
    detail: bool = False
    groups: tuple[int, ...] = ()  # The groups of comparable rows that it is about; empty for all.
    phase: str = ""  # ``"train"`` or ``"infer"``; empty for both.
    quantity: str = ""  # ``"net"``, ``"gross"`` or ``"time"``; empty for none or all.
    # Whether what it states is significant, after the correction for all that is tested with it;
    # ``None`` if nothing was tested.
    significant: bool | None = None

    @classmethod
    def about(
        cls, row: Mapping[str, Any], name: str, question: str, texts: Iterable[str], **fields: Any
    ) -> Self:
        """Make a finding about a row of a table, whose values it takes unless they are given.

        Args:
            row: Columns as the attributes; ``group`` is the only one of ``groups``.
            name: The id.
            question: What a reader asks.
            texts: Sentences of the statement, without capital and full stop.
            fields: Other attributes.
        """
        names = ("estimate", "low", "high", "n", "study", "setting", "phase", "quantity")
        known = {name: row[name] for name in names if name in row and not pd.isna(row[name])}
        groups = () if pd.isna(row.get("group")) else (int(row["group"]),)
        sentences = [sentence(text) for text in texts if text]
        own = {"statement": " ".join(sentences), "answer": sentences[0], "groups": groups}
        return cls(id=name, question=question, **own | known | fields)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of ``findings.json``; NaN becomes ``None``."""
        return {name: finite_or_none(getattr(self, name)) for name in _JSON_FIELDS}


def findings_json(findings: Sequence[Finding]) -> bytes:
    r"""Return the content of ``findings.json``: a list with one object for each finding.

    Example:
        >>> findings_json([])
        b'[]\n'
    """
    text = json.dumps([finding.to_json() for finding in findings], indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table of exactly these columns; what a row lacks is missing.

    Example:
        >>> frame([{"n": 3, "other": "macs"}], ["n", "low"]).to_dict("records")
        [{'n': 3, 'low': nan}]
    """
    rows = list(rows)
    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=_TYPES.get(name, "float64"))
            for name in columns
        }
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries by column.

    Example:
        >>> records(frame([{"n": 3}], ["n"]))
        [{'n': 3}]
    """
    names = [str(name) for name in table.columns]
    columns = [table[name].tolist() for name in table.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
