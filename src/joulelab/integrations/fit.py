"""A training that a framework runs: the energy of its epochs and parts, and a forecast."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from joulelab.batches import Tokens
from joulelab.forecast.loop import EpochForecaster, LoopTuner, Tuning
from joulelab.format import count, duration, quantity
from joulelab.integrations.hook_spans import PARTS, HookSpans
from joulelab.integrations.metrics import (
    Epoch,
    Metrics,
    energy_metrics,
    epoch_metrics,
    known,
    stage_energy,
    stage_metrics,
)
from joulelab.loops import summary_lines, token_lines
from joulelab.recording.spans import Span
from joulelab.recording.trace_spans import Window

TOTALS = ("total_gross_j", "total_job_j", "total_carbon_g")
"""Metrics of the fit so far that are logged with an epoch."""


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

    def end_epoch(
        self, epoch: float, step: int, samples: float = math.nan, logged_at: int | None = None
    ) -> None:
        """End the epoch; see :class:`~joulelab.integrations.metrics.Epoch`.

        ``logged_at`` is the step under which the framework logs the end of this epoch.
        """
        span = self._spans.find("epoch")
        if span is not None and logged_at is not None:
            span.attributes = span.attributes | {"step": logged_at}
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
        counted = self._spans.epoch_tokens().processed
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
