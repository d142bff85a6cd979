"""Idle power that was measured once and saved, the default on the same machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from joulelab.energy.baseline import IDLE_NOTE, Baseline, IdlePoint
from joulelab.format import timestamp
from joulelab.machine import Machine
from joulelab.sensors.host import boot_id
from joulelab.storage import home, make_private_directories, read_whole, write_whole, writing
from joulelab.validation import InvalidData, UnixTime, decode

SCHEMA = "joulelab-idle-1"
OLD_S = 14 * 86400.0
"""Idle power is stated to be old from this age on."""
_FIX = "measure it again with `joulelab idle`"


@dataclass(frozen=True, slots=True)
class _Saved:
    schema: Literal["joulelab-idle-1"]
    machine: str
    unix_s: UnixTime
    point: IdlePoint
    host: str = ""  # Unknown to older versions, like what follows.
    boot: str = ""
    gpus: dict[str, str] = field(default_factory=dict)  # UUIDs by component.

    def mismatch(self, machine: Machine) -> str:
        """Return why its idle power is not that of this machine; empty if it is."""
        # A container has a name of its own, and sees the GPUs that it was given.
        if self.host not in ("", machine.host) and self.boot != boot_id():
            return f"it was measured on {self.host}"
        if self.machine != machine.identity:
            return "it was measured with other hardware, power limits or drivers"
        return "it was measured with other GPUs" if self.gpus not in ({}, _gpus(machine)) else ""


def _gpus(machine: Machine) -> dict[str, str]:
    return {f"gpu:{gpu.index}": gpu.uuid for gpu in machine.gpus}


def baseline_file() -> Path:
    """Return where :func:`save_baseline` writes: one machine's last measurement."""
    return home() / "idle.json"


def save_baseline(point: IdlePoint, machine: Machine) -> Path:
    """Save an idle point (CLOCK_MONOTONIC) for later runs on a machine; return the file.

    Raises:
        StoreError: It cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "machine": machine.identity,
        "host": machine.host,
        "boot": boot_id(),
        "gpus": _gpus(machine),
        "unix_s": time.time() - (time.monotonic() - point.time_s),
        "point": point.to_json(),
    }
    path = baseline_file()
    with writing(path):
        make_private_directories(path.parent)
        write_whole(path, json.dumps(content, indent=1).encode() + b"\n", private=True)
    return path


def load_baseline(machine: Callable[[], Machine]) -> Baseline | None:
    """Load this machine's saved idle point, if any, as a baseline in CLOCK_MONOTONIC seconds.

    ``machine`` describes this machine; it is called only if there is a saved point. If the file is
    damaged or of another machine, the baseline has no point and states the problem.
    """
    path = baseline_file()
    try:
        saved = decode(read_whole(path), _Saved)
        why = saved.mismatch(machine())
    except FileNotFoundError:
        return None
    except (OSError, InvalidData) as error:
        why = f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
    if why:
        return Baseline((), f"{IDLE_NOTE} is unknown, because {why}: {_FIX}")
    age_s = time.time() - saved.unix_s
    problem = ""
    if age_s > OLD_S:
        problem = f"{IDLE_NOTE} is from {timestamp(saved.unix_s)} and may have changed: {_FIX}"
    return Baseline((saved.point.at(time.monotonic() - age_s),), problem)
