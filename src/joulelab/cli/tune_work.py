"""Tune real work: a study's plan or a command."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulelab.cli.output import echo, print_json, write_csv
from joulelab.cli.tune_output import SearchDisplay, print_outcome
from joulelab.controls.borrowing import check_borrowable
from joulelab.controls.saved_state import restore_all
from joulelab.errors import UserError
from joulelab.runs import LIMIT_UNITS
from joulelab.storage import file_errors, make_private_directories, write_whole
from joulelab.tune.command_work import CommandWork, filled, program_knobs
from joulelab.tune.device_knobs import borrow_knobs, device_controls, device_knob
from joulelab.tune.knobs import split_levels
from joulelab.tune.probes import Knob, Level, Search
from joulelab.tune.text import changed, device_commands, study_command
from joulelab.tune.tuning import INTERRUPTED, BaselineSearch, Outcome, Workload, tune

if TYPE_CHECKING:
    from joulelab.tune.study_work import StudyWork

USUAL_KNOBS = ("batch_size", "precision")
"""Knobs of a plan without several levels of one."""


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """What the user asked for."""

    levels: Mapping[str, Sequence[Level]]  # Levels of each knob; none for the usual ones.
    search: Callable[[Sequence[Knob]], Search]  # Creates the search over knobs.
    max_slowdown: float  # Accepted slow-down.
    window_s: float  # Least time of steady work in a probe.
    out: Path | None  # Directory for results.
    as_json: bool  # Whether to print JSON.
    dry_run: bool = False  # Whether to measure the baseline alone, and list what would be tried.


def tune_plan(plan: str, overrides: Sequence[str], options: WorkOptions) -> None:
    """Tune the program of a study's plan."""
    from joulelab.study.plan_file import load_plan  # noqa: PLC0415
    from joulelab.tune.study_work import StudyWork  # noqa: PLC0415

    chosen = load_plan(plan, overrides=overrides)
    factors = chosen.factors.levels()
    for name in factors.keys() & LIMIT_UNITS:
        knob = name.rpartition("_")[0].replace("_", "-")
        given = ",".join(f"{level:g}" for level in factors[name])
        hint = f"remove it from the plan, and give --knobs {knob}={given}"
        raise UserError(f"the plan itself sets {name}", hint=hint)
    several = [name for name in factors if len(factors[name]) > 1]
    levels = options.levels or dict.fromkeys(several or USUAL_KNOBS, ())
    device_levels, program_levels = split_levels(levels)
    _require_rights(device_levels, options)
    with _ending_on_signals(), ExitStack() as stack:
        directory = stack.enter_context(_directory(options.out))
        work = stack.enter_context(StudyWork(chosen, directory, options.window_s))
        knobs = work.knobs(program_levels) + _device_knobs(stack, work, device_levels, options)
        outcome, gpus = _tune(work, knobs, options), work.gpus()
    command = study_command(plan, changed(outcome.result), overrides)
    _report(outcome, chosen.name, command, gpus, options)


def tune_command(command: Sequence[str], options: WorkOptions) -> None:
    """Tune a command, and end with its exit code."""
    device_levels, program_levels = split_levels(options.levels or {"power_limit": ()})
    of_program = program_knobs(command, program_levels)
    _require_rights(device_levels, options)
    with _ending_on_signals(), ExitStack() as stack:
        directory = stack.enter_context(_directory(options.out)) / "recording"
        directory.mkdir()
        work = stack.enter_context(CommandWork(command, of_program, directory, options.window_s))
        work.start()
        knobs = _device_knobs(stack, work, device_levels, options) + of_program
        outcome, gpus = _tune(work, knobs, options), work.gpus()
        work.set_devices({name: outcome.result.settings[name] for name in device_levels})
        work.finish(interrupted=outcome.ended_early == INTERRUPTED)
    chosen = shlex.join(filled(command, outcome.result.settings))
    _report(outcome, shlex.join(command), chosen if of_program else "", gpus, options)
    if work.keeps_work and work.exit_code:
        code = work.exit_code
        click.get_current_context().exit(code if code > 0 else 128 - code)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Restore limits and end the command when this process is asked to end."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _require_rights(levels: Mapping[str, Sequence[Level]], options: WorkOptions) -> None:
    """Raise an error before any work is done if a control is missing or cannot be set.

    What a killed run has left is restored first.
    """
    if not levels:
        return
    if not options.dry_run:
        left = restore_all()
        _print_notes((*left.notes, *left.failures))
    controls = [one for of_knob in device_controls(levels).values() for one in of_knob]
    if not options.dry_run:
        check_borrowable(controls)


def _device_knobs(
    stack: ExitStack,
    work: StudyWork | CommandWork,
    levels: Mapping[str, Sequence[Level]],
    options: WorkOptions,
) -> list[Knob]:
    """Borrow the controls of the devices that the work uses, until the stack is closed."""
    if options.dry_run:
        by_name = device_controls(levels, work.gpus()) if levels else {}
        return [device_knob(by_name[name], levels[name]) for name in levels]
    stack.callback(lambda: _print_notes(work.borrowed.notes if work.borrowed else ()))
    knobs, work.borrowed = stack.enter_context(borrow_knobs(levels, work.gpus()))
    return knobs


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        echo(f"joulelab: {note}", err=True)


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    """Make the directory for results, or one that is removed at the end."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="joulelab-tune-") as temporary:
            yield Path(temporary)
        return
    with file_errors(f"cannot make {out}"):
        make_private_directories(out)
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty", hint="choose another directory with --out")
    yield out.absolute()


def _tune(work: Workload, knobs: Sequence[Knob], options: WorkOptions) -> Outcome:
    baseline = {knob.name: knob.baseline for knob in knobs}
    search = BaselineSearch(knobs) if options.dry_run else options.search(knobs)
    is_silent = not isinstance(work, CommandWork)
    with SearchDisplay(work, is_silent=is_silent) as display:
        return tune(search, baseline, work, display)


def _report(
    outcome: Outcome, title: str, command: str, gpus: Collection[str], options: WorkOptions
) -> None:
    """Write the outcome's files and print it."""
    apply = [*device_commands(changed(outcome.result), sorted(gpus)), command]
    apply = [one for one in apply if one and outcome.is_better]
    page = None
    if options.out is not None:
        page = _write(outcome, title, apply, options.out, options.max_slowdown)
    if options.as_json:
        print_json(outcome.to_json())
    else:
        print_outcome(outcome, apply, page)
    if outcome.ended_early == INTERRUPTED:
        click.get_current_context().exit(130)


def _write(
    outcome: Outcome, title: str, apply: Sequence[str], out: Path, max_slowdown: float
) -> Path | None:
    """Write the outcome's files; return the page, unless what it needs is not installed."""
    write_csv(out / "probes.csv", outcome.rows())
    text = json.dumps(outcome.to_json(), indent=1, allow_nan=False)
    write_whole(out / "result.json", f"{text}\n".encode())
    try:
        from joulelab.report.tuning_page import write_tuning_page  # noqa: PLC0415 (imports pandas)
    except ImportError as error:
        echo(f"joulelab: no page: {error}; run pip install 'joulelab[study]'", err=True)
        return None
    return write_tuning_page(out, outcome, title=title, max_slowdown=max_slowdown, apply=apply)
