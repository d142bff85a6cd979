"""The options of ``joulelab run``: what is the wrapper's, and what is the command's."""

import getopt

import pytest
from click.core import Option
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.format import slug
from joulelab.run.options import FLAGS, TAKES_VALUE, parse
from joulelab.runs import name_of

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES = st.sampled_from(sorted(set(TAKES_VALUE) - {"phase", "tag"}))
COMMANDS = st.lists(TEXT, min_size=1, max_size=5)


@given(
    st.lists(st.tuples(VALUES, TEXT.filter("--".__ne__))),
    st.sets(st.sampled_from(sorted(FLAGS))),
    COMMANDS,
)
def test_the_command_is_left_as_it_is_whatever_stands_before_it(values, flags, command):
    arguments = [part for name, value in values for part in (f"--{name}", value)]
    options = parse([*arguments, *(f"--{flag}" for flag in flags), "--", *command])
    assert options.command == command
    assert (options.wait, options.quiet) == ("wait" in flags, "quiet" in flags)
    last = dict(values)
    assert (options.out, options.json, options.name) == tuple(
        last.get(name) for name in ("out", "json", "name")
    )


def test_two_hyphens_are_never_the_value_of_an_option():
    options = parse(["--quiet", "--json", "--", "train", "--out", "x"])
    assert (options.json, options.command) == ("-", ["train", "--out", "x"])
    assert options.quiet
    with pytest.raises(UserError, match="--out has no value"):
        parse(["--out", "--", "train"])


@given(COMMANDS)
def test_without_dashes_the_first_word_begins_the_command(command):
    if command[0].startswith("-"):
        command[0] = "x" + command[0]
    assert parse(["--quiet", *command]).command == command


@given(st.lists(TEXT))
def test_any_line_is_understood_or_refused_in_one_line(arguments):
    refusal = ""
    options = None
    try:
        options = parse(arguments)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert refusal or options is None or options.command


@given(COMMANDS, TEXT)
def test_names_are_one_part_of_a_path(command, name):
    for text in (slug(name), slug(name_of(command))):
        assert "/" not in text
        assert "\0" not in text


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3.11", "-u", "-W", "error", "a/train.py", "x.py"], "train"),
        (["python", "-m", "pkg.main"], "pkg.main"),
        (["python", "-c", "import x.py"], "python"),
        (["torchrun", "--nproc-per-node", "4", "train.py"], "train"),
        (["./train.py"], "train.py"),
        (["/usr/bin/env", "python"], "env"),
        (["python"], "python"),
        (["bash", ".sh"], "bash"),
    ],
)
def test_a_job_is_called_after_what_it_runs(command, name):
    assert name_of(command) == name


def test_the_help_knows_the_options_that_are_read():
    from joulelab.cli.run import command

    shown = {
        name[2:]
        for one in command.params
        if isinstance(one, Option)
        for name in one.opts
        if name.startswith("--")
    }
    assert shown == {*TAKES_VALUE, *FLAGS}
    for name in shown:
        given, _ = getopt.getopt(
            [f"--{name}", "x"], "", [f"{one}=" for one in TAKES_VALUE] + list(FLAGS)
        )
        assert given
