"""Idle power that was measured once and saved, the default on the same machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.storage import home, make_private_directories, read_whole, write_whole, writing
from joulelab.validation import InvalidData, UnixTime, decode

SCHEMA = "joulelab-idle-1"
_FIX = "measure it again with `joulelab idle`"


@dataclass(frozen=True, slots=True)
class _Saved:
    schema: Literal["joulelab-idle-1"]
    machine: str
    unix_s: UnixTime
    point: IdlePoint


def baseline_file() -> Path:
    """Return where :func:`save_baseline` writes: one machine's last measurement."""
    return home() / "idle.json"


def save_baseline(point: IdlePoint, machine: str) -> Path:
    """Save an idle point (CLOCK_MONOTONIC) for later runs on this machine; return the file.

    Raises:
        StoreError: It cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "machine": machine,
        "unix_s": time.time() - (time.monotonic() - point.time_s),
        "point": point.to_json(),
    }
    path = baseline_file()
    with writing(path):
        make_private_directories(path.parent)
        write_whole(path, json.dumps(content, indent=1).encode() + b"\n", private=True)
    return path


def load_baseline(machine: Callable[[], str]) -> Baseline | None:
    """Load this machine's saved idle point, if any, as a baseline in CLOCK_MONOTONIC seconds.

    ``machine`` returns this machine's identity; it is called only if there is a saved point. If the
    file is damaged, the baseline has no point and states the problem.
    """
    path = baseline_file()
    try:
        saved = decode(read_whole(path), _Saved)
        if saved.machine != machine():
            return None
    except FileNotFoundError:
        return None
    except (OSError, InvalidData) as error:
        why = getattr(error, "strerror", None) or error
        return Baseline((), f"idle power is unknown, because {path} cannot be read ({why}): {_FIX}")
    age_s = time.time() - saved.unix_s
    return Baseline((saved.point.at(time.monotonic() - age_s),))
