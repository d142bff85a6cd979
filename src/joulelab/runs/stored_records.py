"""What ``run.json`` contains, and which values it may have.

Values that are not known are null. Derived values, which are written for other programs, are not
read.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required, TypedDict

from joulelab.energy.baseline import IdlePoint
from joulelab.energy.data_exchange import StoredExchange
from joulelab.energy.energy import StoredEnergy
from joulelab.machine import Machine
from joulelab.validation import Count, Finite, Nanoseconds, NotNegative, UnixTime

Kind = Literal["command", "meter", "study"]
Status = Literal["done", "failed", "unfinished"]


class StoredSpanTotal(TypedDict):
    """The total of the spans of one name."""

    name: str
    count: Count
    duration_s: NotNegative | None
    gross_j: NotNegative | None
    low_j: Finite | None
    high_j: NotNegative | None
    net_j: Finite | None
    data: NotRequired[StoredExchange | None]


class StoredSpan(TypedDict):
    """A measured span of a study run."""

    name: str
    attributes: dict[str, Any]
    start_ns: Nanoseconds
    stop_ns: Nanoseconds
    energy: StoredEnergy | None


class StoredValues(TypedDict, total=False):
    """Values of a phase, an epoch, a model or a cell: the columns of a study's tables."""

    batch_size: Count | None
    epochs: Count | None
    samples: Count | None
    steps: Count | None
    vram_peak_bytes: Count | None
    parameters: Count | None
    trainable_parameters: Count | None
    buffer_bytes: Count | None
    size_bytes: Count | None
    macs: Count | None
    operators: Count | None
    duration_s: NotNegative | None
    data_wait_s: NotNegative | None
    loss: float | None
    accuracy_pct: Finite | None
    train_accuracy_pct: Finite | None
    gpu_utilization_pct: Finite | None
    memory_utilization_pct: Finite | None
    cpu_utilization_pct: Finite | None
    macs_per_parameter: NotNegative | None
    power_limit_w: NotNegative | None
    clock_mhz: NotNegative | None
    compile: bool | None
    cudnn_benchmark: bool | None
    model: str | None
    precision: str | None
    memory_format: str | None
    optimizer: str | None
    input_path: str | None
    device: str | None
    resolved_device: str | None
    dataset: str | None


class StoredPhase(StoredValues, total=False):
    """A phase of a study run, together with its :class:`StoredValues`."""

    complete: bool
    energy: Required[StoredEnergy | None]


class StoredEpoch(StoredPhase, total=False):
    """One epoch of a study run."""

    phase: Required[str]
    index: int


class StoredRecord(TypedDict, total=False):
    """The part that all runs have."""

    id: Required[str]
    kind: Required[Kind]
    status: Required[Status]
    name: Required[str]
    command: tuple[str, ...] | None
    project: str | None
    phase: str | None
    tags: dict[str, str] | None
    model: str | None
    factors: dict[str, Any] | None
    host: Required[str]
    machine: Machine | None
    boot_id: str | None
    pid: int | None
    settings: dict[str, Any] | None
    started_unix_s: UnixTime | None
    ended_unix_s: UnixTime | None
    duration_s: NotNegative | None
    start_ns: Nanoseconds | None
    failure: dict[str, str] | None
    exit_code: int | None
    signal: int | None
    energy: StoredEnergy | None
    spans: tuple[StoredSpanTotal, ...] | None
    exchanged: StoredExchange | None
    baseline: tuple[IdlePoint, ...] | None
    inside: str | None
    notes: tuple[str, ...] | None


class StoredStudyPart(TypedDict):
    """The part that only runs of a study have."""

    study: str
    idle: bool
    block: Count
    order: Count | None
    repeat: Count
    seed: int | None
    phases: tuple[str, ...]
    factors: NotRequired[StoredValues | None]
    characteristics: StoredValues | None
    data: dict[str, Any]
    results: dict[str, StoredPhase]
    epochs: list[StoredEpoch]
    measured: list[StoredSpan]
