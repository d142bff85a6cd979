"""``joulelab models``: list models with their size and work per sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import track

from joulelab.cli.options import CLASSES, INPUT, complete_model
from joulelab.cli.output import output_console, print_json, value_table
from joulelab.format import number
from joulelab.models.registry import (
    OTHER_FORMS,
    build_model,
    canonical_name,
    default_input_shape,
    require_torch,
    zoo_names,
)

if TYPE_CHECKING:
    from joulelab.models.characteristics import Characteristics


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_model)
@INPUT
@CLASSES
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per model.")
def command(
    models: tuple[str, ...], input_shape: tuple[int, ...] | None, classes: int, as_json: bool
) -> None:
    """List models with their size and the work that one sample takes.

    Without MODEL: the 16 models of the paper. MODEL is one of their names, lm:NAME,
    torchvision:NAME, timm:NAME, hf:CONFIG, or package.module:factory for any callable that returns
    a PyTorch module.

    \b
    Example:
      joulelab models
      joulelab models ResNet18 torchvision:resnet18 --input 3x224x224 --classes 1000
    """
    names = list(dict.fromkeys(map(canonical_name, models or zoo_names())))
    require_torch()
    from joulelab.models.characteristics import characterize, weightless  # noqa: PLC0415 - imports torch

    stderr = Console(stderr=True)
    hidden = not stderr.is_terminal
    rows = {}
    for name in track(names, "Counting", console=stderr, transient=True, disable=hidden):
        shape = input_shape or default_input_shape(name)
        with weightless():
            model = build_model(name, num_classes=classes, in_channels=shape[0])
        rows[name] = ("x".join(map(str, shape)), characterize(model, shape, name=name))
    if as_json:
        objects = [
            {"model": name, "input": shape, **dataclasses.asdict(row)}
            for name, (shape, row) in rows.items()
        ]
        print_json(objects)
        return
    _print_table(rows)
    if not models:
        click.echo(f"You can also name a model as {', '.join(OTHER_FORMS)}.")


def _print_table(rows: dict[str, tuple[str, Characteristics]]) -> None:
    headings = (
        "input",
        "parameters",
        "size\n(MB)",
        "MACs\n(million)",
        "MACs per\nparameter",
    )
    table = value_table("model", headings, "Work of one sample")
    for name, (shape, row) in rows.items():
        table.add_row(
            name,
            shape,
            f"{row.parameters:,}",
            number(row.size_bytes / 1e6),
            number(row.macs / 1e6),
            number(row.macs_per_parameter),
        )
    output_console().print(table)
