"""What the callbacks of all frameworks have in common: spans that follow hooks, and energies."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple, Self, TypeVar

from joulelab.batches import UNKNOWN_TOKENS, Tokens, count_tokens
from joulelab.errors import JoulelabError
from joulelab.forecast.loop import EpochForecaster, LoopTuner, Tuning
from joulelab.format import count, duration, quantity
from joulelab.integrations.metrics import (
    Epoch,
    Metrics,
    energy_metrics,
    epoch_metrics,
    in_wh,
    known,
    stage_energy,
    stage_metrics,
)
from joulelab.loops import print_summary, summary_lines, token_lines
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.spans import Span
from joulelab.recording.trace_spans import TraceSpan, Window

T = TypeVar("T")

TOTALS = ("total_gross_j", "total_job_j", "total_carbon_g")
"""Metrics of the fit so far that are logged with an epoch."""
COUNTED = ("epoch", "validate", "test", "predict")
"""Spans whose tokens are counted, each without those of the spans within it."""
PARTS = {"epoch": "train", "validate": "validate", "checkpoint": "checkpoint"}
"""Spans of the parts of a fit, each without the others within it, and the parts' names."""
WAIT_FOR_PROCESSES_S = 1.0
POLL_S = 0.05
"""Longest time to wait for the numbers of tokens of a host's other processes, and between polls."""


class HookSpans:
    """Spans that follow a framework's hooks, which are called in pairs only while nothing fails.

    The first span opens a meter unless one is given, and :meth:`close` closes it. If it cannot be
    opened, there is a warning and the training continues without it.

    Attributes:
        tokens_in: Counts the tokens of a batch.
        processes: Number of processes of the training on this host; NaN if it is unknown.
        replicas: Number of them that train on batches of their own.
        finished: Spans of parts of the latest attempt of a fit.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.tokens_in: Callable[[Any], Any] = count_tokens
        self.processes = self.replicas = 1.0
        self.finished: list[Span] = []
        self._tokens: dict[Span, Tokens] = {}
        self.meter = meter
        self._is_given = self._is_recording = meter is not None
        self._open: list[Span] = []
        self._last_hook_ns = 0

    def begin(self, name: str, /, **attributes: Any) -> Span | None:
        """Begin a span within the innermost open one; return ``None`` if nothing is measured."""
        if not self._is_recording:
            self._is_recording = True
            try:
                self.meter = Meter()
            except (JoulelabError, OSError) as error:
                self.meter = None
                warnings.warn(f"energy is not measured: {error}", RuntimeWarning, stacklevel=3)
        if self.meter is None:
            return None
        span = self.meter.begin(name, **attributes)
        self._open.append(span)
        self._last_hook_ns = span.start_ns
        return span

    def end(self, name: str, stop_ns: int | None = None) -> Span | None:
        """End the innermost open span of that name, and all within it, now or at ``stop_ns``."""
        span = self.find(name)
        while span is not None:
            innermost = self._open.pop()
            if innermost in self._tokens:
                unknown: dict[str, float] = {}
                counted = self._attempt(self._tokens.pop(innermost).attributes, unknown)
                # Another thread may be reading the attributes.
                innermost.attributes = innermost.attributes | counted
            if innermost.stop_ns is None:
                innermost.end(stop_ns)
            if innermost.name in PARTS:
                self.finished.append(innermost)
            if innermost is span:
                self._last_hook_ns = span.stop_ns or 0
                break
        return span

    def count(self, batch: Any) -> Tokens:
        """Count the tokens of a batch, which the framework may change when it is processed."""

        def counted() -> Tokens:
            tokens = self.tokens_in(batch)
            return tokens if isinstance(tokens, Tokens) else Tokens(tokens)

        return self._attempt(counted, UNKNOWN_TOKENS)

    def add(self, tokens: Tokens) -> None:
        """Add the tokens of a batch that was processed to the innermost span that counts them."""
        span = next((span for span in reversed(self._open) if span.name in COUNTED), None)
        if span is not None:
            before = [self._tokens[span]] if span in self._tokens else []
            self._tokens[span] = self._attempt(
                lambda: Tokens.total([*before, tokens]), UNKNOWN_TOKENS
            )

    def _attempt(self, work: Callable[[], T], otherwise: T) -> T:
        """Count something. If that fails, warn once, and tokens are unknown from then on."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001  (the training must go on, whatever fails)
            warnings.warn(f"tokens are not counted: {error!r}", RuntimeWarning, stacklevel=5)
            self.tokens_in = lambda _: UNKNOWN_TOKENS
            return otherwise

    def tokens_so_far(self, name: str) -> Tokens:
        """Return the tokens of the innermost open span of that name; waits for the device."""
        span = self.find(name)
        tokens = UNKNOWN_TOKENS if span is None else self._tokens.get(span, UNKNOWN_TOKENS)
        unknown: dict[str, float] = {}
        return Tokens.of_attributes(self._attempt(tokens.attributes, unknown)).scaled(self.replicas)

    def host_tokens(self, spans: Sequence[Span]) -> list[Tokens]:
        """Return the tokens of finished spans, added up over the training's processes on this host.

        The spans of other processes are in the same recording, in the same order. If some do not
        arrive, there is a warning, and each process counts as this one.
        """
        own = [Tokens.of_attributes(span.attributes).scaled(self.replicas) for span in spans]
        if not self.processes > 1 or all(math.isnan(one.processed) for one in own):
            return own
        until_s = time.monotonic() + WAIT_FOR_PROCESSES_S
        while (found := self._of_all_processes(spans)) is None:
            if time.monotonic() > until_s:
                warnings.warn(
                    "the tokens of other processes are unknown: each counts as many as this one",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.processes = 1.0
                return own
            time.sleep(POLL_S)
        return [one.scaled(self.replicas / self.processes) for one in found]

    def _of_all_processes(self, spans: Sequence[Span]) -> list[Tokens] | None:
        """Return the sum over the host's processes for each span; ``None`` if some are missing."""
        if self.meter is None:
            return None
        recorded = SpanColumns.of(self.meter.trace.spans)
        by_name: dict[str, dict[int, list[TraceSpan]]] = {}
        for name in {span.name for span in spans}:
            series = by_name.setdefault(name, {})
            for one in recorded.named(name):
                series.setdefault(one.key[0], []).append(one)
        sums = []
        for span in spans:
            processes = by_name[span.name]
            mine = [one.key[1] for one in processes.get(os.getpid(), ())]
            if span.index not in mine:
                return None
            position = mine.index(span.index)
            same = [
                Tokens.of_attributes(series[position].attributes)
                for series in processes.values()
                if len(series) > position and series[position].stop_ns
            ]
            if len(same) != self.processes:
                return None
            sums.append(Tokens.total(same))
        return sums

    def find(self, name: str) -> Span | None:
        """Return the innermost open span of that name."""
        return next((span for span in reversed(self._open) if span.name == name), None)

    def end_all(self) -> None:
        """End all open spans."""
        while self._open:
            self.end(self._open[0].name)

    def end_at_last_hook(self) -> None:
        """End the spans of a failed call, whose end the framework did not report."""
        if not self._open:
            return
        name, last_ns = self._open[0].name, self._last_hook_ns
        while self._open:
            self.end(self._open[0].name, last_ns)
        unseen_s = (time.monotonic_ns() - last_ns) * 1e-9
        warnings.warn(
            f"{name} ended without notice: its energy counts until the last hook, "
            f"{duration(unseen_s)} ago; to measure a failed call whole, call close() after it",
            RuntimeWarning,
            stacklevel=4,
        )

    def close(self) -> None:
        """End all open spans, and the recording unless its meter is the user's."""
        self.end_all()
        if self._is_recording and not self._is_given:
            self._is_recording = False
            if self.meter is not None:
                self.meter.close()


class FinishedFit(NamedTuple):
    """The metrics of a fit, and its summary for people."""

    metrics: Metrics
    lines: Sequence[str]


class Fit:
    """A training: its epochs, their energies, and a forecast if there is an end.

    The energy of an epoch is computed at its end or, if that would take more than 0.5 % of the
    training's time, together with those of later epochs. Only a process that ``logs`` computes any.
    """

    def __init__(
        self,
        spans: HookSpans,
        *,
        logs: bool = True,
        tune: Tuning | None = None,
        quiet: bool = False,
        **ends: float,
    ) -> None:
        self._spans, self._logs = spans, logs
        self._span = spans.find("fit") or spans.begin("fit")
        self._attempts: list[Span] = []
        self._tuner: LoopTuner | None = None
        if tune is not None and spans.meter is not None:
            self._tuner = tune.start(spans.meter, quiet=quiet)
        self._begin(**ends)

    def _begin(self, total_epochs: float = math.inf, total_steps: float = math.inf) -> None:
        """Begin to count and forecast epochs."""
        self._total_epochs, self._total_steps = total_epochs, total_steps
        self._pending: list[Epoch] = []
        self._validations: list[Span] = []
        self._spans.finished.clear()
        self._first_step = self._steps_per_epoch = self._epochs = 0
        self._recent_ns, self._recent_tokens = time.monotonic_ns(), 0.0
        self._forecaster: EpochForecaster | None = None
        if self._logs and self._span is not None and self._spans.meter is not None:
            has_end = math.isfinite(min(total_epochs, total_steps))
            since_ns = time.monotonic_ns()
            self._forecaster = EpochForecaster(self._spans.meter, since_ns, wanted=has_end)
        self._begin_ns = time.monotonic_ns()

    def begin_attempt(self, **ends: float) -> None:
        """Begin an attempt of a framework that may repeat a failed training in the same call.

        Epochs of a failed attempt are not logged. Its energy is part of the fit.
        """
        self._spans.end("attempt")
        attempt = self._spans.begin("attempt", index=len(self._attempts))
        if attempt is not None:
            self._attempts.append(attempt)
        self._begin(**ends)

    @property
    def in_epoch(self) -> bool:
        """Whether an epoch is open."""
        return self._spans.find("epoch") is not None

    def begin_epoch(self, index: int, step: int) -> None:
        """Begin an epoch, after this many optimiser steps."""
        if self._tuner is not None:
            self._tuner.begin_epoch()
        self._first_step, self._validations = step, []
        self._recent_ns, self._recent_tokens = time.monotonic_ns(), 0.0
        total = self._total_epochs
        known_total = {"total": int(total)} if float(total).is_integer() else {}
        self._spans.begin("epoch", index=index, **known_total)

    def end_epoch(self, epoch: float, step: int, samples: float = math.nan) -> None:
        """End the epoch; see :class:`~joulelab.integrations.metrics.Epoch`."""
        span = self._spans.end("epoch")
        if span is None:
            return
        self._epochs += 1
        self._steps_per_epoch = max(self._steps_per_epoch, step - self._first_step)
        self._pending.append(Epoch(span, epoch, step, samples, self._validations))

    def begin_validation(self) -> None:
        """Begin a validation; an open step ends."""
        if self._spans.find("validate") is None:
            self._spans.end("step")
            self._spans.begin("validate")

    def end_validation(self) -> None:
        """End a validation."""
        span = self._spans.end("validate")
        if span is not None:
            self._validations.append(span)

    def new_metrics(self, *, now: bool = False) -> list[tuple[Epoch, Metrics]]:
        """Return the epochs whose energies are computed now (all, if ``now``), with their metrics.

        In addition to :func:`~joulelab.integrations.metrics.epoch_metrics` there is the energy of
        the fit so far and, if the end is known, a forecast of the fit.
        """
        forecaster, epochs = self._forecaster, self._pending
        if forecaster is None or forecaster.stopped or not epochs:
            return []
        if not (now or forecaster.pace.due):
            return []
        self._pending = []
        work = partial(self._metrics, forecaster, epochs)
        rows = forecaster.attempt(work, "no more energies are logged", 3) or []
        return list(zip(epochs, rows, strict=False))

    def recent_metrics(self) -> Metrics:
        """Return the energy per token of the steps since the last time, if it is computed now.

        In a job of several processes, each counts as many tokens as this one.
        """
        forecaster = self._forecaster
        if forecaster is None or forecaster.stopped or not forecaster.pace.due or not self.in_epoch:
            return {}
        counted = self._spans.tokens_so_far("epoch").processed
        if not counted > self._recent_tokens:
            return {}
        assert self._spans.meter is not None
        tokens, self._recent_tokens = counted - self._recent_tokens, counted
        window = Window(self._recent_ns, time.monotonic_ns())
        self._recent_ns = window.stop_ns
        within = [one for one in self._validations if one.start_ns > window.start_ns]
        work = partial(self._spans.meter.energies, [window, *within])
        energies = forecaster.attempt(work, "no more energies are logged", 3)
        if energies is None:
            return {}
        whole_j, *within_j = (one.gross_j for one in energies)
        train_j = whole_j - math.fsum(within_j)
        return known({"recent_tokens": tokens, "recent_j_per_token": train_j / tokens})

    def end_tuning(self) -> None:
        """Restore the devices."""
        if self._tuner is not None:
            self._tuner.close()

    def end(self, *, failed: bool = False) -> FinishedFit | None:
        """End the fit and all within it; return its energy, if this process logs it."""
        self.end_tuning()
        self._spans.end("fit")
        if self._forecaster is None or self._forecaster.stopped or self._span is None:
            return None
        energy = stage_energy(self._span)
        if energy is None:
            return None
        attempts = self._attempts if failed else self._attempts[:-1]
        # Tokens of failed attempts would make a token cheaper than it was.
        spans = [] if attempts and failed else self._spans.finished
        epochs = [span for span in spans if span.name == "epoch"]
        tokens = Tokens.total(self._spans.host_tokens(epochs))
        metrics = stage_metrics("fit", self._span, energy, tokens)
        parts = self._parts(spans, attempts, energy.gross_j)
        metrics |= known({f"fit_{name}_gross_j": part_j for name, part_j in parts.items()})
        train_j = parts.get("train", math.nan)
        metrics |= known({"fit_train_j_per_token": train_j / (tokens.processed or math.nan)})
        lines = [*summary_lines(energy), *token_lines(energy, tokens.processed)]
        if attempts:
            metrics["fit_failed_attempts"] = float(len(attempts))
            failed_s = math.fsum(attempt.duration_s for attempt in attempts)
            lines.append(
                f"{count(len(attempts), 'attempt')} failed and used "
                f"{quantity(parts.get('failed'), 'J')} of it in {duration(failed_s)}; "
                "their tokens do not count"
            )
        return FinishedFit(metrics, lines)

    def _parts(
        self, spans: Sequence[Span], attempts: Sequence[Span], gross_j: float
    ) -> dict[str, float]:
        """Divide the energy of the fit into parts: every joule is in one of them.

        ``other`` is what happened before and between the other parts.
        """
        if self._spans.meter is None or math.isnan(gross_j):
            return {}
        parts_j: dict[str, float] = {}
        enclosing: list[Span] = []
        energies = self._spans.meter.energies([*spans, *attempts])
        pairs = zip(spans, energies, strict=False)
        for span, energy in sorted(pairs, key=lambda pair: pair[0].start_ns):
            while enclosing and (enclosing[-1].stop_ns or 0) <= span.start_ns:
                enclosing.pop()
            if enclosing:
                parts_j[PARTS[enclosing[-1].name]] -= energy.gross_j
            enclosing.append(span)
            part = PARTS[span.name]
            parts_j[part] = parts_j.get(part, 0.0) + energy.gross_j
        if attempts:
            parts_j["failed"] = math.fsum(one.gross_j for one in energies[len(spans) :])
        return parts_j | {"other": gross_j - math.fsum(parts_j.values())}

    def _metrics(self, forecaster: EpochForecaster, epochs: Sequence[Epoch]) -> list[Metrics]:
        by_steps = self._total_steps / self._steps_per_epoch if self._steps_per_epoch else math.inf
        total_epochs = min(self._total_epochs, by_steps)
        forecast = None
        if forecaster.possible and self._epochs < total_epochs < math.inf:
            forecast = forecaster.profile().forecast(total_epochs)
        assert self._spans.meter is not None
        assert self._span is not None
        start_ns = self._span.start_ns
        spans: list[Span | Window] = [Window(start_ns, self._begin_ns)]
        for epoch in epochs:
            spans += (Window(start_ns, epoch.span.stop_ns or start_ns), epoch.span)
            spans += epoch.validations
        counted = [span for epoch in epochs for span in (epoch.span, *epoch.validations)]
        tokens = iter(self._spans.host_tokens(counted))
        energies = iter(self._spans.meter.energies(spans))
        before_j = next(energies).gross_j
        rows = []
        for epoch in epochs:
            so_far, whole, trained = next(energies), next(energies), next(tokens)
            validations = [next(energies) for _ in epoch.validations]
            validated = Tokens.total(next(tokens) for _ in epoch.validations)
            row = epoch_metrics(epoch, whole, validations, trained, validated)
            total = energy_metrics("total", so_far, epoch.span)
            rows.append(row | {name: total[name] for name in TOTALS if name in total})
        if forecast is not None:
            ends_j = {"low_j": forecast.gross_low_j, "high_j": forecast.gross_high_j}
            values_j = {"gross_j": forecast.gross_j, **ends_j}
            rows[-1] |= known(
                {
                    f"forecast_{name}": max(so_far.gross_j, before_j + epochs_j)
                    for name, epochs_j in values_j.items()
                }
            )
        return rows


class EnergyHooks:
    """A callback that measures what its framework does.

    As a context manager it ends what a failure of the framework left open.

    Args:
        meter: Meter to use. Default: a new one for each call of the framework.
        steps: Whether to record a span for each step, which takes about 0.5 kB of memory.
        forecast: Whether to forecast the fit; needs SciPy.
        wh: Whether to log gross energies in Wh, too.
        quiet: Whether to leave out the summary at the end of a fit, and the result of tuning.
        tune: Lower the energy of a fit while it runs: a :class:`joulelab.Tune`.

    Attributes:
        history: All logged metrics, one dictionary per epoch and stage.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        steps: bool = True,
        forecast: bool = True,
        wh: bool = False,
        quiet: bool = False,
        tune: Tuning | None = None,
    ) -> None:
        super().__init__()
        self._spans = HookSpans(meter)
        self._steps, self._forecast, self._wh, self._quiet = steps, forecast, wh, quiet
        self._tune = tune
        self._fit: Fit | None = None
        self.history: list[Metrics] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def meter(self) -> Meter | None:
        """Meter of the framework's latest call; ``None`` if nothing was measured."""
        return self._spans.meter

    def close(self) -> None:
        """End all open spans and the recording."""
        if self._fit is not None:
            self._fit.end_tuning()
        self._fit = None
        self._spans.close()

    def _begin_fit(self, *, logs: bool = True, **ends: float) -> Fit:
        """Begin a fit, which ends after a number of epochs or steps if they are known."""
        return Fit(self._spans, logs=logs, tune=self._tune, quiet=self._quiet, **ends)

    def _begin_call(self) -> None:
        """End what a failed call of the framework left open, before the next one begins."""
        self._spans.end_at_last_hook()
        self.close()

    def _end_fit(self, *, failed: bool = False) -> Metrics:
        """End the fit, show its summary and return its metrics."""
        fit, self._fit = self._fit, None
        finished = None if fit is None else fit.end(failed=failed)
        if finished is None:
            return {}
        if not self._quiet:
            self._show(finished.lines)
        return finished.metrics

    def _show(self, lines: Sequence[str]) -> None:
        print_summary(lines)

    def _in_units(self, row: Metrics) -> Metrics:
        """Return a row as it is logged."""
        return row | in_wh(row) if self._wh else row


def should_record(*, first: bool) -> bool:
    """Whether this process records spans: the host's first, and any process of a launched job.

    Processes of a job share one recorder per host. Others would start one each.
    """
    return first or current_launch() is not None


def wrap_method(
    owner: object, method: str, begin: Callable[[], object], end: Callable[[], object]
) -> Callable[[], None]:
    """Call functions before and after a method, even if it fails; return how to restore it.

    Frameworks have no hook after saving a checkpoint, and none where a call fails.
    """
    original = getattr(owner, method)

    @wraps(original)
    def wrapped(*args: Any, **options: Any) -> Any:
        begin()
        try:
            return original(*args, **options)
        finally:
            end()

    return _replace(owner, method, wrapped)


def wrap_step(owner: object, method: str, spans: HookSpans) -> Callable[[], None]:
    """Count the tokens of the batches that a method of a model and a batch processes.

    Return how to restore the method. Only batches whose processing did not fail count.
    """
    original = getattr(owner, method)

    @wraps(original)
    def wrapped(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        tokens = spans.count(inputs)
        result = original(model, inputs, *args, **options)
        spans.add(tokens)
        return result

    return _replace(owner, method, wrapped)


def _replace(owner: object, method: str, wrapped: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method of one object; return how to restore it."""
    own = vars(owner)
    before = {method: own[method]} if method in own else {}

    def restore() -> None:
        if own.get(method) is wrapped:
            delattr(owner, method)
            own.update(before)

    setattr(owner, method, wrapped)
    return restore
