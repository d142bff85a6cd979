"""The top-level command group. Each command's module is imported only when the command runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

import joulelab
from joulelab.errors import nearest

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Measure": {
        "doctor": "Show this machine's hardware and check every sensor",
        "idle": "Measure and save this machine's idle power",
        "run": "Measure any command while it runs",
        "show": "Show the summary of a run",
        "watch": "Show power, spans and energy live",
        "gather": "Add up the energy of a multi-process job over its hosts",
        "import": "Compute energy per span from logs of other tools",
        "llm": "Measure joules per token of language models in service",
        "calibrate": "Calibrate a GPU's power sensor against an external meter",
    },
    "Study": {
        "models": "List models and their characteristics",
        "study": "Measure models on this machine and report the results",
        "import-study": "Build a study from logs of other tools",
        "report": "Write the page of a run, or of one or more studies",
        "compare": "Test whether two runs or studies differ, and by how much",
    },
    "Predict": {
        "forecast": "Forecast a long run from a short one",
        "predict": "Predict the energy of a model that was never run",
        "rank": "Rank models by predicted energy",
        "hardware": "Create hardware profiles for predictions",
    },
    "Reduce": {
        "tune": "Find the settings that use the least energy within a slow-down",
    },
    "Track": {
        "runs": "List, label and delete runs",
        "ledger": "Add up energy, carbon and cost over all runs",
        "site": "Set the country, price and PUE for carbon and cost",
        "export": "Serve energy and power to Prometheus and Grafana",
    },
    "Other": {
        "completion": "Print the shell completion script",
    },
}
"""The sections of ``joulelab --help``: commands and their one-line summaries."""

COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}

ALIASES = {"account": "import"}
"""Names that work but are not listed."""

MODULES = {"import": "import_log", "import-study": "import_study"}
"""The module of each command whose module has another name."""


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the command names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or return ``None`` if there is none of that name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"joulelab.cli.{MODULES.get(name, name)}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve like click, but suggest the nearest command for an unknown name."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in {*COMMANDS, *ALIASES}:
            raise click.UsageError(f"no command {name!r}; {nearest(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections without importing any command."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=12)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(joulelab.__version__, prog_name="joulelab")
def app() -> None:
    """Measure, study, forecast and reduce the energy of machine learning.

    \b
    Examples:
      joulelab doctor                     check what can be measured here
      joulelab run -- python train.py     measure one command
      joulelab study quick --out mystudy  measure four models and write a report
    """
