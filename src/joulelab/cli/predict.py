"""``joulelab predict``: time and energy of a model that was never run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.carbon.site import Site
from joulelab.cli.output import csv_text, progress, value_table, write_csv
from joulelab.cli.site_options import site_options
from joulelab.models.registry import canonical_name, require_torch

if TYPE_CHECKING:
    from joulelab.predict.cases import Case
    from joulelab.predict.hardware import HardwareProfile
    from joulelab.predict.predict import Prediction

MILLION = 1e6

PROFILE = click.option(
    "--profile",
    "profile_name",
    default="h100",
    show_default=True,
    metavar="PROFILE",
    help="A file, or the name of a shipped profile.",
)
BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, show_default=True
)
INPUT = click.option(
    "--input",
    "input_text",
    default="3x32x32",
    show_default=True,
    metavar="SHAPE",
    help="One sample: channels x height x width, or a number of tokens.",
)
CLASSES = click.option(
    "--classes",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Classes that the model tells apart.",
)


@click.command("predict")
@click.argument("model", required=False)
@PROFILE
@click.option("--phase", type=click.Choice(["train", "infer"]), default="train", show_default=True)
@BATCH_SIZE
@INPUT
@CLASSES
@click.option("--table", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Predict every row: columns model, phase, batch_size, input.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
    help="With --table: write the predictions to this CSV file.")  # fmt: skip
@click.option("--study", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Predict what a study ran, into its predictions.parquet.")  # fmt: skip
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str | None,
    profile_name: str,
    phase: str,
    batch_size: int,
    input_text: str,
    classes: int,
    table: Path | None,
    out: Path | None,
    study: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Predict energy and time of one step of a model, with 95 % intervals, without running it.

    MODEL is a name of the zoo, torchvision:NAME, timm:NAME, hf:CONFIG, or package.module:factory.
    Training is forward, backward and SGD with momentum. No GPU is needed and no weight is made.

    \b
    Example:
      joulelab predict ResNet18 --profile h100 --phase train --batch-size 128
      joulelab predict torchvision:vit_b_16 --phase infer --input 3x224x224 --classes 1000
      joulelab predict --table candidates.csv --out predicted.csv
    """
    if sum(given is not None for given in (model, table, study)) != 1:
        raise click.UsageError("give MODEL, or --table, or --study")
    if out is not None and table is None:
        raise click.UsageError("--out belongs to --table")
    require_torch()
    from joulelab.predict.cases import Case, parse_input  # noqa: PLC0415
    from joulelab.predict.hardware import load_profile  # noqa: PLC0415

    profile = load_profile(profile_name)
    if study is not None:
        _predict_study(study, profile, parse_input(input_text))
        return
    if table is not None:
        from joulelab.predict.measurements import read_cases  # noqa: PLC0415

        cases = read_cases(table)
    else:
        assert model is not None
        cases = [Case(canonical_name(model), phase, batch_size, parse_input(input_text))]
    found = _predict(cases, profile, classes)
    if table is None:
        _show_one(found[0], profile, Site.configured(**given), as_json)
    elif out is None and as_json:
        click.echo(json.dumps([_json(one) for one in found], indent=2))
    else:
        _write_table(found, out)


def _predict(cases: Sequence[Case], profile: HardwareProfile, classes: int) -> list[Prediction]:
    from joulelab.predict.predict import predict  # noqa: PLC0415

    with progress(f"Tracing {len(cases)} steps" if len(cases) > 1 else "Tracing a step"):
        return predict(cases, profile, classes=classes)


def _predict_study(directory: Path, profile: HardwareProfile, shape: tuple[int, ...]) -> None:
    import pandas as pd  # noqa: PLC0415

    from joulelab.findings.files import parquet, write_bytes  # noqa: PLC0415
    from joulelab.predict.studies import cases_of, study_frame  # noqa: PLC0415

    cases = list(dict.fromkeys(cases_of(study_frame([directory], shape))))
    rows = [_row(one) for one in _predict(cases, profile, classes=10)]
    frame = pd.DataFrame(rows).drop(columns="input")
    path = write_bytes(directory / "predictions.parquet", parquet(frame))
    click.echo(f"{len(cases)} predictions written to {path}")


def _row(one: Prediction) -> dict[str, Any]:
    return {
        "model": one.case.model,
        "phase": one.case.phase,
        "batch_size": one.case.batch_size,
        "input": one.case.input,
        "energy_per_step_j": one.energy_per_step_j,
        "energy_low_j": one.energy_low_j,
        "energy_high_j": one.energy_high_j,
        "seconds_per_step": one.seconds_per_step,
    }


def _write_table(found: Sequence[Prediction], out: Path | None) -> None:
    rows = [_row(one) for one in found]
    if out is None:
        click.echo(csv_text(rows), nl=False)
        return
    write_csv(out, rows)
    click.echo(f"{len(found)} predictions written to {out}")


def _json(one: Prediction) -> dict[str, Any]:
    return _row(one) | {
        "seconds_low": one.seconds_low,
        "seconds_high": one.seconds_high,
        "host_s": one.host_s,
        "device_s": one.device_s,
        "operators": [asdict(share) for share in one.operators],
        "notes": list(one.notes),
    }


def _show_one(one: Prediction, profile: HardwareProfile, site: Site, as_json: bool) -> None:
    costs = site.costs(
        MILLION * one.energy_per_step_j, (MILLION * one.energy_low_j, MILLION * one.energy_high_j)
    )
    words = costs.words()
    if as_json:
        known = {"costs_of_a_million_steps": costs.to_json()} if words else {}
        click.echo(json.dumps(_json(one) | known, indent=2))
        return
    case = one.case
    click.echo(f"{case.model}, {case.phase}, {case.batch_size} x {case.input}")
    click.echo(f"on {profile.datasheet.device} ({profile.numerics})")
    click.echo(
        f"energy  {one.energy_per_step_j:.4g} J a step"
        f" ({one.energy_low_j:.4g} to {one.energy_high_j:.4g}),"
        f" {one.energy_per_sample_j * 1e3:.4g} J per 1,000 samples"
    )
    click.echo(
        f"time    {one.seconds_per_step * 1e3:.4g} ms a step"
        f" ({one.seconds_low * 1e3:.4g} to {one.seconds_high * 1e3:.4g}),"
        f" {one.power_w:.0f} W: host {one.host_s * 1e3:.3g} ms, device {one.device_s * 1e3:.3g} ms"
    )
    if words:
        click.echo(f"a million steps  {words}")
    _show_operators(one)
    for note in one.notes:
        click.echo(f"The interval is wide because {note}." if "outside" in note else f"{note}.")


def _show_operators(one: Prediction) -> None:
    from rich.console import Console  # noqa: PLC0415

    headings = ("launches", "GFLOP", "GB", "device\nms", "J beyond\nidle")
    table = value_table("operators", headings)
    for share in sorted(one.operators, key=lambda share: -share.device_s):
        table.add_row(
            share.kind.replace("_", " "),
            str(share.launches),
            f"{share.flops / 1e9:.2f}" if share.flops else "",
            f"{share.bytes / 1e9:.3f}",
            f"{share.device_s * 1e3:.3f}",
            f"{share.energy_j:.4f}",
        )
    Console().print(table)
