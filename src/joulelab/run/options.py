"""The options of ``joulelab run``: one table for the parser, ``--help`` and shell completion.

The command that is measured waits for this module, so it imports nothing that takes time: click,
which the other commands are built on, would double the start-up.
"""

from __future__ import annotations

import getopt
import os
from collections.abc import Sequence
from typing import NamedTuple

from joulelab.errors import UserError, nearest
from joulelab.runs import PHASES, phase_name

TAKES_VALUE = {
    "out": (
        "DIR",
        "Save the record in this directory, which must be new or empty. In a job of several "
        "processes, each of them saves its record in DIR/HOST/rank-N.",
    ),
    "json": ("FILE", "Also write the result as JSON; - or nothing before -- is standard output."),
    "name": ("TEXT", "Name of the run.  [default: that of the program or script]"),
    "project": ("TEXT", "Project that the run belongs to.  [env: JOULELAB_PROJECT]"),
    "phase": ("PHASE", f"{', '.join(PHASES)}.  [env: JOULELAB_PHASE]"),
    "tag": ("KEY=VALUE", "Label the run; may be given several times."),
    "sensors": ("NAMES", "Sensors to read, for example gpu,cpu.  [default: all]"),
    "tracker": (
        "NAMES",
        "Log the record to mlflow, wandb or tensorboard:DIR when the command has ended: to the run "
        "that it began there, or a new one.",
    ),
}
FLAGS = {
    "wait": "Start the command once the sensors are being read (a second later, at most 30 s).",
    "no-arguments": "Do not save the arguments of the command.  [env: JOULELAB_NO_ARGUMENTS]",
    "quiet": "Print no summary.",
}
_ALL = (*TAKES_VALUE, *FLAGS)


class Options(NamedTuple):
    """What the user asked for; see :data:`TAKES_VALUE` and :data:`FLAGS`."""

    command: list[str]
    out: str | None
    json: str | None
    name: str | None
    project: str | None
    phase: str | None
    tags: dict[str, str]
    sensors: list[str] | None
    trackers: list[str]
    wait: bool
    no_arguments: bool
    quiet: bool


def parse(arguments: Sequence[str]) -> Options | None:
    """Parse the arguments after ``run``; return ``None`` if they ask for help.

    The first argument that is not an option begins the command.

    Raises:
        UserError: An option is unknown or lacks its value, or there is no command.

    Example:
        >>> options = parse(["--tag", "seed=1", "--", "python", "train.py", "--name", "x"])
        >>> options.command, options.name, options.tags
        (['python', 'train.py', '--name', 'x'], None, {'seed': '1'})
    """
    try:
        given, command = getopt.getopt(
            list(arguments), "hq", [*(f"{name}=" for name in TAKES_VALUE), *FLAGS, "help"]
        )
    except getopt.GetoptError as error:
        hint = nearest(f"--{error.opt}", [f"--{name}" for name in _ALL])
        raise UserError(
            error.msg, hint=f"{hint}; put the options of the command after `--`"
        ) from error
    # In `run --json -- COMMAND`, the option's value is missing, and not two hyphens.
    given = [
        (name, "-") if (name, value) == ("--json", "--") else (name, value) for name, value in given
    ]
    last = dict(given)
    if without := [option for option, value in given if value == "--"]:
        raise UserError(f"{without[0]} has no value", hint=f"write {without[0]} VALUE before `--`")
    if not {"-h", "--help"}.isdisjoint(last):
        return None
    if not command:
        raise UserError(
            "there is no command to run",
            hint="put it last, for example `joulelab run -- python train.py`",
        )
    phase = phase_name(last.get("--phase") or os.environ.get("JOULELAB_PHASE") or None)
    if phase not in (None, *PHASES):
        raise UserError(f"there is no phase {phase!r}", hint=nearest(phase, PHASES))
    return Options(
        command=command,
        out=last.get("--out"),
        json=last.get("--json"),
        name=last.get("--name"),
        project=last.get("--project") or os.environ.get("JOULELAB_PROJECT") or None,
        phase=phase,
        tags=dict(_tag(value) for option, value in given if option == "--tag"),
        sensors=sensor_names(last["--sensors"]) if "--sensors" in last else None,
        trackers=[one.strip() for one in last.get("--tracker", "").split(",") if one.strip()],
        wait="--wait" in last,
        no_arguments="--no-arguments" in last,
        quiet=not {"--quiet", "-q"}.isdisjoint(last),
    )


def sensor_names(text: str) -> list[str]:
    """Split a list of sensors; the specification of a simulated machine is one name.

    Example:
        >>> sensor_names("gpu, cpu")
        ['gpu', 'cpu']
    """
    if text.startswith("simulated:"):
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"tag {text!r} has no key and value", hint="write it as --tag key=value")
    return key, value
