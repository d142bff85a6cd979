"""The energy of a model's training and of a request or a token, from records or given values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import find_boards, gross_energy
from joulelab.errors import UserError, nearest, optional_packages
from joulelab.format import count, join_words
from joulelab.ledger.scenarios import ModelEnergy, Unit
from joulelab.runs.record import Run, is_run
from joulelab.runs.selection import open_run
from joulelab.runs.study_runs import is_study, read_study
from joulelab.storage import file_errors
from joulelab.uncertain import COVERAGE_FACTOR, UncertainValue
from joulelab.validation import InvalidData, NotNegative, convert, parse_json

RESULT_FILE = "result.json"
"""In the directory of ``joulelab llm bench``."""
REQUEST = "request"
"""Spans of this name in a run are its requests."""


def read_model(text: str, unit: Unit = "request") -> ModelEnergy:
    """Read the energy of a model from ``[NAME=]STUDY[:MODEL]`` or ``[NAME=]TRAINING,PER_REQUEST``.

    ``TRAINING`` and ``PER_REQUEST`` are what :func:`training_energy` and :func:`energy_per` read.

    Example:
        >>> read_model("small=3.6e6,0.5").per_request.value
        0.5
    """
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    training, comma, per_request = rest.partition(",")
    if not comma:
        per_request = training
        if _joules(training) is not None:
            raise UserError(
                f"{text!r} is a single value", hint="give training and request, like 3.6e6,0.5"
            )
    return ModelEnergy(name or rest, training_energy(training), energy_per(unit, per_request))


def energy_per(unit: Unit, text: str) -> UncertainValue:
    """Read the gross energy of a request or an output token, J."""
    return request_energy(text) if unit == "request" else token_energy(text)


def training_energy(text: str) -> UncertainValue:
    """Read the gross energy of a training, J, from joules, a run or a study (mean of repeats)."""
    return _read_energy(
        text,
        lambda run: _measured(run, run.energy),
        lambda run: (_phase_energy(run, "train"), 1.0),
        ("train", "gross_j"),
    )


def request_energy(text: str) -> UncertainValue:
    """Read the gross energy of a request, J, from joules, a run or a study (per sample).

    The number of requests of a run is that of its spans named ``request``, else its tag
    ``samples``.
    """

    def of_samples(run: Run) -> tuple[UncertainValue, float]:
        assert run.study is not None
        energy = _phase_energy(run, "infer")
        samples = run.study.results["infer"].values.get("samples")
        if not samples:
            raise UserError(f"the number of samples of {text} is unknown")
        return energy, float(samples)

    return _read_energy(text, _of_requests, of_samples, ("infer", "gross_j_per_sample"))


def token_energy(text: str) -> UncertainValue:
    """Read the gross energy of an output token, J, with its part of the prompt and of idling.

    The text names joules; a result of ``joulelab llm report --json`` or ``joulelab llm bench``, as
    ``FILE[:LEVEL]`` or ``DIR[:LEVEL]``; a run with the tag ``tokens``; or a study with the phases
    ``prefill`` and ``decode``.
    """
    path, level = Path(text), ""
    if not path.exists() and ":" in text:
        directory, _, level = text.rpartition(":")
        path = Path(directory)
    file = path / RESULT_FILE if path.is_dir() else path
    if file.is_file():
        return _token_of_result(file, level)
    return _read_energy(text, _of_tokens, _of_decoded)


class _TokenEnergy(TypedDict, total=False):
    """The energy of a server's output tokens, as ``joulelab llm`` writes it."""

    gross_j_per_output_token: NotNegative | None
    gross_j_per_output_token_low: NotNegative | None
    gross_j_per_output_token_high: NotNegative | None


class _Level(TypedDict):
    """A level of load, for example ``concurrency 8``."""

    level: str
    energy: _TokenEnergy | None


class _Result(_TokenEnergy, total=False):
    levels: list[_Level]


def _token_of_result(file: Path, level: str) -> UncertainValue:
    """Read the energy of an output token, at one level of load."""
    with file_errors(f"cannot read {file}"):
        data = file.read_bytes()
    try:
        result = convert(parse_json(data), _Result)
    except InvalidData as error:
        raise UserError(f"{file} is no result of joulelab llm", why=str(error)) from error
    levels = {one["level"]: one["energy"] for one in result.get("levels", [])}
    matching = [name for name in levels if level in (name, *name.split())]
    energy: _TokenEnergy | None = result
    if level or len(levels) > 1:
        if len(matching) != 1:
            raise UserError(
                f"{file} has {count(len(levels), 'level')} of load"
                + (f" and no {level!r}" if level else ""),
                why=f"they are {join_words([*levels])}" if levels else "",
                hint=f"name one, for example '{file}:{[*levels][-1]}'" if levels else "",
            )
        energy = levels[matching[0]]
    energy = energy or {}
    value = energy.get("gross_j_per_output_token")
    low = energy.get("gross_j_per_output_token_low")
    high = energy.get("gross_j_per_output_token_high")
    if value is None or low is None or high is None:
        raise UserError(f"{file} has no energy per output token", why="it was not measured")
    return UncertainValue(value, own=(high - low) / 2 / COVERAGE_FACTOR, least=0.0)


def _of_tokens(run: Run) -> UncertainValue:
    tokens = run.number_of("tokens")
    if not 0 < tokens < math.inf:
        raise UserError(
            f"the number of tokens of {run.directory} is unknown",
            hint=f"set it: joulelab runs tag {run.directory} --tag tokens=N",
        )
    return _measured(run, run.energy).per(tokens)


def _of_decoded(run: Run) -> tuple[UncertainValue, float]:
    """Return the energy of the prompt and the output of one sequence, and its output tokens."""
    assert run.study is not None
    parts = []
    for phase, factor in (("prefill", "prompt_tokens"), ("decode", "output_tokens")):
        processed = _phase_energy(run, phase)
        tokens = run.study.results[phase].values.get("tokens")
        if not (tokens and run.factors.get(factor)):
            raise UserError(f"the number of tokens of {run.directory} is unknown")
        parts.append(processed.per(tokens).scaled(run.factors[factor]))
    return UncertainValue.total(parts), float(run.factors["output_tokens"])


def _read_energy(
    text: str,
    of_run: Callable[[Run], UncertainValue],
    of_cell: Callable[[Run], tuple[UncertainValue, float]],
    summarized: tuple[str, str] | None = None,
) -> UncertainValue:
    """Read joules, or take the energy of a single run, or of a study's repeats."""
    given = _joules(text)
    if given is not None:
        return UncertainValue(given)
    run = open_run(text) if is_run(text) else None
    return of_run(run) if run and not run.study else _over_repeats(text, of_cell, summarized)


def _measured(run: Run, energy: Energy) -> UncertainValue:
    value = gross_energy(energy, find_boards(run.machine, run.host, energy))
    if math.isnan(value.value):
        raise UserError(f"{run.directory} has no energy", why="nothing was measured")
    return value


def _of_requests(run: Run) -> UncertainValue:
    whole = _measured(run, run.energy)
    for span in run.spans:
        if span.name == REQUEST and not math.isnan(span.gross_j):
            # The sensors' errors are in proportion; the rest of the uncertainty is the spans' own.
            part = whole.scaled(span.gross_j / whole.value) if whole.value else whole
            uncertainty = (span.high_j - span.low_j) / 2 / COVERAGE_FACTOR
            own = math.sqrt(max(uncertainty**2 - part.shared_uncertainty**2, 0.0))
            return replace(part, own=own).per(span.count)
    if not 0 < run.samples < math.inf:
        raise UserError(
            f"the number of requests of {run.directory} is unknown",
            hint=f"mark them as spans named {REQUEST}, or set it: joulelab runs tag "
            f"{run.directory} --tag samples=N",
        )
    return whole.per(run.samples)


def _phase_energy(run: Run, phase: str) -> UncertainValue:
    assert run.study is not None
    result = run.study.results.get(phase)
    if result is None:
        raise UserError(f"{run.directory} has no energy of {phase}", why="it was not measured")
    return _measured(run, result.energy)


def _over_repeats(
    text: str,
    of_cell: Callable[[Run], tuple[UncertainValue, float]],
    summarized: tuple[str, str] | None = None,
) -> UncertainValue:
    """Divide the sum over a study's repeats by that of their divisors, as its report does.

    The interval is that of the study's summary. What has no row there has its own error from the
    scatter of the repeats if that is larger (Cochran, *Sampling Techniques*, 3rd ed., Eq. 6.13).
    """
    runs = _repeats(text)
    values, divisors = zip(*(of_cell(run) for run in runs), strict=True)
    n, divisor = len(values), math.fsum(divisors)
    ratio = UncertainValue.total(values).per(divisor)
    with optional_packages("cannot compute the mean of repeats", "study"):
        half = _half_width(runs, *summarized) if summarized else None
        if half is not None:
            own = math.sqrt(max((half / COVERAGE_FACTOR) ** 2 - ratio.shared_uncertainty**2, 0.0))
            return replace(ratio, own=own)
        if n == 1:
            return ratio
        from scipy.special import stdtrit  # noqa: PLC0415
    residuals = (one.value - ratio.value * d for one, d in zip(values, divisors, strict=True))
    standard_error = math.hypot(*residuals) * math.sqrt(n / (n - 1)) / divisor
    # Student's t for a few repeats, as a standard uncertainty for the normal quantile (GUM G.3).
    scatter = standard_error * float(stdtrit(n - 1, 0.975)) / COVERAGE_FACTOR
    return replace(ratio, own=max(ratio.own, scatter))


def _half_width(runs: Sequence[Run], phase: str, column: str) -> float | None:
    """Return half of the interval of a cell in the summary of its study; ``None`` without one.

    There is none of a single run, nor of repeats on several machines, which are never averaged.
    """
    assert runs[0].directory is not None
    directory = runs[0].directory.parent.parent
    if not is_study(directory):
        return None
    # These packages take longer to import than everything else that the ledger does.
    from joulelab.findings.summary import KEYS, summary  # noqa: PLC0415
    from joulelab.findings.tables import run_table  # noqa: PLC0415

    table = run_table([read_study(directory)])
    cells = table.groupby(list(KEYS), dropna=False, sort=False).ngroup()
    own = table["run_id"].isin([run.id for run in runs]) & (table["phase"] == phase)
    numbers = set(cells[own])
    if len(numbers) != 1 or (cells == min(numbers)).sum() != len(runs):
        return None
    row = summary(table).iloc[min(numbers)]
    half = float(row[f"{column}_high"] - row[column])
    return None if math.isnan(half) else half


def _repeats(text: str) -> Sequence[Run]:
    """Return the finished runs of one cell of a study, or a single run of it."""
    path, model = Path(text), None
    if not path.exists() and ":" in text:
        directory, _, model = text.rpartition(":")
        path = Path(directory)
    if is_run(path):
        runs = [open_run(path)]
    elif is_study(path):
        runs = read_study(path).cells()
    else:
        runs = []
    if not runs:
        raise UserError(
            f"{text!r} is not a number, a run or a study with finished runs",
            hint="give joules, or the directory of either",
        )
    cells: dict[str, list[Run]] = {}
    for run in runs:
        if model in (None, run.model):
            cells.setdefault(json.dumps(dict(run.factors), sort_keys=True), []).append(run)
    models = sorted({str(run.model) for run in runs})
    if not cells:
        raise UserError(f"{path} has no model {model!r}", hint=nearest(str(model), models))
    if len(cells) > 1:
        rows: list[dict[str, Any]] = [json.loads(one) for one in cells]
        varying = [name for name in rows[0] if len({str(row.get(name)) for row in rows}) > 1]
        raise UserError(
            f"{text} has {len(cells)} different cells",
            why=f"they differ in {join_words(varying)}",
            hint=f"name a model, for example {path}:{models[0]}, or one run, for example "
            f"{runs[0].directory}",
        )
    return next(iter(cells.values()))


def _joules(text: str) -> float | None:
    """Parse an energy; ``None`` if the text is not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{text} J", why="an energy must be 0 or more")
    return value
