"""The command line's frame: help, errors and exit codes, in a real process."""

import os
import subprocess
import sys

import pytest
from measured_runs import joulelab

from joulelab.cli.group import COMMANDS


def test_help_names_every_command():
    result = joulelab("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("group", [[], ["llm"], ["hardware"]])
def test_a_group_without_a_command_shows_its_help(group):
    result = joulelab(*group)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == joulelab(*group, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["studdy"], "did you mean study?"),
        (["study", "--nonsense"], "--nonsense"),
        (["study"], "name a TOML file or a preset: batch-size"),
        (["study", "quik"], "did you mean quick?"),
        (["report", "/nonexistent"], "/nonexistent"),
        (["models", "--input", "32"], "does not accept 32"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(arguments, hint):
    result = joulelab(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert hint in result.stderr
    assert "Traceback" not in result.stderr


def test_version():
    assert joulelab("--version").stdout.startswith("joulelab, version ")


def test_a_reader_that_goes_away_is_not_complained_about():
    process = subprocess.Popen(
        [sys.executable, "-m", "joulelab", "doctor", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JOULELAB_SENSORS": "simulated"},
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert errors == ""


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom joulelab.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = ['torch', 'pandas', 'numpy', 'matplotlib', 'pydantic', 'rich', 'pyarrow']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"
