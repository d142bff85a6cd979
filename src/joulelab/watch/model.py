"""What a person who watches is shown: frozen figures, worked out of a trace by the accounting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

from joulelab.carbon.costs import Costs
from joulelab.energy.energy import Energy
from joulelab.runs.record import SpanTotal
from joulelab.sensors.sensor import Quantity

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast

BIN_S = 2.0
"""Length of a step of the history: NVML's ring of readings is emptied that often."""

State = Literal["waiting", "live", "ended", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component's power. What was not measured is NaN.

    Attributes:
        name: As ``"gpu:0"``.
        power_w: Over about the last second that its sensors have covered.
        history_w: Mean power of each step of :data:`BIN_S`, the last one last; NaN is a gap.
        gross_j: Since the beginning.
        source: The channel that it comes from.
        provenance: As ``"measured"``.
    """

    name: str
    power_w: float
    history_w: tuple[float, ...]
    gross_j: float
    source: str
    provenance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """The last reading of something that is no power.

    Attributes:
        component: As ``"gpu:0"`` or ``"host"``.
        quantity: Its value ends in the unit.
        value: In that unit; NaN when the sensor gives nothing.
    """

    component: str
    quantity: Quantity
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSpan:
    """A span that has not ended.

    Attributes:
        name: As the program gave it.
        index: Its attribute of that name; ``None`` when it has none.
        total: How many there will be, where the program said so.
        elapsed_s: Since it began.
    """

    name: str
    index: int | None
    total: int | None
    elapsed_s: float

    @property
    def label(self) -> str:
        """Its name, and which one it is.

        Example:
            >>> OpenSpan(name="epoch", index=3, total=10, elapsed_s=1.0).label
            'epoch 4/10'
            >>> OpenSpan(name="step", index=3, total=None, elapsed_s=1.0).label
            'step #3'
        """
        if self.index is None:
            return self.name
        if self.total is None:
            return f"{self.name} #{self.index}"
        return f"{self.name} {self.index + 1}/{self.total}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The open spans of one thread, the outermost first.

    Attributes:
        pid: Of its process.
        spans: At least one.
    """

    pid: int
    spans: tuple[OpenSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The spans of one name that ended and whose readings are there.

    Attributes:
        name: Of the spans.
        count: How many.
        duration_s: Of all together.
        energy: Of all together; ``None`` when there are too many to add up, or what gave their
            readings changed.
        last_duration_s: Of the one that ended last; NaN when it is not known.
        last: Its energy; ``None`` when it is not known.
    """

    name: str
    count: int
    duration_s: float
    energy: Energy | SpanTotal | None = None
    last_duration_s: float = math.nan
    last: Energy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """How a study stands.

    Attributes:
        name: The plan's.
        cells: All that it has.
        done: Cells that are recorded, failed ones included.
        failed: Those that failed.
        running: The run under way; empty when there is none.
        running_s: How long it has been.
        spent: Time and energy of all finished runs, in words.
        to_go: What the missing cells will take, in words; empty when nobody can say.
        last: The last finished runs, a line each, the last one last.
    """

    name: str
    cells: int
    done: int
    failed: int
    running: str
    running_s: float
    spent: str
    to_go: str
    last: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that is shown at one time. What was not measured is NaN or absent.

    Attributes:
        title: What is watched.
        detail: More of it, as a job's command.
        state: ``"waiting"`` for the first readings, ``"live"``, ``"ended"``, or ``"lost"`` when
            the recorder is gone and did not say why.
        state_words: How it ended, or why it waits.
        elapsed_s: Since the beginning, or how long it took; NaN where nobody knows, and of a study.
        components: Those that power is known of, in order.
        power_w: Of all together; NaN while one of them is not known.
        energy: Since the beginning; ``None`` before the first readings.
        job_words: What part of it is the job's, where others used the machine, too.
        gauges: Utilisation, memory, temperature, clocks.
        stacks: The open spans of each thread.
        ended: The spans that ended, by name, the one that ended last first.
        forecast: Of the whole run, where its epochs and their number are known.
        forecast_words: The forecast, or why there is none; may be empty.
        costs: Carbon and price of the energy; ``None`` before the first readings.
        absent: Why each missing component is missing.
        notes: What happened that a person should know of.
        study: How the study stands, where one is watched.
        hints: What else can be watched.
    """

    title: str
    detail: str = ""
    state: State
    state_words: str = ""
    elapsed_s: float = math.nan
    components: tuple[Component, ...] = ()
    power_w: float = math.nan
    energy: Energy | None = None
    job_words: str = ""
    gauges: tuple[Gauge, ...] = ()
    stacks: tuple[Stack, ...] = ()
    ended: tuple[Ended, ...] = ()
    forecast: Forecast | None = None
    forecast_words: str = ""
    costs: Costs | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    study: Study | None = None
    hints: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every figure; NaN becomes ``None``."""
        data = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return data | {"bin_s": BIN_S}


def total_history(components: Sequence[Component]) -> tuple[float, ...]:
    """The power of all components together; NaN where one of them has a gap.

    Example:
        >>> gpu = Component(name="gpu:0", power_w=1.0, history_w=(math.nan, 2.0), gross_j=1.0,
        ...     source="", provenance="measured")
        >>> total_history((gpu, gpu))
        (nan, 4.0)
    """
    return tuple(map(math.fsum, zip(*(one.history_w for one in components), strict=True)))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
