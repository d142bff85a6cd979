"""``joulelab rank``: candidate models by predicted energy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.cli.output import progress, value_table
from joulelab.cli.predict import BATCH_SIZE, CLASSES, INPUT, PROFILE
from joulelab.models.registry import canonical_name, require_torch

if TYPE_CHECKING:
    from joulelab.predict.ranking import Agreement, Candidate

_WORDS = {
    "predicted_j": "predicted energy",
    "macs": "MACs",
    "macs_per_parameter": "MACs per parameter",
    "parameters": "parameters",
}


@click.command("rank")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@PROFILE
@click.option("--phase", type=click.Choice(["train", "infer"]), default="train", show_default=True)
@BATCH_SIZE
@INPUT
@CLASSES
@click.option("--study", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Show how well each estimator orders this study's runs.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    models: tuple[str, ...],
    profile_name: str,
    phase: str,
    batch_size: int,
    input_text: str,
    classes: int,
    study: Path | None,
    as_json: bool,
) -> None:
    """Order models by the energy that the same number of samples will take, without running them.

    MACs, MACs per parameter and parameters, which the paper orders models by, stand beside it.

    \b
    Example:
      joulelab rank ResNet18 MobileNetV2 DenseNet121 --phase infer
      joulelab rank torchvision:resnet50 torchvision:convnext_tiny --input 3x224x224 --classes 1000
      joulelab rank LeNet ResNet18 --study studies/paper
    """
    require_torch()
    from joulelab.predict.cases import Case, parse_input  # noqa: PLC0415
    from joulelab.predict.hardware import load_profile  # noqa: PLC0415
    from joulelab.predict.ranking import agreements, rank  # noqa: PLC0415

    profile = load_profile(profile_name)
    shape = parse_input(input_text)
    names = dict.fromkeys(map(canonical_name, models))
    cases = [Case(name, phase, batch_size, shape) for name in names]
    with progress("Tracing models"):
        candidates = rank(cases, profile, classes=classes)
        agreed = agreements(study, profile, shape) if study is not None else []
    if as_json:
        click.echo(json.dumps(_json(candidates, agreed), indent=2))
        return
    _show(candidates)
    for one in agreed:
        _show_agreement(one)


def _json(candidates: Sequence[Candidate], agreed: Sequence[Agreement]) -> dict[str, Any]:
    return {
        "models": [
            {
                "model": one.prediction.case.model,
                "j_per_1000_samples": one.joules_per_thousand,
                "energy_per_step_j": one.prediction.energy_per_step_j,
                "energy_low_j": one.prediction.energy_low_j,
                "energy_high_j": one.prediction.energy_high_j,
                "seconds_per_step": one.prediction.seconds_per_step,
                "macs": one.characteristics.macs,
                "macs_per_parameter": one.characteristics.macs_per_parameter,
                "parameters": one.characteristics.parameters,
            }
            for one in candidates
        ],
        "spearman": [
            {
                "phase": one.phase,
                "models": one.models,
                **{name: _known(asdict(rank)) for name, rank in one.ranks.items()},
            }
            for one in agreed
        ],
    }


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _show(candidates: Sequence[Candidate]) -> None:
    from rich.console import Console  # noqa: PLC0415

    headings = (
        "J per 1,000\nsamples",
        "95 %",
        "MACs\n(million)",
        "MACs per\nparameter",
        "parameters",
    )
    table = value_table("model", headings)
    for one in candidates:
        samples = one.prediction.case.batch_size / 1000
        ratio = one.characteristics.macs_per_parameter
        table.add_row(
            one.prediction.case.model,
            f"{one.joules_per_thousand:.4g}",
            f"{one.prediction.energy_low_j / samples:.3g} to"
            f" {one.prediction.energy_high_j / samples:.3g}",
            f"{one.characteristics.macs / 1e6:,.2f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{one.characteristics.parameters:,}",
        )
    Console().print(table)


def _show_agreement(one: Agreement) -> None:
    click.echo(f"Spearman's correlation with {one.models} models' measured energy, {one.phase}:")
    for name, rank in one.ranks.items():
        interval = "" if math.isnan(rank.low) else f" ({rank.low:.2f} to {rank.high:.2f})"
        click.echo(f"  {_WORDS[name]:20} {rank.value:.3f}{interval}")
