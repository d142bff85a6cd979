"""Tune real work: a study's plan or a command."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from joulelab.cli.output import print_json, write_csv
from joulelab.cli.tune_output import SearchDisplay, print_outcome
from joulelab.errors import UserError
from joulelab.storage import file_errors, make_private_directories, write_whole
from joulelab.tune.probes import Knob, Level, Search
from joulelab.tune.text import changed, study_command
from joulelab.tune.tuning import INTERRUPTED, Outcome, Workload, tune

USUAL_KNOBS = ("batch_size", "precision")
"""Knobs of a plan without several levels of one."""


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """What the user asked for.

    Attributes:
        levels: Levels of each knob; none for the usual ones.
        search: Creates the search over knobs.
        max_slowdown: Accepted slow-down.
        window_s: Least time of steady work in a probe.
        out: Directory for results.
        as_json: Whether to print JSON.
    """

    levels: Mapping[str, Sequence[Level]]
    search: Callable[[Sequence[Knob]], Search]
    max_slowdown: float
    window_s: float
    out: Path | None
    as_json: bool


def tune_plan(plan: str, overrides: Sequence[str], options: WorkOptions) -> None:
    """Tune the program of a study's plan."""
    from joulelab.study.plan_file import load_plan  # noqa: PLC0415
    from joulelab.tune.study_work import StudyWork  # noqa: PLC0415

    chosen = load_plan(plan, overrides=overrides)
    factors = chosen.factors.model_dump()
    several = [name for name in factors if len(factors[name]) > 1]
    levels = options.levels or dict.fromkeys(several or USUAL_KNOBS, ())
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(options.out))
        work = stack.enter_context(StudyWork(chosen, directory, options.window_s))
        outcome = _tune(work, work.knobs(levels), options)
    given = [f"--set {shlex.quote(one)}" for one in overrides]
    command = " ".join([study_command(plan, changed(outcome.result)), *given])
    _report(outcome, chosen.name, [command] if outcome.is_better else [], options)


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
    with SearchDisplay(work.unit) as display:
        return tune(options.search(knobs), baseline, work, display)


def _report(outcome: Outcome, title: str, apply: Sequence[str], options: WorkOptions) -> None:
    """Write the outcome's files and print it."""
    page = None
    if options.out is not None:
        from joulelab.report.tuning_page import write_tuning_page  # noqa: PLC0415 (imports pandas)

        page = write_tuning_page(
            options.out, outcome, title=title, max_slowdown=options.max_slowdown, apply=apply
        )
        write_csv(options.out / "probes.csv", outcome.rows())
        text = json.dumps(outcome.to_json(), indent=1, allow_nan=False)
        write_whole(options.out / "result.json", f"{text}\n".encode())
    if options.as_json:
        print_json(outcome.to_json())
    else:
        print_outcome(outcome, apply, page)
    if outcome.ended_early == INTERRUPTED:
        click.get_current_context().exit(130)
