"""Borrow controls: change limits and clocks such that they are restored whatever happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from joulelab.controls.control import Control
from joulelab.controls.guard import Guard
from joulelab.controls.saved_state import (
    SavedState,
    is_same,
    lock_device,
    remove_state,
    restore,
    restore_left,
    save_found,
)
from joulelab.errors import ControlError, JoulelabError
from joulelab.format import number
from joulelab.storage import Lock


class Borrowed:
    """Controls that this process may change until it closes this object, or ends.

    If another program changes a control at the same time, JouleLab stops setting it (:meth:`set`
    raises) and does not restore it, so that an administrator's decision stays. Clocks, which NVML
    does not report, are always released.

    Attributes:
        found: The value of each control before; ``None`` if the driver does not report it.
        notes: What an earlier run had left and was restored first, and what was not restored.
    """

    def __init__(self, controls: Sequence[Control]) -> None:
        self.notes: list[str] = []
        self.found: dict[Control, float | None] = {}
        self._own_values: dict[str, list[float]] = {}
        self._owner_pid = os.getpid()
        self._locks: dict[str, Lock] = {}
        self._states: list[SavedState] = []
        self._guard: Guard | None = None
        try:
            for device, component in {one.device: one.component for one in controls}.items():
                self._locks[device] = lock_device(device, component)
            for device in self._locks:
                self.notes += restore_left(device)
            for control in controls:
                control.check_rights()
                self.found[control] = control.read()
            self._start_guard()
        except BaseException:
            for state in self._states:
                remove_state(state)
            self._release()
            raise

    def set(self, settings: Mapping[str, float]) -> None:
        """Set controls, on every device that has been borrowed.

        Args:
            settings: Values by the controls' names, for example ``{"power_limit": 250}``, in the
                controls' units.

        Raises:
            ControlError: A value is not allowed, the device refuses it or uses another one, or
                another program has changed the control.
        """
        names = {control.name for control in self.found}
        if not names.issuperset(settings):
            unknown = ", ".join(sorted(set(settings) - names))
            raise ControlError(f"cannot set {unknown}", why="it was not borrowed")
        for control in self.found:
            if control.name in settings:
                self._set(control, settings[control.name])

    def close(self) -> None:
        """Restore the values that were found. Later calls do nothing.

        Raises:
            JoulelabError: Something could not be restored. The guard tries once more when this
                process ends, and ``joulelab tune --restore`` can later.
        """
        if self._guard is None or os.getpid() != self._owner_pid:
            return
        failure: JoulelabError | None = None
        for state in self._states:
            try:
                self.notes += restore(state, self._own_values)
            except JoulelabError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, control: Control, value: float) -> None:
        found = self.found[control]
        own = self._own_values.get(control.name, [])
        current = control.read()
        known = own if found is None else [found, *own]
        if current is not None and not any(is_same(current, one) for one in known):
            raise ControlError(
                f"another program has set {control.title} to {number(current, 4)} {control.unit}",
                why="it was changed while JouleLab was tuning it",
                hint="stop the other program, and tune again",
            )
        control.check_value(value)
        self._announce(control, value)
        control.set(value)
        current = control.read()
        if current is not None and not is_same(current, value):
            self._announce(control, current)
            raise ControlError(
                f"cannot set {control.title} to {number(value, 4)} {control.unit}",
                why=f"the driver uses {number(current, 4)} {control.unit} instead",
            )

    def _announce(self, control: Control, value: float) -> None:
        """Let the guard know a value that JouleLab sets, so that it is known to be ours."""
        own = self._own_values.setdefault(control.name, [])
        if value not in own:
            own.append(value)
        if self._guard is None or not self._guard.announce(control.name, value):
            self._start_guard()

    def _start_guard(self) -> None:
        """Start a guard, also in place of one that was killed."""
        if self._guard is not None:
            self._guard.dismiss()
        self._states = save_found(self.found)
        descriptors = [lock.descriptor for lock in self._locks.values()]
        self._guard = Guard(self._states, descriptors, self._own_values)

    def _release(self) -> None:
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()


def borrow(controls: Sequence[Control]) -> Borrowed:
    """Borrow controls of one or several devices.

    First restores what an earlier run has left on these devices.

    Args:
        controls: From :func:`~joulelab.controls.machine_controls.find_controls`.

    Returns:
        A context manager that restores the values found.

    Raises:
        ControlError: This process may not set one of them.
        StoreError: Another process has borrowed one of the devices; the text names its pid.
    """
    return Borrowed(controls)


def check_borrowable(controls: Sequence[Control]) -> None:
    """Raise an error if controls cannot be borrowed now, as :func:`borrow` does.

    Nothing is changed or started, so that a program can ask before it begins to work.
    """
    with ExitStack() as stack:
        for device, component in {one.device: one.component for one in controls}.items():
            stack.callback(lock_device(device, component).release)
        for control in controls:
            control.check_rights()
