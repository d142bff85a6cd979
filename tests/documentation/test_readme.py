"""Every row of the README's tables works as it stands."""

import contextlib
import re
import shlex
import subprocess
import sys
import textwrap

import examples
import pytest
from desk import PREPARE, limits, run, script, studies, tokens, traces

README = (examples.ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
COMMANDS = [first.strip("`") for first, _ in ROWS if first.startswith("`joulelab ")]
LINES = {first: line.strip("`") if line.count("`") == 2 else line for first, line in ROWS}
PYTHON = shlex.quote(sys.executable)
ARGUMENTS = {
    "COMMAND": "true",
    "A B": "studies/mine studies/quick",
    "MODEL": "LeNet",
    "RUN": "mytrace",
    "STUDY": "studies/mine",
    "TABLE.csv": "limits.csv",
    "log.csv": "smi.csv",
}
"""Real arguments for the placeholders in the table of commands."""
ADDITIONS = {
    "idle": "--seconds 0.5",
    "watch": "--once",
    "export": "--textfile joulelab.prom --once",
    "study": "--list",
    "forecast": "--json",
    "llm bench": "--concurrency 1 --requests 2 --output-tokens 4 --idle 0.2",
}
"""Options that shorten a command."""
SERVE = examples.ROOT / "tests" / "llm" / "simulated_server.py"


@contextlib.contextmanager
def server_of(command):
    """Run a server for a command that loads one, and put its address into the command."""
    if " URL " not in command:
        yield command
        return
    with subprocess.Popen([sys.executable, SERVE], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield command.replace("URL", server.stdout.readline().strip())
        finally:
            server.terminate()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command, desk, request):
    for prepare in (script, studies, traces, limits, tokens, *PREPARE["import-logs"]):
        prepare(desk, request)
    for name, value in ARGUMENTS.items():
        command = command.replace(name, value)
    for name, options in ADDITIONS.items():
        command += f" {options}" if re.match(rf"joulelab {name}\b", command) else ""
    with server_of(command) as command:
        result = run(f"export JOULELAB_SENSORS=simulated; {command}", desk)
    assert result.returncode == 0, f"{command}\n{result.stderr}"


def test_all_commands_are_there():
    assert len(COMMANDS) > 10


SETUPS = {
    "your own loop": "import joulelab",
    "Lightning": "from lightning.pytorch import Trainer",
    "Transformers": "trainer = Mock()",
    "Keras": "model = Mock()",
}


def test_the_lines_for_frameworks_run_after_a_plain_import(desk):
    pytest.importorskip("lightning")
    code = ["import os", "from unittest.mock import Mock", "os.environ['KERAS_BACKEND'] = 'torch'"]
    for name, setup in SETUPS.items():
        line = LINES[name].replace("...", "None")
        code += [setup, f"{line} pass" if line.endswith(":") else line]
    result = run(f"{PYTHON} -W ignore -c {shlex.quote(chr(10).join(code))}", desk)
    assert result.returncode == 0, result.stderr


def test_the_line_for_pytest(desk):
    test = f"import pytest\n\n{LINES['pytest']}\ndef test_it():\n    sum(range(1000))\n"
    (desk / "test_it.py").write_text(test)
    result = run(f"{PYTHON} -m pytest -q --joulelab-sensors simulated test_it.py", desk)
    assert result.returncode == 0, result.stdout


def test_the_lines_for_jupyter(desk):
    load, magic = re.findall(r"`([^`]+)`", LINES["Jupyter"])
    code = f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        for cell in ({load!r}, {magic!r} + " --sensors simulated\\nsum(range(1000))"):
            shell.run_cell(cell).raise_error()
    """
    result = run(f"{PYTHON} -W ignore -c {shlex.quote(textwrap.dedent(code))}", desk)
    assert result.returncode == 0, result.stderr
