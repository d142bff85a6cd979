"""``joulelab models``: the registry and each model's characteristics."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from joulelab.cli.output import value_table
from joulelab.models.registry import (
    OTHER_FORMS,
    build_model,
    canonical_name,
    require_torch,
    zoo_names,
)

if TYPE_CHECKING:
    from joulelab.models.characteristics import Characteristics


def _parse_shape(
    _context: click.Context, _parameter: click.Parameter, value: str
) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){2}", value):
        raise click.BadParameter(f"{value!r} is not CHANNELSxHEIGHTxWIDTH, as 3x32x32")
    return tuple(map(int, value.split("x")))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--input",
    "input_shape",
    callback=_parse_shape,
    metavar="CxHxW",
    default="3x32x32",
    show_default=True,
    help="One sample: channels x height x width.",
)
@click.option(
    "--classes",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Classes that the model tells apart.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a model.")
def command(
    models: tuple[str, ...], input_shape: tuple[int, ...], classes: int, as_json: bool
) -> None:
    """Show the size of models and the work that one sample takes.

    Without MODEL: the 16 models of the zoo. MODEL is a name of the zoo, torchvision:NAME,
    timm:NAME, or package.module:factory for any callable that gives a PyTorch module.

    \b
    Example:
      joulelab models
      joulelab models ResNet18 torchvision:resnet18 --input 3x224x224 --classes 1000
    """
    names = list(dict.fromkeys(map(canonical_name, models or zoo_names())))
    rows = _characterize(names, input_shape, classes)
    if as_json:
        listed = [{"model": name, **dataclasses.asdict(row)} for name, row in rows.items()]
        click.echo(json.dumps(listed, indent=2))
        return
    _print_table(rows, input_shape)
    if not models:
        click.echo(f"Others are named {', '.join(OTHER_FORMS)}.")


def _characterize(
    names: Sequence[str], input_shape: tuple[int, ...], classes: int
) -> dict[str, Characteristics]:
    require_torch()
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    from joulelab.models.characteristics import characterize  # noqa: PLC0415

    stderr = Console(stderr=True)
    rows = {}
    for name in track(
        names, "Counting", console=stderr, transient=True, disable=not stderr.is_terminal
    ):
        model = build_model(name, num_classes=classes, in_channels=input_shape[0])
        rows[name] = characterize(model, input_shape, name=name)
    return rows


def _print_table(rows: dict[str, Characteristics], input_shape: tuple[int, ...]) -> None:
    from rich.console import Console  # noqa: PLC0415

    shape = "x".join(map(str, input_shape))
    headings = (
        "parameters",
        "trainable",
        "size\n(MB)",
        "MACs\n(million)",
        "MACs per\nparameter",
    )
    table = value_table("model", headings, f"One sample of {shape}")
    for name, row in rows.items():
        ratio = row.macs_per_parameter
        table.add_row(
            name,
            f"{row.parameters:,}",
            f"{row.trainable_parameters:,}",
            f"{row.size_bytes / 1e6:.2f}",
            f"{row.macs / 1e6:,.2f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    Console().print(table)
