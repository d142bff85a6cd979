"""Options that several commands share: percentages, a step of a model, carbon and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from joulelab.carbon.factors import countries
from joulelab.format import parse_percent
from joulelab.models.registry import parse_input_shape, zoo_names
from joulelab.runs.record import saved_run_directories
from joulelab.runs.selection import LATEST, PREVIOUS
from joulelab.runs.study_runs import is_study, planned_levels
from joulelab.validation import InvalidData

Command = TypeVar("Command", bound=Callable[..., Any])


class Percent(click.ParamType[float]):
    """A fraction, written as ``5%`` or ``0.05``."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the fraction."""
        try:
            return value if isinstance(value, float) else parse_percent(value)
        except ValueError:
            self.fail(f"{value!r} is not a percentage; give 5% or 0.05", param, ctx)


class DefaultGroup(click.Group):
    """A group that runs a default subcommand if none is named."""

    def __init__(self, *arguments: Any, default: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default if no subcommand is named."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self._default, *args]
        return super().parse_args(ctx, args)


def complete_country(*arguments: Any) -> list[CompletionItem]:
    """Complete country codes, and describe them by their names."""
    _context, _parameter, prefix = arguments
    found = [one for one in countries() if one.alpha2.startswith(prefix.upper())]
    return [CompletionItem(one.alpha2, help=one.name) for one in found]


def complete_files_or(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Create a completion of names that are found when it is needed, and of files."""

    def complete(*arguments: Any) -> list[CompletionItem]:
        _context, _parameter, prefix = arguments
        found = [CompletionItem(name) for name in names() if name.startswith(prefix)]
        return found or [CompletionItem(prefix, type="file")]

    return complete


def _presets() -> list[str]:
    from joulelab.study.plan_file import preset_names  # noqa: PLC0415 - imports pydantic

    return preset_names()


def _profiles() -> list[str]:
    from joulelab.predict.hardware_profile import profile_names  # noqa: PLC0415 - imports pydantic

    return profile_names()


def _runs() -> list[str]:
    saved = (path.name for folder in saved_run_directories() for path in folder.iterdir())
    return [LATEST, PREVIOUS, *sorted(saved, reverse=True)]


def complete_run(*arguments: Any) -> list[CompletionItem]:
    """Complete names of runs and, after the colon of ``STUDY:``, levels that vary in its plan."""
    prefix: str = arguments[2]
    path, colon, _ = prefix.partition(":")
    if not (colon and is_study(Path(path))):
        return complete_files_or(_runs)(*arguments)
    start = prefix[: prefix.rfind(",") + 1] or f"{path}:"
    try:
        planned = planned_levels(Path(path))
    except (OSError, InvalidData):
        return []
    names = [
        f"{start}{factor}={level}"
        for factor, levels in planned.items()
        for level in levels
        if len(levels) > 1
    ]
    return [CompletionItem(name) for name in names if name.startswith(prefix)]


complete_plan = complete_files_or(_presets)
complete_model = complete_files_or(zoo_names)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Create a decorator that adds options to a command; its help lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


site_options = with_options(
    click.option("--country", metavar="COUNTRY", shell_complete=complete_country,
        help="Use this country's mean carbon intensity (ISO 3166 code or English name)."),
    click.option("--intensity", "intensity_g_per_kwh", type=float, metavar="G/KWH",
        help="Use this carbon intensity."),
    click.option("--intensity-file", metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
        help="Use a carbon intensity over time: CSV with the columns time,g_per_kwh."),
    click.option("--pue", type=float, metavar="PUE",
        help="Power usage effectiveness; 1 if none is set."),
    click.option("--price", "price_per_kwh", type=float, metavar="PRICE", help="Price of a kWh."),
    click.option("--currency", metavar="CODE", help="Currency of the price, for example EUR."),
    click.option("--network", metavar="KIND", type=click.Choice(["fixed", "mobile", "core"]),
        help="Network that data goes through: fixed (default) or mobile access, or core alone."),
)  # fmt: skip
"""Named after the fields of :class:`joulelab.carbon.site.Site`; each overrides what ``joulelab
site`` saved, and is ``None`` if it is not given."""
PROFILE = click.option(
    "--profile",
    "profile_name",
    default="h100",
    show_default=True,
    metavar="PROFILE",
    shell_complete=complete_files_or(_profiles),
    help="Hardware profile: a file, or the name of a shipped or saved profile.",
)
PHASE = click.option(
    "--phase",
    type=click.Choice(["train", "infer"]),
    default="train",
    show_default=True,
    help="Predict a step of training or of inference.",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Number of samples in a step.",
)
INPUT = click.option(
    "--input",
    "input_shape",
    type=parse_input_shape,
    metavar="SHAPE",
    help="Shape of one sample: channels x height x width, or a number of tokens. "
    "Default: that of the model's source, 3x32x32 for the models of the paper.",
)
CLASSES = click.option(
    "--classes",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of classes of the model.",
)
