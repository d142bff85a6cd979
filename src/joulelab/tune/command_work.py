"""A command as work to tune: its steps while it runs, or whole runs of it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from joulelab.controls.borrowing import Borrowed
from joulelab.errors import RecorderError, UserError
from joulelab.meter import Meter
from joulelab.recording.client import RecorderOptions
from joulelab.recording.recorder_choice import open_recorder
from joulelab.recording.trace_spans import Window
from joulelab.run.process import LaunchError
from joulelab.tune.device_knobs import gpus_in_use
from joulelab.tune.knobs import knob_title, plain_level
from joulelab.tune.live_windows import LiveWindows
from joulelab.tune.probes import Knob, Level, Settings
from joulelab.tune.tuning import Measured, UnmeasurableError, WorkEndedError
from joulelab.tune.windows import probe_of

RECORDING = "JOULELAB_RECORDING"
POLLS_PER_WINDOW = 8
GRACE_S = 10.0
"""Time that a command has to end after a signal, before it is sent a stronger one."""

WHOLE_RUNS = "each probe is a whole run of the command, because {}"


def placeholders(command: Sequence[str]) -> tuple[str, ...]:
    """Return the names in braces in a command, each once.

    Example:
        >>> placeholders(["python", "train.py", "--batch-size={batch-size}", "{}"])
        ('batch_size',)
    """
    found = re.findall(r"\{([A-Za-z][\w-]*)\}", " ".join(command))
    return tuple(dict.fromkeys(name.replace("-", "_") for name in found))


def filled(command: Sequence[str], settings: Settings) -> list[str]:
    """Replace the placeholders of these knobs by their levels.

    Example:
        >>> filled(["train", "--batch-size={batch_size}", "{print}"], {"batch_size": 64})
        ['train', '--batch-size=64', '{print}']
    """
    words = list(command)
    for name, level in settings.items():
        for written in (name, name.replace("_", "-")):
            words = [word.replace(f"{{{written}}}", plain_level(level)) for word in words]
    return words


def program_knobs(command: Sequence[str], levels: Mapping[str, Sequence[Level]]) -> list[Knob]:
    """Make knobs of the placeholders of a command; the first level is the baseline.

    Raises:
        UserError: A knob has no placeholder, or fewer than two levels.
    """
    for name, of_knob in levels.items():
        written = name.replace("_", "-")
        if name not in placeholders(command):
            raise UserError(
                f"the command does not use the {knob_title(name)}",
                hint=f"write {{{name}}} where its value belongs in the command",
            )
        if len(of_knob) < 2:
            raise UserError(
                f"the levels of {written} are unknown",
                hint=f"give two or more, the usual one first: --knobs {written}=A,B",
            )
    return [Knob(name, tuple(_ordered(of_knob)), of_knob[0]) for name, of_knob in levels.items()]


def _ordered(levels: Sequence[Level]) -> Sequence[Level]:
    is_text = any(isinstance(level, str) for level in levels)
    return levels if is_text else sorted(levels)


class CommandWork:
    """A command; a context manager that ends what it started.

    If it reports its steps or epochs and only devices are tuned, one run is measured in windows
    while it works. Otherwise each probe is a whole run. What the command writes on standard output
    goes to standard error.

    Args:
        command: With placeholders for the knobs of the program.
        knobs: Knobs of the program.
        directory: An empty directory for the recording.
        window_s: Least time of steady work in a probe.

    Attributes:
        borrowed: Sets the knobs of devices.
        exit_code: That of the command; ``None`` before it ends.
    """

    def __init__(
        self, command: Sequence[str], knobs: Sequence[Knob], directory: Path, window_s: float
    ) -> None:
        self._command, self._knobs, self._window_s = command, knobs, window_s
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._since_ns = 0
        self._unused_run: Window | None = None
        self._devices: Settings = {}
        self.borrowed: Borrowed | None = None
        self.exit_code: int | None = None
        self.unit, self.keeps_work = "run", False
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        recorder = open_recorder(self._directory, RecorderOptions(None, None), wrapper=True)
        self._meter = Meter(recorder=recorder)
        self._windows = LiveWindows(self._meter)
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._meter.close()

    def start(self) -> None:
        """Start the command at its baseline, and wait until it reports work or ends.

        Raises:
            LaunchError: It cannot be started.
            UserError: It failed.
        """
        self._begin({knob.name: knob.baseline for knob in self._knobs})
        reason = "the command's own settings are tuned" if self._knobs else ""
        while not reason:
            if self._windows.units():
                self.unit, self.keeps_work = self._windows.unit, True
                return
            with contextlib.suppress(WorkEndedError):
                self._wait()
                continue
            is_short = bool(self._windows.units())
            reason = "it ends too early" if is_short else "it reports no steps or epochs"
        self.notes = (WHOLE_RUNS.format(reason),)
        self._unused_run = self._end()
        if self.exit_code:
            raise UserError(f"the command failed: {_ending(self.exit_code)}")

    def gpus(self) -> set[str]:
        """Return the GPUs that the command uses."""
        return gpus_in_use(self._windows.trace())

    def measure(self, settings: Settings) -> Measured:
        """Measure work at some settings.

        Raises:
            UnmeasurableError: The command fails at these settings.
            WorkEndedError: The command has ended.
        """
        program = {knob.name for knob in self._knobs}
        self.set_devices({name: one for name, one in settings.items() if name not in program})
        if self.keeps_work:
            # Since the last probe, the search itself may have kept the processor busy.
            since_ns = time.monotonic_ns()
            return self._windows.measure(settings, since_ns, self._window_s, self._wait)[0]
        run, self._unused_run = self._unused_run, None
        if run is None:
            self._begin({name: settings[name] for name in program})
            run = self._end()
        if self.exit_code:
            raise UnmeasurableError(f"the command failed: {_ending(self.exit_code)}")
        energy = self._windows.energy([run])
        return Measured(probe_of(settings, energy, [energy.duration_s], [1.0]), energy)

    def set_devices(self, settings: Settings) -> None:
        """Set limits and clocks, if they differ from what is set."""
        if self.borrowed is not None and settings != self._devices:
            self.borrowed.set({name: float(level) for name, level in settings.items()})
            self._devices = dict(settings)

    def finish(self, *, interrupted: bool = False) -> None:
        """Wait for the end of the command; not for long if the user has interrupted it."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S if interrupted else None)
        if self._process is not None:
            self.exit_code = self._process.poll()

    def _begin(self, settings: Settings) -> None:
        command = filled(self._command, settings)
        self._since_ns = time.monotonic_ns()
        sys.stderr.flush()
        try:
            self._process = subprocess.Popen(
                command,
                stdout=sys.stderr.fileno(),
                env=os.environ | {RECORDING: str(self._directory)},
            )
        except OSError as error:
            raise LaunchError(command[0], error) from error

    def _end(self) -> Window:
        assert self._process is not None
        self.exit_code = self._process.wait()
        return Window(self._since_ns, time.monotonic_ns())

    def _wait(self) -> None:
        """Let the command work for a moment.

        Raises:
            WorkEndedError: It has ended.
            RecorderError: It is no longer recorded.
        """
        assert self._process is not None
        try:
            self.exit_code = self._process.wait(self._window_s / POLLS_PER_WINDOW)
        except subprocess.TimeoutExpired:
            if not self._meter.alive:
                raise RecorderError(self._meter.failure) from None
            return
        raise WorkEndedError("the command ended")


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"
