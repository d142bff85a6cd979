"""Trainings that recur: each run takes a batch size that promises the least energy to the target.

A run is measured and saved by ``joulelab run`` like any other. What matters for the next one stands
in its tags, so there is no other state:

    recurring=NAME  batch_size=64  target=accuracy=0.9  outcome=reached  energy_to_target_j=12345.6
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import JoulelabError, TraceError, UserError
from joulelab.format import quantity, slug
from joulelab.recording.trace import TraceReader
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs import new_run_id
from joulelab.runs.record import read_record, read_run, saved_run_directories, write_record
from joulelab.storage import home
from joulelab.tune.thompson import STOP_FACTOR, Attempt, Outcome, choose_batch_size, most_energy_j

PLACEHOLDER = "{batch_size}"
POLL_S = 1.0
POLL_SHARE = 0.01
"""The energy of a long run is computed less often: a hundred times in all."""
GRACE_S = 15.0
"""A program that does not end this long after SIGTERM is killed."""
_TARGET = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|=)\s*(.+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A value that a metric of the training must reach."""

    metric: str  # Name of an attribute of a span.
    value: float  # What it must reach.
    is_at_most: bool = False  # Whether less is better.

    def is_reached_by(self, span: TraceSpan) -> bool:
        """Report whether a finished span has a value that reaches the target."""
        value = span.attributes.get(self.metric)
        if span.stop_ns is None or isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value <= self.value if self.is_at_most else value >= self.value

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.is_at_most else '='}{self.value:g}"


def parse_target(text: str) -> Target:
    """Parse ``METRIC=VALUE``, which is reached from the value on, or ``METRIC<=VALUE``.

    Raises:
        UserError: It is neither.

    Example:
        >>> parse_target("accuracy=0.9"), str(parse_target("loss <= 0.25"))
        (Target(metric='accuracy', value=0.9, is_at_most=False), 'loss<=0.25')
    """
    found = _TARGET.fullmatch(text)
    try:
        assert found is not None
        return Target(found[1], float(found[3]), is_at_most=found[2] == "<=")
    except (AssertionError, ValueError):
        raise UserError(
            f"{text!r} is no target", hint="write it as accuracy=0.9 or, if less is better, loss<=1"
        ) from None


@dataclass(frozen=True, slots=True)
class Job:
    """A training that recurs.

    Raises:
        UserError: No argument has the placeholder, or there are no batch sizes.
    """

    name: str  # Its name; runs of the same name and target learn from each other.
    batch_sizes: tuple[int, ...]  # Batch sizes to choose from.
    target: Target | None  # When it has succeeded. ``None``: when it ends with exit code 0.
    command: tuple[str, ...]  # Program and arguments, with ``{batch_size}`` in one of them.

    def __post_init__(self) -> None:
        if not any(PLACEHOLDER in argument for argument in self.command):
            raise UserError(
                f"no argument of the command has {PLACEHOLDER}",
                hint=f"write for example --batch-size {PLACEHOLDER}",
            )
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError("a batch size must be 1 or more", hint="give --batch-sizes 32,64,128")

    @property
    def target_text(self) -> str:
        """The target as the tags of runs have it."""
        return "exit code 0" if self.target is None else str(self.target)

    def history(self) -> list[Attempt]:
        """Return the earlier runs of this job, oldest first."""
        part = f"-{slug(self.name)}-"
        found = [path for root in saved_run_directories() for path in root.glob(f"*{part}*")]
        attempts = []
        for path in sorted(found, key=lambda one: one.name):
            with contextlib.suppress(JoulelabError, LookupError, ValueError):
                tags = (read_record(path) or {})["tags"]
                if (tags["recurring"], tags["target"]) == (self.name, self.target_text):
                    attempts.append(
                        Attempt(
                            int(tags["batch_size"]),
                            float(tags["energy_to_target_j"]),
                            tags["outcome"],
                        )
                    )
        return attempts


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What one recurrence of a job did: a run and its exit code, and runs stopped before it."""

    attempts: tuple[Attempt, ...]
    exit_code: int
    directory: Path


def run_recurrence(job: Job, seed: int | None = None) -> Iterator[Recurrence]:
    """Run the job and, if that run is stopped, again with other batch sizes.

    Yields:
        What was done so far, after each run; the last one is the whole recurrence.

    Raises:
        UserError: A run could not be measured, or did not report the metric.
    """
    rng = np.random.default_rng(seed)
    done: tuple[Attempt, ...] = ()
    left = set(job.batch_sizes)
    while left:
        history = job.history()
        batch_size = choose_batch_size(left, history, rng)
        attempt, exit_code, directory = _attempt(job, batch_size, most_energy_j(history))
        done = (*done, attempt)
        left.remove(batch_size)
        yield Recurrence(done, exit_code, directory)
        if attempt.outcome != "stopped":
            return


def _attempt(job: Job, batch_size: int, limit_j: float) -> tuple[Attempt, int, Path]:
    """Measure one run, stop it if it uses more than the limit, and save its outcome."""
    directory = home() / "runs" / new_run_id(job.name)
    tags = {"recurring": job.name, "batch_size": str(batch_size), "target": job.target_text}
    command = [argument.replace(PLACEHOLDER, str(batch_size)) for argument in job.command]
    options = [part for name, value in tags.items() for part in ("--tag", f"{name}={value}")]
    # Short runs count too, so the command waits until the sensors are read.
    options += ["--wait", "--name", job.name, "--out", str(directory)]
    process = subprocess.Popen([sys.executable, "-m", "joulelab", "run", *options, "--", *command])
    with _forwarding_signals(process):
        was_stopped = _wait(process, directory, limit_j, job.target)
    if not directory.is_dir():
        raise SystemExit(process.returncode)  # `joulelab run` has said why it did not start.
    run = read_run(directory)
    energy_j, has_metric = run.energy.gross_j, job.target is None
    outcome: Outcome = "reached" if run.exit_code == 0 else "failed"
    if job.target is not None:
        outcome = "missed" if run.exit_code == 0 else "failed"
        with contextlib.suppress(TraceError):
            trace = TraceReader(directory).read()
            has_metric = any(job.target.metric in span.attributes for span in trace.spans)
            reached_ns = _reached_ns(trace.spans, job.target)
            if reached_ns is not None and run.start_ns is not None:
                window = Window(run.start_ns, reached_ns)
                energy_j = EnergyEstimator(trace, run.baseline).energies([window])[0].gross_j
                outcome = "reached"
    if was_stopped and outcome != "reached":
        outcome = "stopped"
    if outcome != "failed" and not np.isfinite(energy_j):
        raise UserError(
            "the energy of the run is unknown, so nothing can be learned from it",
            hint="see what is measured here with `joulelab doctor`",
        )
    if outcome == "missed" and not has_metric:
        assert job.target is not None
        raise UserError(
            f"the program reported no {job.target.metric}",
            hint=f"call joulelab.report_metrics({job.target.metric}=value) in it",
        )
    record = read_record(directory)
    assert record is not None
    record["tags"] = record["tags"] | {"outcome": outcome, "energy_to_target_j": f"{energy_j:.6g}"}
    write_record(directory, record)
    return Attempt(batch_size, energy_j, outcome), process.returncode, directory


def _wait(
    process: subprocess.Popen[bytes], directory: Path, limit_j: float, target: Target | None
) -> bool:
    """Wait for the end of a run; return whether it was stopped since it used more than the limit.

    A run that has reached its target is left alone.
    """
    reader: TraceReader | None = None
    start_ns = time.monotonic_ns()
    while True:
        elapsed_s = (time.monotonic_ns() - start_ns) * 1e-9
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(POLL_S, POLL_SHARE * elapsed_s))
            return False
        if not np.isfinite(limit_j):
            continue
        with contextlib.suppress(TraceError):
            reader = reader or TraceReader(directory)
            trace = reader.read()
            if target is not None and _reached_ns(trace.spans, target) is not None:
                limit_j = np.inf
                continue
            window = Window(start_ns, time.monotonic_ns())
            used_j = EnergyEstimator(trace, None).energies([window])[0].gross_j
            if used_j > limit_j:
                sys.stderr.write(
                    f"joulelab: stopping this run after {quantity(used_j, 'J')}, "
                    f"{STOP_FACTOR:g} times what the best batch size needs\n"
                )
                _end(process, directory)
                return True


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """End the program of a run as gently as possible; the run itself ends with it."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pid = (read_record(directory) or {}).get("pid")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid or process.pid, signal.SIGKILL)
        process.wait()


def _reached_ns(spans: Sequence[TraceSpan], target: Target) -> int | None:
    """When the first span ended that reaches a target, CLOCK_MONOTONIC."""
    reached = [span.stop_ns for span in spans if target.is_reached_by(span)]
    return min((one for one in reached if one is not None), default=None)


@contextlib.contextmanager
def _forwarding_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the run end by the signals that would end this process, and then this process too.

    Ctrl-C reaches the run by itself, since it is in the same process group.
    """
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT:
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise SystemExit(128 + received[0])
