"""The values that were found before controls were changed, on disk until they are restored.

``$JOULELAB_HOME/controls`` has a state file for each device whose values may differ from those that
were found, and a lock file for each device that was ever borrowed. A state file of a device that no
process has locked is what a power failure left, or a kill of the guard.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from joulelab.controls.control import Control
from joulelab.controls.machine_controls import find_controls
from joulelab.errors import ControlError, JoulelabError, StoreError
from joulelab.format import number, slug, timestamp
from joulelab.sensors.host import boot_id
from joulelab.storage import (
    Lock,
    file_errors,
    home,
    make_private_directories,
    read_whole,
    sync,
    write_whole,
    writing,
)
from joulelab.validation import InvalidData, NotNegative, Pid, UnixTime, decode

LOCK_WAIT_S = 2.0
"""The guard of a killed program has the lock until it has restored everything."""
POLL_S = 0.02
SAME = 0.005
"""Devices round values: amdgpu to 1 W, RAPL to 1/8 W. Levels are further apart."""


@dataclass(frozen=True, slots=True)
class SavedValue:
    """What was found: ``None`` if the driver does not report it."""

    name: str
    found: NotNegative | None


@dataclass(frozen=True, slots=True)
class SavedState:
    """What was found on one device, when, and by which process; ``path`` is the file."""

    path: str
    device: str
    component: str
    pid: Pid
    boot_id: str
    unix_s: UnixTime
    values: tuple[SavedValue, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored and what could not be, as texts without a full stop."""

    notes: tuple[str, ...]
    failures: tuple[str, ...]


def lock_device(device: str, component: str) -> Lock:
    """Lock a device, so that only one process changes it.

    Raises:
        StoreError: Another process has it; the text names its pid.
    """
    path = _directory() / f"{slug(device)}.lock"
    hint = "end it: what it changed is then restored"
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return Lock(path, resource=component, use="tuning it", hint=hint)
        except StoreError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)


def save_found(found: Mapping[Control, float | None]) -> list[SavedState]:
    """Save what was found on each device, and return it.

    Raises:
        StoreError: It cannot be written.
    """
    states = []
    for device, component in {one.device: one.component for one in found}.items():
        path = _directory() / f"{slug(device)}.json"
        state = SavedState(
            path=str(path),
            device=device,
            component=component,
            pid=os.getpid(),
            boot_id=boot_id(),
            unix_s=time.time(),
            values=tuple(
                SavedValue(one.name, value) for one, value in found.items() if one.device == device
            ),
        )
        with writing(path):
            write_whole(path, json.dumps(asdict(state)).encode(), private=True)
        states.append(state)
    return states


def restore(
    state: SavedState, own_values: Mapping[str, Collection[float]] | None = None
) -> list[str]:
    """Restore what was found on a device that this process has locked, and remove the state.

    Args:
        state: What was found.
        own_values: What JouleLab has set, by name. Another value was set by another program, and is
            not changed. ``None`` if it is unknown what JouleLab has set.

    Returns:
        What was done, if it is not what is expected after a normal end.

    Raises:
        JoulelabError: Something could not be restored; the state is still there.
    """
    controls = {
        one.name: one for one in find_controls(all_gpus=True).controls if one.device == state.device
    }
    notes: list[str] = []
    failure: JoulelabError | None = None
    for value in state.values:
        control = controls.get(value.name)
        own = None if own_values is None else own_values.get(value.name, ())
        try:
            if state.boot_id != boot_id():
                notes += _after_restart(control, state, value.found)
            elif control is not None:
                notes += _restore_value(control, state, value.found, own)
            else:
                raise ControlError(
                    f"cannot restore the {value.name.replace('_', ' ')} of {state.component}",
                    why=f"the device {state.device} is missing or does not answer",
                    hint="check the device, then run `joulelab tune --restore`",
                )
        except JoulelabError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    remove_state(state)
    return notes


def remove_state(state: SavedState) -> None:
    """Remove the file of a device whose values are those that were found.

    Raises:
        StoreError: It cannot be removed.
    """
    path = Path(state.path)
    with writing(path), suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)


def restore_left(device: str) -> list[str]:
    """Restore what an ended run has left on a device that this process has locked.

    Raises:
        JoulelabError: Something could not be restored; the state is still there.
    """
    path = _directory() / f"{slug(device)}.json"
    return restore(_read_state(path)) if path.exists() else []


def restore_all() -> Restored:
    """Restore what ended runs have left changed; devices that are in use are left alone."""
    notes: list[str] = []
    failures: list[str] = []
    for path in sorted(_directory().glob("*.json")):
        try:
            state = _read_state(path)
            lock = lock_device(state.device, state.component)
            try:
                notes += restore_left(state.device)
            finally:
                lock.release()
        except JoulelabError as error:
            failures.append(str(error))
    return Restored(tuple(notes), tuple(failures))


def is_same(a: float, b: float) -> bool:
    """Report whether two values are equal but for a device's rounding."""
    return abs(a - b) <= SAME * max(a, b)


def _directory() -> Path:
    directory = home().absolute() / "controls"
    with writing(directory):
        make_private_directories(directory)
    return directory


def _read_state(path: Path) -> SavedState:
    try:
        with file_errors(f"cannot read {path}"):
            return decode(read_whole(path), SavedState)
    except InvalidData as error:
        raise StoreError(
            f"cannot restore what {path} says",
            why=str(error),
            hint="check the device's limits, for example with `nvidia-smi -q -d POWER`, and "
            "remove the file",
        ) from error


def _restore_value(
    control: Control, state: SavedState, found: float | None, own: Collection[float] | None
) -> list[str]:
    """Restore a value. ``own`` is what JouleLab has set, or ``None`` if that is unknown."""
    if own is not None and not own:
        return []
    current = control.read()
    if current is None or found is None:
        control.restore(found)
        return [f"released {control.title}, {_origin(state)}"] if own is None else []
    if current == found:
        return []
    before, wanted = (f"{number(value, 4)} {control.unit}" for value in (current, found))
    if own is not None and not any(is_same(current, value) for value in (found, *own)):
        return [f"another program has set {control.title} to {before}: it was not restored"]
    control.restore(found)
    after = control.read()
    if after is None or not is_same(after, found):
        raise ControlError(
            f"cannot restore {control.title} to {wanted}",
            why=f"the driver uses {number(after, 4)} {control.unit} instead",
            hint="run `joulelab tune --restore` again",
        )
    if own is not None:
        return []
    return [f"restored {control.title} from {before} to {wanted}, {_origin(state)}"]


def _after_restart(control: Control | None, state: SavedState, found: float | None) -> list[str]:
    """Report what a restart of the machine, which resets limits and clocks, has undone."""
    current = None if control is None else control.read()
    if control is None or found is None or current is None or is_same(current, found):
        return []
    return [
        f"{control.title} is {number(current, 4)} {control.unit} since the machine was restarted, "
        f"and was {number(found, 4)} {control.unit} before process {state.pid} changed it"
    ]


def _origin(state: SavedState) -> str:
    """Name the process that had changed it, as the end of a note."""
    return f"which process {state.pid} had changed on {timestamp(state.unix_s)}"
