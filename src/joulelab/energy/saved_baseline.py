"""Idle power that was measured once and is used by default on the same machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.machine import describe
from joulelab.storage import home, write_whole

SCHEMA = "joulelab-idle-1"


def idle_file() -> Path:
    """Where :func:`keep` writes; one machine's, the last that was measured."""
    return home() / "idle.json"


def keep(point: IdlePoint) -> Path:
    """Keeps an idle point for later runs on this machine.

    Args:
        point: Its time is on CLOCK_MONOTONIC seconds.

    Returns:
        The file it is in.

    Raises:
        OSError: The file cannot be written.
    """
    unix_s = time.time() - (time.monotonic() - point.time_s)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": describe().identity,
        "unix_s": unix_s,
        "point": point.to_json(),
    }
    path = idle_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1).encode() + b"\n")
    return path


def kept() -> Baseline | None:
    """The kept idle point as a baseline on CLOCK_MONOTONIC seconds.

    ``None`` when there is none, it was measured on another machine, or it cannot be read.
    """
    path = idle_file()
    if not os.access(path, os.R_OK):
        return None
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA or content["machine"] != describe().identity:
            return None
        point = IdlePoint.from_json(content["point"])
        age_s = time.time() - float(content["unix_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Baseline((point.at(time.monotonic() - age_s),))
