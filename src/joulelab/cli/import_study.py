"""``joulelab import-study``: a study from logs of other tools."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from joulelab.cli.import_log import FILE, input_options, parse_pairs, read_input
from joulelab.cli.output import SectionedCommand, SectionOption, echo, print_json, progress
from joulelab.errors import UserError, require_packages
from joulelab.format import count
from joulelab.logs.power_log import assign_power_to_gpu, gpu_models, with_telemetry

_NEEDED = ("pandas", "pyarrow", "pydantic", "scipy")

_option = partial(click.option, cls=SectionOption, section="Study")


def _shape(_: object, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise UserError(f"{parameter.opts[0]} {text}: not a shape", hint="write it as 3x32x32")
    return tuple(int(size) for size in text.split("x"))


@click.command("import-study", cls=SectionedCommand)
@input_options(
    "CSV with the columns model, phase, start_s and stop_s, and any of batch_size, steps, "
    "epoch, accuracy_pct and more.",
    spans_required=True,
    power_required=True,
)
@_option("--telemetry", type=FILE, multiple=True,
    help="Log of utilisation, memory, temperature or clocks; may be repeated.")  # fmt: skip
@_option("--phase", "phases", metavar="NAME=PHASE", multiple=True, callback=parse_pairs,
    help="Read phase NAME as train, infer, idle or ignore; may be repeated.")  # fmt: skip
@_option("--machine", "machine_file", type=FILE,
    help="JSON description of the machine, as `joulelab doctor --json` prints it.")  # fmt: skip
@_option("--host", metavar="NAME", help="Name of the machine.")
@_option("--gpu-name", metavar="NAME", help="Model of its GPUs.")
@_option("--input", "shape", metavar="CxHxW", default="3x32x32", show_default=True,
    callback=_shape, help="Shape of one sample, to count operations of the models.")  # fmt: skip
@_option("--classes", type=click.IntRange(min=1), default=10, show_default=True,
    help="Number of classes of the models.")  # fmt: skip
@click.option("--out", "directory", metavar="DIR", required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the study.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an imported study that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    telemetry: tuple[Path, ...],
    phases: dict[str, str],
    machine_file: Path | None,
    host: str | None,
    gpu_name: str | None,
    shape: tuple[int, ...],
    classes: int,
    directory: Path,
    force: bool,
    as_json: bool,
    **inputs: Any,
) -> None:
    """Build a study from logs of other tools.

    The result is a directory like that of `joulelab study`, with the same tables and report. Each
    span is a phase (train, infer or idle) of a run of one model, or an epoch of it.

    \b
    Example:
      joulelab import-study --spans runs.csv --power smi.csv --out imported
      joulelab import-study --spans runs.csv --power power.csv --telemetry smi.csv --out imported
    """
    require_packages("cannot import a study", _NEEDED, "study")
    from joulelab.findings.tables import StudyTables, write_results  # noqa: PLC0415
    from joulelab.import_study.descriptions import Sample, describe_machine  # noqa: PLC0415
    from joulelab.import_study.run_spans import read_run_spans  # noqa: PLC0415
    from joulelab.import_study.study import import_study  # noqa: PLC0415

    log, spans, idle, options = read_input(**inputs)
    run_spans, notes = read_run_spans(spans, phases, idle)
    logs = inputs["logs"]
    if telemetry or gpu_name or machine_file:
        log = assign_power_to_gpu(log)
    with progress("reading telemetry"):
        log = with_telemetry(log, logs, options, required=False)
        recognised = replace(options, time_column=None, time_unit=None)
        log = with_telemetry(log, telemetry, recognised, required=True)
    powers = [one.component for one in log.trace.channels if one.gives_energy]
    gpus = list(dict.fromkeys(name for name in powers if name.startswith("gpu")))
    named = gpu_models([*logs, *telemetry])
    if gpu_name is None and len(named) == 1:
        gpu_name = named[0]
    machine = describe_machine(machine_file, host, gpu_name, gpus)
    with progress("writing the study"):
        study = import_study(
            directory,
            log,
            run_spans,
            [inputs["spans_file"], *logs, *telemetry],
            machine=machine,
            sample=Sample(shape, classes),
            replace=force,
        )
        results = write_results(StudyTables.read([study.directory]), study.directory)
    notes = list(dict.fromkeys([*log.notes, *notes, *study.notes]))
    if as_json:
        print_json(
            {
                "directory": str(study.directory),
                "runs": study.runs,
                "idle_runs": study.idle_runs,
                "models": list(study.models),
                "results": [str(path) for path in results],
                "notes": notes,
            }
        )
        return
    runs, models = count(study.runs, "run"), count(len(study.models), "model")
    echo(f"{runs} of {models} and {count(study.idle_runs, 'idle run')}: {study.directory}")
    for note in notes:
        echo(f"  {note}")
    echo(f"Results: {', '.join(map(str, results))}")
    echo(f"Report:  run `joulelab report {study.directory}`")
