"""Records of runs: one type for wrapped commands, programs with a meter, and studies.

The words that commands share, so light that ``joulelab run`` can import them before its command.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from joulelab.format import slug

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_ARGUMENTS = "JOULELAB_NO_ARGUMENTS"
"""If this variable is set, records have no arguments of programs, which may contain secrets."""

PHASES = ("data", "experiment", "train", "infer")
"""Phases of a project: data preparation, experiments, training and inference."""

_OLD_PHASES = {"experimentation": "experiment", "training": "train", "inference": "infer"}

FACTORS = (
    "batch_size",
    "precision",
    "memory_format",
    "compile",
    "optimizer",
    "input_path",
    "device",
    "dataset",
    "power_limit_w",
    "clock_mhz",
    "prompt_tokens",
    "output_tokens",
    "attention",
    "cache",
)
"""The factors of a study, except the model. A run has no level of a factor that does not apply to
it, nor of a limit or clock that was left as it was found."""


LIMIT_UNITS = {"power_limit_w": "W", "clock_mhz": "MHz"}
"""The factors that limit a device, and their units."""


def phase_name(text: str | None) -> str | None:
    """Return today's name of a phase; earlier versions wrote ``"training"`` for ``"train"``.

    Example:
        >>> phase_name("training"), phase_name("data"), phase_name(None)
        ('train', 'data', None)
    """
    return None if text is None else _OLD_PHASES.get(text, text)


def name_of(command: Sequence[str]) -> str:
    """Name a command: after the script or module if an interpreter runs one, else the program.

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


def command_to_save(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command as its record has it: only the program if arguments are not to be saved."""
    return tuple(command[:1] if os.environ.get(NO_ARGUMENTS) else command)


def new_run_id(name: str) -> str:
    """Make a unique id that sorts by time, which is also the name of the run's directory."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{stamp}-{slug(name)}-{os.urandom(2).hex()}"
