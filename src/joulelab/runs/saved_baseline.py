"""Idle power that was measured once and saved, the default on the same machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.storage import home, write_whole

SCHEMA = "joulelab-idle-1"


def baseline_file() -> Path:
    """Return where :func:`save_baseline` writes: one machine's last measurement."""
    return home() / "idle.json"


def save_baseline(point: IdlePoint, machine: str) -> Path:
    """Save an idle point for later runs on this machine.

    Args:
        point: Its time is in CLOCK_MONOTONIC seconds.
        machine: The machine's identity, see :attr:`joulelab.machine.Machine.identity`.

    Returns:
        The file.

    Raises:
        OSError: The file cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "machine": machine,
        "unix_s": time.time() - (time.monotonic() - point.time_s),
        "point": point.to_json(),
    }
    path = baseline_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1).encode() + b"\n")
    return path


def load_baseline(machine: Callable[[], str]) -> Baseline | None:
    """Load the saved idle point as a baseline in CLOCK_MONOTONIC seconds.

    Args:
        machine: Returns this machine's identity; called only if there is a saved point.

    Returns:
        ``None`` if nothing is saved, it belongs to another machine, or it cannot be read.
    """
    path = baseline_file()
    if not os.access(path, os.R_OK):
        return None
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA or content["machine"] != machine():
            return None
        point = IdlePoint.from_json(content["point"])
        age_s = time.time() - float(content["unix_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Baseline((point.at(time.monotonic() - age_s),))
