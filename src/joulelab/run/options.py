"""The options of ``joulelab run``, read without anything that takes time to import.

The command that is measured waits for this. ``joulelab run --help`` and the shell's completion
are made from the same table by :mod:`joulelab.cli.run`.
"""

from __future__ import annotations

import getopt
import os
from collections.abc import Sequence

from joulelab.errors import UserError, nearest

PHASES = ("data", "experimentation", "training", "inference")

TAKES_VALUE = {
    "out": ("DIR", "Keep the record here; the directory must be new or empty."),
    "json": ("FILE", "Write what was measured as JSON, too; - is standard output."),
    "name": ("TEXT", "What to call it; otherwise after its program or script."),
    "project": ("TEXT", "What it belongs to; otherwise $JOULELAB_PROJECT."),
    "phase": ("PHASE", f"{', '.join(PHASES)}; otherwise $JOULELAB_PHASE."),
    "tag": ("K=V", "Whatever else is to be known of it; may be given several times."),
    "sensors": ("NAMES", "What to read, with commas, as gpu,cpu; otherwise all there is."),
}
FLAGS = {
    "wait": "Start the command when the sensors are being read, some tenths of a second later.",
    "quiet": "Print no summary.",
}


class Options:
    """What was asked for.

    Attributes:
        command: The program and its arguments.
        out: Where to keep the record; ``None`` for the default place.
        json: Where to write the result as JSON; ``None`` for nowhere.
        name: What to call it; ``None`` for a name after the command.
        project: What it belongs to.
        phase: One of :data:`PHASES`.
        tags: By key.
        sensors: Names, or ``None`` for all that there is.
        wait: Whether the command waits for the sensors.
        quiet: Whether there is no summary.
    """

    def __init__(self, command: Sequence[str], given: Sequence[tuple[str, str]]) -> None:
        last = dict(given)
        self.command = list(command)
        self.out = last.get("--out")
        self.json = last.get("--json")
        self.name = last.get("--name")
        self.project = last.get("--project") or os.environ.get("JOULELAB_PROJECT") or None
        self.phase = last.get("--phase") or os.environ.get("JOULELAB_PHASE") or None
        self.tags = dict(_tag(value) for option, value in given if option == "--tag")
        self.sensors = names(last["--sensors"]) if "--sensors" in last else None
        self.wait = "--wait" in last
        self.quiet = not {"--quiet", "-q"}.isdisjoint(last)


def parse(arguments: Sequence[str]) -> Options | None:
    """Reads the arguments after ``run``; ``None`` when they ask for help.

    The first that is no option begins the command; what follows is the command's own.

    Raises:
        UserError: An option is unknown or lacks its value, or there is no command.

    Example:
        >>> options = parse(["--tag", "seed=1", "--", "python", "train.py", "--name", "x"])
        >>> options.command, options.name, options.tags
        (['python', 'train.py', '--name', 'x'], None, {'seed': '1'})
    """
    known = [f"{name}=" for name in TAKES_VALUE] + [*FLAGS, "help"]
    try:
        given, command = getopt.getopt(list(arguments), "hq", known)
    except getopt.GetoptError as error:
        raise UserError(error.msg, hint=_mend(error.opt)) from error
    if not {"-h", "--help"}.isdisjoint(dict(given)):
        return None
    if not command:
        raise UserError(
            "there is no command to run", hint="put it last, as `joulelab run -- python train.py`"
        )
    options = Options(command, given)
    if options.phase not in (None, *PHASES):
        raise UserError(f"no phase {options.phase!r}", hint=nearest(options.phase, PHASES))
    return options


def name_of(command: Sequence[str]) -> str:
    """A name for a command: its script's or module's where it is an interpreter's, else its own.

    Example:
        >>> name_of(["/usr/bin/python3", "-u", "src/train.py", "--lr", "1"]), name_of(["ls", "-l"])
        ('train', 'ls')
        >>> name_of(["python", "-m", "tools.bench"]), name_of(["bash", "-c", "sleep 1"])
        ('tools.bench', 'bash')
    """
    program, *rest = (os.path.basename(one) for one in command)  # noqa: PTH119
    if program.startswith(("python", "bash", "sh", "torchrun", "accelerate")):
        for option, argument in zip(["", *rest], rest, strict=False):
            if option == "-c":
                break
            if option == "-m":
                return argument
            if argument.endswith((".py", ".sh")):
                return argument[: argument.rindex(".")] or program
    return program


def slug(name: str) -> str:
    """A name as part of a directory's.

    Example:
        >>> slug("my run/2")
        'my-run-2'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:100]


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"tag {text!r} is no key and value", hint="write it as --tag key=value")
    return key, value


def names(text: str) -> list[str]:
    """Sensors as one writes them: names with commas, or one simulated machine.

    Example:
        >>> names("gpu, cpu")
        ['gpu', 'cpu']
    """
    if text.startswith("simulated:"):
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]


def _mend(option: str) -> str:
    known = [f"--{name}" for name in (*TAKES_VALUE, *FLAGS)]
    return f"{nearest(f'--{option}', known)}; the command's own options come after `--`"
