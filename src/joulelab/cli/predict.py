"""``joulelab predict``: predict time and energy of a model that was never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import token_costs
from joulelab.cli.options import BATCH_SIZE, CLASSES, INPUT, PROFILE, complete_model, site_options
from joulelab.cli.output import (
    csv_text,
    output_console,
    print_json,
    progress,
    value_table,
    write_csv,
)
from joulelab.format import (
    count,
    duration,
    number,
    quantity,
    sentence,
    time_scale,
    undetermined,
    with_interval,
)
from joulelab.models.registry import PAPER_INPUT, canonical_name, default_input_shape, require_torch
from joulelab.uncertain import Ratio

if TYPE_CHECKING:
    from joulelab.predict import HardwareProfile, Prediction

MILLION = 1e6
UNDETERMINED = f"{undetermined('this profile')}: its interval spans more than a factor of 10"
PHASES = ["train", "infer", "prefill", "decode", "serve"]


@click.command("predict")
@click.argument("model", required=False, shell_complete=complete_model)
@PROFILE
@click.option(
    "--device",
    metavar="NAME",
    help="Predict for another GPU: transfer the profile to it "
    "by the two data sheets, with wider intervals. NAME is the driver's, such as 'NVIDIA L4'.",
)
@click.option(
    "--phase",
    type=click.Choice(PHASES),
    default="train",
    show_default=True,
    help="Predict a step of training or of inference; of a "
    "language model one of training, prefill or decode, or of serving (decode with its prefills).",
)
@BATCH_SIZE
@INPUT
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Input tokens of each sequence of a language model.",
)
@click.option(
    "--output-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Output tokens of each sequence of a language model.",
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Number format of a language model.",
)
@CLASSES
@click.option("--table", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Predict every row of a CSV file: columns model, phase, batch_size, input; for language "
    "models also output_tokens and precision.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
    help="With --table: write the predictions to this CSV file.")  # fmt: skip
@click.option("--study", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Predict what a study ran and write predictions.parquet into it.")  # fmt: skip
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str | None,
    profile_name: str,
    device: str | None,
    phase: str,
    batch_size: int,
    input_shape: tuple[int, ...] | None,
    prompt_tokens: int,
    output_tokens: int,
    precision: str,
    classes: int,
    table: Path | None,
    out: Path | None,
    study: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Predict energy and time of one step of a model, with 95 % intervals, without running it.

    MODEL is a model of the paper, torchvision:NAME, timm:NAME, lm:NAME, hf:CONFIG, or
    package.module:factory. Training is forward, backward and SGD with momentum (language models:
    Adam). No GPU is needed, and no weights are created. For language models (lm:NAME, or hf:CONFIG
    in a phase other than train and infer) the result is also given per token.

    \b
    Example:
      joulelab predict ResNet18 --profile h100 --phase train --batch-size 128
      joulelab predict torchvision:vit_b_16 --phase infer --classes 1000
      joulelab predict lm:llama-3.1-8b --phase serve --profile h100-vllm --batch-size 64
      joulelab predict --table candidates.csv --out predicted.csv
    """
    if sum(source is not None for source in (model, table, study)) != 1:
        raise click.UsageError("give MODEL, --table or --study")
    if out is not None and table is None:
        raise click.UsageError("--out requires --table")
    require_torch()
    from joulelab.predict import Case, load_profile, predict  # noqa: PLC0415 - imports torch

    profile = load_profile(profile_name)
    if device is not None:
        profile = profile.on_device(device)
    if study is not None:
        from joulelab.predict.measurements import predict_study  # noqa: PLC0415 - imports pandas

        with progress("Tracing models"):
            path, predictions = predict_study(study, profile, input_shape or PAPER_INPUT)
        click.echo(f"{predictions} predictions written to {path}")
        return
    if model is not None:
        shape = (prompt_tokens,)
        case = Case(canonical_name(model), phase, batch_size, shape, precision=precision)
        if case.decodes:
            case = case._replace(output_tokens=output_tokens)
        if input_shape or not case.counts_tokens:
            case = case._replace(input_shape=input_shape or default_input_shape(model))
        cases = [case]
    else:
        from joulelab.predict.measurements import read_cases  # noqa: PLC0415 - imports pandas

        assert table is not None
        cases = read_cases(table)
    with progress("Tracing models"):
        found = predict(cases, profile, classes=classes)
    if model is not None:
        _print_one(found[0], profile, Site.configured(**given), as_json)
    elif out is not None:
        write_csv(out, _rows(found))
        click.echo(f"{len(found)} predictions written to {out}")
    elif as_json:
        print_json([one.to_json() for one in found])
    else:
        click.echo(csv_text(_rows(found)), nl=False)


def _rows(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """Return the predictions as rows with the same columns; those of images lack some values."""
    rows = [one.to_row() for one in predictions]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _print_one(one: Prediction, profile: HardwareProfile, site: Site, as_json: bool) -> None:
    if one.case.counts_tokens:
        joules, low_j, high_j, *_ = one.per_token.values()
        of_tokens = token_costs(Ratio(joules, low_j, high_j), site)
        unit, cost_text, details = "tokens", of_tokens.costs.text(), of_tokens.to_json()
    else:
        ends = (MILLION * one.energy_low_j, MILLION * one.energy_high_j)
        costs = site.costs(MILLION * one.energy_per_step_j, ends)
        unit, cost_text = "steps", costs.text()
        details = {"costs_of_a_million_steps": costs.to_json()} if cost_text else {}
    if as_json:
        print_json(one.to_json() | details)
        return
    if one.case.counts_tokens:
        rows = _print_tokens(one, profile, of_tokens.tokens_per_kwh_text)
    else:
        rows = _print_samples(one, profile)
    rows.append(("host, device", f"{duration(one.host_s)}, {duration(one.device_s)}"))
    if one.has_energy and one.has_duration:
        rows.append(("mean power", quantity(one.power_w, "W")))
    if cost_text and one.has_energy:
        rows.append((f"a million {unit}", cost_text))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"{label:{width}} {text}")
    _print_operators(one)
    for note in one.notes:
        click.echo(sentence(note))


def _print_samples(one: Prediction, profile: HardwareProfile) -> list[tuple[str, str]]:
    """Print what was predicted, and return the values with their labels."""
    case = one.case
    click.echo(f"{case.model}, {case.phase}, batch size {case.batch_size}, input {case.input}")
    click.echo(f"on {profile.datasheet.device} ({profile.numerics})")
    energy = with_interval(one.energy_per_step_j, one.energy_low_j, one.energy_high_j, "J")
    energy += f", {quantity(1000 * one.energy_per_sample_j, 'J')} per 1,000 samples"
    seconds = _interval(one.seconds_per_step, one.seconds_low, one.seconds_high)
    return [
        ("energy per step", energy if one.has_energy else UNDETERMINED),
        ("time per step", seconds if one.has_duration else UNDETERMINED),
    ]


def _print_tokens(one: Prediction, profile: HardwareProfile, per_kwh: str) -> list[tuple[str, str]]:
    """Print what was predicted, and return the values with their labels."""
    case = one.case
    outputs = f", {count(case.output_tokens, 'output token')}" if case.decodes else ""
    tokens = f"{count(case.input_shape[0], 'input token')}{outputs}"
    click.echo(f"{case.model}, {case.phase}, batch size {case.batch_size}, {tokens}")
    click.echo(f"on {profile.datasheet.device}, {case.precision} (profile: {profile.numerics})")
    joules, low_j, high_j, *seconds = one.per_token.values()
    token = case.token.replace("_", " ")
    energy = with_interval(one.energy_per_step_j, one.energy_low_j, one.energy_high_j, "J")
    rows = [
        (f"per {token}", with_interval(joules, low_j, high_j, "J")),
        ("", _interval(*seconds)),
        ("tokens per kWh", per_kwh),
        ("per step", f"{duration(one.seconds_per_step)}, {energy}"),
    ]
    if not (one.has_energy and one.has_duration):
        rows = [(f"per {token}", UNDETERMINED)]
    return rows


def _interval(seconds: float, low: float, high: float) -> str:
    size, unit = time_scale(seconds)
    return with_interval(seconds / size, low / size, high / size, unit)


def _print_operators(one: Prediction) -> None:
    headings = ("launches", "GFLOP", "GB", "device\n(ms)", "above idle\n(J)")
    table = value_table("operators", headings)
    for share in sorted(one.operators, key=lambda share: -share.device_s):
        table.add_row(
            share.kind.replace("_", " "),
            f"{share.launches:,}",
            number(share.flops / 1e9) if share.flops else "",
            number(share.bytes / 1e9),
            number(share.device_s * 1e3),
            number(share.energy_j),
        )
    output_console().print(table)
