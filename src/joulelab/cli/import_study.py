"""``joulelab account --study``: recorded logs as a study."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from joulelab.cli.output import progress
from joulelab.errors import UserError

if TYPE_CHECKING:
    from joulelab.import_study.study import RecordedStudy
    from joulelab.logs.columns import ColumnChoice
    from joulelab.logs.power_log import Log
    from joulelab.logs.span_table import ForeignSpan
    from joulelab.machine import Machine

Command = TypeVar("Command", bound=Callable[..., Any])

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEEDED = ("pandas", "pyarrow", "pydantic", "scipy")


def study_options(command: Command) -> Command:
    """The options of ``--study``; see :class:`StudyWish`."""
    for option in (
        click.option("--classes", type=click.IntRange(min=1), default=10, show_default=True,
            help="Study: how many classes the models tell apart."),
        click.option("--input", "shape", metavar="CxHxW", default="3x32x32", show_default=True,
            help="Study: one sample of the models."),
        click.option("--gpu-name", metavar="NAME", help="Study: model of the GPUs."),
        click.option("--host", metavar="NAME", help="Study: the machine's name."),
        click.option("--machine", "machine_file", type=_EXISTING,
            help="Study: JSON of the machine, as `joulelab doctor --json` prints it."),
        click.option("--phase", "phases", metavar="NAME=PHASE", multiple=True,
            help="Study: take that phase as train, infer, idle or ignore. May be repeated."),
        click.option("--rename", "renamed", metavar="OLD=NEW", multiple=True,
            help="Which column of the spans is what. May be repeated."),
        click.option("--telemetry", type=_EXISTING, multiple=True,
            help="Study: a log of utilisation, memory and the like. May be repeated."),
        click.option("--force", is_flag=True, help="Study: replace one of recorded logs."),
        click.option("--study", "directory", metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Make a study of spans with columns model, phase, batch_size, steps and more."),
    ):  # fmt: skip
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyWish:
    """What the options of :func:`study_options` say.

    Attributes:
        directory: Of the study; ``None`` when none is wanted.
        force: Whether a study of recorded logs that is there is replaced.
        telemetry: Logs of what is not power.
        renamed: As ``"stage=phase"``.
        phases: As ``"training=train"``.
        machine_file: JSON of the machine.
        host: The machine's name.
        gpu_name: Model of its GPUs.
        shape: Of a sample, as ``"3x32x32"``.
        classes: How many the models tell apart.
    """

    directory: Path | None
    force: bool
    telemetry: tuple[Path, ...]
    renamed: tuple[str, ...]
    phases: tuple[str, ...]
    machine_file: Path | None
    host: str | None
    gpu_name: str | None
    shape: str
    classes: int

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Takes what belongs to it out of the options."""
        return cls(**{one.name: options.pop(one.name) for one in fields(cls)})

    @property
    def renames(self) -> Mapping[str, str]:
        """Columns by what the file calls them."""
        return _pairs("--rename", self.renamed)

    def check(self, spans_file: Path | None, csv_file: Path | None) -> None:
        """Refuses options that contradict one another.

        Raises:
            UserError: They do, or a package is missing.
        """
        if self.directory is None:
            for option in ("force", "telemetry", "phases", "machine_file", "host", "gpu_name"):
                if getattr(self, option):
                    name = {"phases": "phase", "machine_file": "machine"}.get(option, option)
                    raise UserError(
                        f"--{name.replace('_', '-')} is for a study", hint="add --study DIR"
                    )
            return
        if spans_file is None:
            raise UserError("a study needs --spans: which model was run when")
        if csv_file is not None:
            raise UserError("a study has its own results.csv", hint="leave out --csv")
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                "a study needs more packages",
                why=f"{', '.join(missing)} cannot be imported",
                hint="run pip install 'joulelab[study]'",
            )


def make_study(
    wish: StudyWish,
    log: Log,
    spans: Sequence[ForeignSpan],
    idle_at: Sequence[ForeignSpan],
    files: Sequence[Path],
    choice: ColumnChoice,
    as_json: bool,
) -> None:
    """Makes the study that is wished for and says what came of it.

    Args:
        wish: What the options say.
        log: The readings of power.
        spans: The table.
        idle_at: Those that ``--idle`` names.
        files: The table of spans, then the logs of power.
        choice: Of the logs' columns.
        as_json: Print JSON.

    Raises:
        UserError: It cannot be made; see :func:`joulelab.import_study.study.record_study`.
    """
    from joulelab.findings.tables import write_results  # noqa: PLC0415
    from joulelab.import_study.models import Sample  # noqa: PLC0415
    from joulelab.import_study.rows import check_phases, read_rows  # noqa: PLC0415
    from joulelab.import_study.study import record_study  # noqa: PLC0415
    from joulelab.logs.telemetry import (  # noqa: PLC0415
        gpu_names,
        power_of_gpu,
        with_telemetry,
    )

    assert wish.directory is not None
    phases = _pairs("--phase", wish.phases)
    check_phases(phases)
    sample = Sample(_shape(wish.shape), wish.classes)
    rows, notes = read_rows(spans, phases, idle_at)
    if wish.telemetry or wish.gpu_name or wish.machine_file:
        log = power_of_gpu(log)
    with progress("reading the log"):
        # Logs of power may hold more than power; what they hold of time was told before.
        log = with_telemetry(log, files[1:], choice, required=False)
        log = with_telemetry(
            log, wish.telemetry, replace(choice, time_column=None, time_unit=None), required=True
        )
    machine = _machine(wish, log, gpu_names([*files[1:], *wish.telemetry]))
    with progress("making the study"):
        study = record_study(
            wish.directory,
            log,
            rows,
            [*files, *wish.telemetry],
            machine=machine,
            sample=sample,
            replace=wish.force,
        )
        results = write_results(study.directory)
    _say(study, results, [*log.notes, *notes, *study.notes], as_json)


def _machine(wish: StudyWish, log: Log, named: Sequence[str]) -> Machine:
    from joulelab.import_study.machine import recorded_machine  # noqa: PLC0415

    gpus = dict.fromkeys(
        one.component
        for one in log.trace.channels
        if one.gives_energy and one.component.startswith("gpu")
    )
    gpu_name = wish.gpu_name or (named[0] if len(named) == 1 else None)
    return recorded_machine(wish.machine_file, wish.host, gpu_name, list(gpus))


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (equals and new) or found.get(old, new) != new:
            raise UserError(f"{option} {text}: expected NAME=NAME, each name once")
        found[old] = new
    return found


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise UserError(f"--input {text}: no shape", hint="write it as 3x32x32")
    return tuple(int(size) for size in text.split("x"))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _say(
    study: RecordedStudy, results: Sequence[Path], notes: Sequence[str], as_json: bool
) -> None:
    if as_json:
        told = {
            "directory": str(study.directory),
            "runs": study.runs,
            "idle_runs": study.idle_runs,
            "models": list(study.models),
            "results": [str(path) for path in results],
            "notes": list(notes),
        }
        click.echo(json.dumps(told, indent=1))
        return
    runs, models = _counted(study.runs, "run"), _counted(len(study.models), "model")
    click.echo(f"{runs} of {models}, {study.idle_runs} of idle: {study.directory}")
    for note in dict.fromkeys(notes):
        click.echo(f"  {note}")
    click.echo(f"Results: {', '.join(str(path) for path in results)}")
    click.echo(f"Report:  run `joulelab report {study.directory}`")
