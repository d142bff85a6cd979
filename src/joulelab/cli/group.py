"""The group of all commands, each imported when it is used."""

from __future__ import annotations

import importlib

import click

import joulelab
from joulelab.errors import nearest

COMMANDS = {
    "doctor": "This machine's hardware and every sensor, present or absent",
    "run": "Measure any command as it runs",
    "models": "The models that a study can run, and their characteristics",
    "idle": "Measure this machine's idle power and keep it",
    "watch": "What is being measured, live",
    "gather": "What a job of many processes took, on all its hosts",
    "account": "Energy per span from logs that others recorded",
    "calibrate": "A GPU's power sensor against an external meter",
    "study": "Measure models on this machine: a plan in, a table and a report out",
    "forecast": "What a long run will take, from a short one",
    "hardware": "Profiles of devices, for predictions",
    "predict": "What a model that was never run will take",
    "rank": "Order models by predicted energy",
    "compare": "Are two jobs or studies different: effect, interval, test",
    "site": "Country, price and PUE, for carbon and money",
    "ledger": "What a project took over its life: jobs and studies of months and machines",
    "report": "Tables, figures and a page from one or several studies",
    "completion": "What lets a shell complete commands and options",
}
"""Name and one-line help. The module of the same name is imported when its command is used."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or nothing."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"joulelab.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown command names its nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(joulelab.__version__, prog_name="joulelab")
def app() -> None:
    """Measure, study, forecast and reduce the energy of machine learning.

    \b
    Example:
      joulelab doctor                     what can be measured here
      joulelab run -- python train.py     what one command takes
      joulelab study quick --out mystudy  measure four models and report them
    """
