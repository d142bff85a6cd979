"""Idle power that was measured once and saved, the default on the same machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.storage import home, make_private_directories, write_whole

SCHEMA = "joulelab-idle-1"


def baseline_file() -> Path:
    """Return where :func:`save_baseline` writes: one machine's last measurement."""
    return home() / "idle.json"


def save_baseline(point: IdlePoint, machine: str) -> Path:
    """Save an idle point (CLOCK_MONOTONIC) for later runs on this machine; return the file."""
    content = {
        "schema": SCHEMA,
        "machine": machine,
        "unix_s": time.time() - (time.monotonic() - point.time_s),
        "point": point.to_json(),
    }
    path = baseline_file()
    make_private_directories(path.parent)
    write_whole(path, json.dumps(content, indent=1).encode() + b"\n", private=True)
    return path


def load_baseline(machine: Callable[[], str]) -> Baseline | None:
    """Load this machine's saved idle point, if any, as a baseline in CLOCK_MONOTONIC seconds.

    ``machine`` returns this machine's identity; it is called only if there is a saved point.
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
