"""``joulelab models``: list models with their size and work per sample."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import track

from joulelab.cli.options import CLASSES, INPUT, complete_model
from joulelab.cli.output import output_console, print_json, value_table
from joulelab.errors import UserError
from joulelab.format import join_words, number
from joulelab.models.registry import (
    OTHER_FORMS,
    build_model,
    canonical_name,
    default_input_shape,
    has_random_weights,
    language_config,
    require_torch,
    zoo_names,
)

if TYPE_CHECKING:
    from torch import nn

    from joulelab.models.characteristics import Characteristics
    from joulelab.models.token_work import TokenWork


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_model)
@INPUT
@CLASSES
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per model.")
def command(
    models: tuple[str, ...], input_shape: tuple[int, ...] | None, classes: int, as_json: bool
) -> None:
    """List models with their size and the work that one sample or token takes.

    Without MODEL: the 16 models of the paper. MODEL is one of their names, lm:NAME,
    torchvision:NAME, timm:NAME, hf:CONFIG, or package.module:factory for any callable that returns
    a PyTorch module.

    \b
    Example:
      joulelab models
      joulelab models ResNet18 torchvision:resnet18 --input 3x224x224 --classes 1000
      joulelab models lm:smollm2-135m lm:llama-3.2-1b --input 512
    """
    names = list(dict.fromkeys(map(canonical_name, models or zoo_names())))
    require_torch()
    from joulelab.models.characteristics import characterize, weightless  # noqa: PLC0415 - imports torch

    stderr = Console(stderr=True)
    hidden = not stderr.is_terminal
    rows = []
    for name in track(names, "Counting", console=stderr, transient=True, disable=hidden):
        shape = input_shape or default_input_shape(name)
        with weightless():
            model = build_model(name, num_classes=classes, in_channels=shape[0])
        size = characterize(model, shape, name=name)
        rows.append(_Row(name, "x".join(map(str, shape)), size, *_token_work(name, model, shape)))
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    _print_samples([row for row in rows if row.tokens is None])
    _print_tokens([row for row in rows if row.tokens is not None])
    if not models:
        click.echo(f"You can also name a model as {', '.join(OTHER_FORMS)}.")


@dataclass(frozen=True, slots=True)
class _Row:
    """A model, its size and the work of a sample; of a language model also that of a token."""

    name: str
    shape: str
    size: Characteristics
    tokens: TokenWork | None
    random_weights: bool

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        described = {"model": self.name, "input": self.shape, **dataclasses.asdict(self.size)}
        if self.tokens is None:
            return described
        weights = "random" if self.random_weights else "local"
        return described | dataclasses.asdict(self.tokens) | {"weights": weights}


def _token_work(
    name: str, model: nn.Module, shape: tuple[int, ...]
) -> tuple[TokenWork | None, bool]:
    """Count the work per token of a language model, and report whether its weights are random."""
    from joulelab.models.token_work import count_token_work  # noqa: PLC0415 - imports torch

    try:
        if language_config(name) is None:
            return None, True
    except UserError as error:  # for example a recurrent model, which has no heads
        click.echo(f"joulelab: no work per token of {name}: {error}", err=True)
        return None, True
    return count_token_work(model, shape[0], name=name), has_random_weights(name)


def _print_samples(rows: list[_Row]) -> None:
    if not rows:
        return
    headings = (
        "input",
        "parameters",
        "size\n(MB)",
        "MACs\n(million)",
        "MACs per\nparameter",
    )
    table = value_table("model", headings, "Work of one sample")
    for row in rows:
        table.add_row(
            row.name,
            row.shape,
            f"{row.size.parameters:,}",
            number(row.size.size_bytes / 1e6),
            number(row.size.macs / 1e6),
            number(row.size.macs_per_parameter),
        )
    output_console().print(table)


def _print_tokens(rows: list[_Row]) -> None:
    if not rows:
        return
    headings = (
        "prompt\n(tokens)",
        "parameters",
        "active\n(million)",
        "size\n(MB)",
        "prefill\n(million\nMACs)",
        "decode\n(million\nMACs)",
        "cache\n(kB)",
    )
    table = value_table("model", headings, "Work and cache per token")
    for row in rows:
        assert row.tokens is not None
        table.add_row(
            row.name,
            row.shape,
            f"{row.size.parameters:,}",
            number(row.tokens.active_parameters / 1e6),
            number(row.size.size_bytes / 1e6),
            number(row.tokens.prefill_macs_per_token / 1e6),
            number(row.tokens.decode_macs / 1e6),
            number(row.tokens.cache_bytes_per_token / 1e3),
        )
    output_console().print(table)
    random = [row.name for row in rows if row.random_weights]
    if random:
        click.echo(
            f"The weights of {join_words(random)} are random: "
            "at equal lengths they cost the energy of trained ones."
        )
