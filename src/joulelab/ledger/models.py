"""What a model takes to be trained and to answer, from a job, a study or given figures."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import find_boards, gross_energy
from joulelab.errors import UserError, nearest
from joulelab.ledger.break_even import ModelCost
from joulelab.machine import Machine
from joulelab.runs.job import Job, is_job, read_job
from joulelab.uncertain import COVERAGE_FACTOR, UncertainValue

REQUEST = "request"
"""Spans of this name in a job are its requests."""

SAMPLES_TAG = "samples"
"""The tag of a job that says how many samples or requests it served."""

Run = Mapping[str, Any]


def model_cost(text: str) -> ModelCost:
    """What a model takes, from ``[NAME=]STUDY[:MODEL]`` or ``[NAME=]TRAINING,PER_REQUEST``.

    ``TRAINING`` and ``PER_REQUEST`` are joules, jobs, or studies with or without a model.

    Raises:
        UserError: It is none of these, or what it names does not say what is needed.

    Example:
        >>> model_cost("small=3.6e6,0.5").per_request.value
        0.5
    """
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    training, comma, per_request = rest.partition(",")
    if not comma:
        per_request = training
        if _number(training) is not None:
            raise UserError(
                f"{text!r} is one figure", hint="give training and request as 3.6e6,0.5"
            )
    return ModelCost(name or rest, training_energy(training), request_energy(per_request))


def training_energy(text: str) -> UncertainValue:
    """Gross energy of a training, J: a figure, a job, or a study's training, the mean of repeats.

    Raises:
        UserError: It is none of these, or nothing was measured.
    """
    given = _number(text)
    if given is not None:
        return UncertainValue(given)
    if is_job(text):
        return _job_energy(read_job(text))
    return _mean(text, lambda run: _phase(run, "train", text))


def request_energy(text: str) -> UncertainValue:
    """Gross energy of a request, J: a figure, a job, or a study's inference a sample.

    A job says how many requests it served by its spans named ``request``, else by its tag
    ``samples``.

    Raises:
        UserError: It is none of these, or does not say how many requests there were.
    """
    given = _number(text)
    if given is not None:
        return UncertainValue(given)
    if is_job(text):
        return _job_request(read_job(text))

    def each(run: Run) -> UncertainValue:
        samples = run["results"]["infer"]["samples"] if "infer" in run["results"] else None
        energy = _phase(run, "infer", text)
        if not samples:
            raise UserError(f"{text} does not say how many samples it took")
        return energy.scaled(1 / samples)

    return _mean(text, each)


def _job_energy(job: Job) -> UncertainValue:
    if not job.energy.components:
        raise UserError(f"{job.directory} has no energy", why="nothing was measured")
    return gross_energy(job.energy, find_boards(job.machine, job.host, job.energy))


def _job_request(job: Job) -> UncertainValue:
    whole = _job_energy(job)
    for span in job.spans:
        if span.name == REQUEST and not math.isnan(span.gross_j):
            # What the sensors are off by is off in the same proportion; the rest is the spans' own.
            part = whole.scaled(span.gross_j / whole.value)
            uncertainty = (span.high_j - span.low_j) / 2 / COVERAGE_FACTOR
            shared = math.hypot(*part.shared.values())
            random = math.sqrt(max(uncertainty**2 - shared**2, 0.0))
            return replace(part, own=random).scaled(1 / span.count)
    samples = _number(job.tags.get(SAMPLES_TAG, ""))
    if not samples:
        raise UserError(
            f"{job.directory} does not say how many requests it served",
            hint=f"mark them as spans named {REQUEST}, or tag it: joulelab ledger tag "
            f"{job.directory} --tag {SAMPLES_TAG}=N",
        )
    return whole.scaled(1 / samples)


def _phase(run: Run, phase: str, text: str) -> UncertainValue:
    result = run["results"].get(phase)
    energy = None if result is None else result["energy"]
    if energy is None or energy["gross_j"] is None:
        raise UserError(f"{text} has no energy of {phase}", why="it was not measured")
    machine, found = Machine.from_json(run["machine"]), Energy.from_json(energy)
    return gross_energy(found, find_boards(machine, machine.host, found))


def _mean(text: str, energy: Callable[[Run], UncertainValue]) -> UncertainValue:
    """Over the repeats of a study. Its random part is by their scatter where that is larger."""
    amounts = [energy(run) for run in _repeats(text)]
    count = len(amounts)
    mean = UncertainValue.total(amounts).scaled(1 / count)
    if count == 1:
        return mean
    from joulelab.forecast.series import load_scipy  # noqa: PLC0415

    load_scipy()
    from scipy.stats import t  # noqa: PLC0415

    scatter = statistics.stdev(one.value for one in amounts) / math.sqrt(count)
    # Student's t for so few, as a standard uncertainty for the normal quantile (GUM G.3).
    wide = scatter * float(t.ppf(0.975, count - 1)) / COVERAGE_FACTOR
    return replace(mean, own=max(mean.own, wide))


def _repeats(text: str) -> Sequence[Run]:
    """The finished runs of one cell of a study, or a single run."""
    path, model = Path(text), None
    if not path.exists() and ":" in text:
        directory, _, model = text.rpartition(":")
        path = Path(directory)
    files = [path / "run.json"] if (path / "run.json").is_file() else path.glob("runs/*/run.json")
    try:
        runs = [json.loads(file.read_bytes()) for file in sorted(files)]
        done = [run for run in runs if run["kind"] == "cell" and run["status"] == "done"]
        cells: dict[str, list[Run]] = {}
        for run in done:
            if model is None or run["factors"]["model"] == model:
                cells.setdefault(json.dumps(run["factors"], sort_keys=True), []).append(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged", why=f"{type(error).__name__}: {error}") from error
    if not done:
        raise UserError(
            f"{text!r} is no figure, no job and no study with finished runs",
            hint="give joules, or the directory of either",
        )
    known = sorted({str(run["factors"]["model"]) for run in done})
    if not cells:
        raise UserError(f"{path} has no model {model!r}", hint=nearest(str(model), known))
    if len(cells) > 1:
        raise UserError(
            f"{text} has {len(cells)} kinds of runs",
            why=f"they differ in {', '.join(_differing(list(cells)))}",
            hint=f"name a model, as {path}:{known[0]}, or one run, as {done[0]['run_id']}",
        )
    return next(iter(cells.values()))


def _differing(factors: Sequence[str]) -> list[str]:
    rows = [json.loads(one) for one in factors]
    return [name for name in rows[0] if len({str(row.get(name)) for row in rows}) > 1]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{text} J", why="an energy must be 0 or more")
    return value
