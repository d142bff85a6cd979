"""The help of every command: complete, in plain English, and no wider than a terminal."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from joulelab.cli.group import app

VERBS = {
    "Add", "Build", "Calibrate", "Compare", "Compute", "Create", "Delete", "Export", "Find", "Fit",
    "Forecast", "List", "Measure", "Predict", "Print", "Rank", "Report", "Save", "Set", "Show",
    "Test", "Write",
}  # fmt: skip
"""First words that the summary of a command may have."""

WORD_LIST = Path(__file__).parents[2] / "docs" / "plain-english.txt"
WORDS_TO_AVOID = (
    *(line.partition("->")[0] for line in WORD_LIST.read_text().splitlines()),
    "said", "knows", "one's own", "doubts", "remarks", "held", "holds", "kept", "keeps", "looks?",
    "at once", "in words", "so many", "of which", "in place of", "what is over",
    "shown to differ", "account", "accounting", "accounted",
)  # fmt: skip
"""Regular expressions of words that help pages do not use: those that are avoided everywhere, and
those that have a proper use elsewhere."""


def commands(command, path):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


def metavar(argument, command):
    text = argument.make_metavar(click.Context(command)).lower()
    return re.search("[a-z]+", text).group()


@pytest.fixture(scope="module")
def pages():
    """Each command with the text of its help page, by the words that run it."""
    runner = CliRunner(env={"COLUMNS": "200"})
    found = {}
    for path, command in commands(app, ("joulelab",)):
        result = runner.invoke(app, [*path[1:], "--help"], prog_name="joulelab")
        assert result.exit_code == 0, result.output
        found[" ".join(path)] = command, result.output
    assert len(found) > 20
    return found


def test_every_option_has_help(pages):
    missing = [
        f"{name} {option.opts[0]}"
        for name, (command, _) in pages.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not option.help
    ]
    assert not missing


def test_sections_of_options_list_nothing_else(pages):
    arguments = [
        f"{name} {argument.name}"
        for name, (command, text) in pages.items()
        for argument in command.params
        if isinstance(argument, click.Argument)
        and re.search(
            rf"^ +{re.escape(argument.make_metavar(click.Context(command)))}$", text, re.MULTILINE
        )
    ]
    assert not arguments


def test_every_argument_is_explained(pages):
    missing = [
        f"{name} {argument.name}"
        for name, (command, _) in pages.items()
        for argument in command.params
        if isinstance(argument, click.Argument)
        and metavar(argument, command) not in command.help.lower()
    ]
    assert not missing


def test_summaries_start_with_a_verb(pages):
    other = [
        f"{name}: {command.help.split()[0]}"
        for name, (command, _) in pages.items()
        if command.help.split()[0].rstrip(",") not in VERBS
    ]
    assert not other


def test_every_page_has_an_example(pages):
    missing = [
        name
        for name, (_, text) in pages.items()
        if not re.search(r"^ +Examples?:\n( +.*\n)*? +.*joulelab ", text, re.MULTILINE)
    ]
    assert not missing


def test_pages_are_at_most_100_columns_wide(pages):
    wide = [
        f"{name}: {line.strip()}"
        for name, (_, text) in pages.items()
        for line in text.splitlines()
        if len(line) > 100
    ]
    assert not wide


def test_pages_use_plain_words(pages):
    pattern = re.compile(rf"\b({'|'.join(WORDS_TO_AVOID)})\b", re.IGNORECASE)
    found = [
        f"{name}: {line.strip()}"
        for name, (_, text) in pages.items()
        for line in text.splitlines()
        if pattern.search(line)
    ]
    assert not found
