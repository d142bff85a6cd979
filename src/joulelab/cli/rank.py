"""``joulelab rank``: rank models by predicted energy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulelab.cli.options import BATCH_SIZE, CLASSES, INPUT, PHASE, PROFILE, complete_model
from joulelab.cli.output import echo, output_console, print_json, progress, value_table
from joulelab.format import first_words, number, sentence, undetermined, with_interval
from joulelab.models.registry import PAPER_INPUT, canonical_name, default_input_shape, require_torch

if TYPE_CHECKING:
    from joulelab.predict.prediction import RankedModel


MOST_NAMED = 3  # Models that a note names.


@click.command("rank")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_model)
@PROFILE
@PHASE
@BATCH_SIZE
@INPUT
@CLASSES
@click.option("--study", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Show how well each estimator ranks the models of this study.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    models: tuple[str, ...],
    profile_name: str,
    phase: str,
    batch_size: int,
    input_shape: tuple[int, ...] | None,
    classes: int,
    study: Path | None,
    as_json: bool,
) -> None:
    """Rank models by the predicted energy of the same number of samples, without running them.

    The table also shows the paper's estimators: MACs, MACs per parameter and parameters.

    \b
    Example:
      joulelab rank ResNet18 MobileNetV2 DenseNet121 --phase infer
      joulelab rank torchvision:resnet50 torchvision:convnext_tiny --classes 1000
      joulelab rank LeNet ResNet18 --study studies/paper
    """
    require_torch()
    from joulelab.predict import Case, load_profile, rank  # noqa: PLC0415 - imports torch

    profile = load_profile(profile_name)
    if not models and study is None:
        raise click.UsageError("give MODEL or --study")
    if study is not None:
        from joulelab.predict.measurements import compare_with_study, study_models  # noqa: PLC0415 - imports pandas

        models = models or tuple(study_models(study))
    names = dict.fromkeys(map(canonical_name, models))
    with progress("Tracing models"):
        cases = [
            Case(name, phase, batch_size, input_shape or default_input_shape(name))
            for name in names
        ]
        ranked = rank(cases, profile, classes=classes)
        agreements = []
        if study is not None:
            agreements = compare_with_study(study, profile, input_shape or PAPER_INPUT)
    if as_json:
        print_json(
            {
                "models": [one.to_json() for one in ranked],
                "spearman": [one.to_json() for one in agreements],
            }
        )
        return
    setting = f"{phase}, batch size {batch_size}, on {profile.datasheet.device}"
    _print_table(ranked, f"{setting} ({profile.numerics})")
    for one in agreements:
        if one.device not in (profile.datasheet.device, profile.datasheet.kind):
            device = {"cpu": "a CPU", None: "an unknown device"}.get(one.device, one.device)
            echo(f"joulelab: {study} ran on {device}, not on the profile's device", err=True)
        echo(f"Spearman correlation, measured energy of {one.models} models ({one.phase}):")
        for label, found in one.labelled_ranks():
            echo(f"  {label:20} {with_interval(found.value, found.low, found.high)}")


def _print_table(ranked: Sequence[RankedModel], title: str) -> None:
    headings = (
        "input", "energy of 1,000\nsamples (95 % CI)", "MACs\n(million)", "MACs per\nparameter",
        "parameters",
    )  # fmt: skip
    table = value_table("model", headings, title)
    for one in ranked:
        prediction, size = one.prediction, one.characteristics
        steps = 1000 / prediction.case.batch_size
        low_j, high_j = steps * prediction.energy_low_j, steps * prediction.energy_high_j
        table.add_row(
            prediction.case.model,
            prediction.case.input,
            with_interval(one.j_per_1000_samples, low_j, high_j, "J", level="")
            if prediction.has_energy
            else undetermined(),
            number(size.macs / 1e6),
            number(size.macs_per_parameter),
            f"{size.parameters:,}",
        )
    output_console().print(table)
    if pairs := overlapping(ranked):
        shown = first_words([" with ".join(pair) for pair in pairs], MOST_NAMED)
        echo(f"The order is uncertain where intervals overlap: {shown}.")
    notes: dict[str, list[str]] = {}
    for one in ranked:
        for note in one.prediction.notes:
            notes.setdefault(note, []).append(one.prediction.case.model)
    for note, models in notes.items():
        which = "" if len(models) == len(ranked) else f"{first_words(models, MOST_NAMED)}: "
        echo(f"{which}{note}." if which else sentence(note))


def overlapping(ranked: Sequence[RankedModel]) -> list[tuple[str, str]]:
    """Return the models whose interval overlaps that of the next one."""
    pairs = []
    for one, other in pairwise(ranked):
        most_j = one.prediction.energy_high_j / one.prediction.case.batch_size
        least_j = other.prediction.energy_low_j / other.prediction.case.batch_size
        if least_j <= most_j:
            pairs.append((one.prediction.case.model, other.prediction.case.model))
    return pairs
