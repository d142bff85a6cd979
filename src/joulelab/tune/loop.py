"""Tune inside a training loop: probe its own steps, then keep the best settings.

The search runs on a thread of its own, next to the training: it sets the devices, waits until
enough steps have passed, and reads their time and energy from the recording. The training's thread
does nothing for it, except between epochs where settings of the program are changed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

from joulelab.errors import JoulelabError, RecorderError, UserError
from joulelab.forecast.loop import COST_SHARE, LoopTuner, Pace, Recording
from joulelab.forecast.series import load_scipy
from joulelab.format import sentence
from joulelab.recording.launcher import Launch, current_launch
from joulelab.recording.trace_format import TUNED
from joulelab.tune.device_knobs import borrow_knobs, gpus_in_use
from joulelab.tune.drift import Change, DriftTest
from joulelab.tune.knobs import DEVICE_KNOBS, split_levels
from joulelab.tune.level_search import OBJECTIVES
from joulelab.tune.live_windows import LiveWindows
from joulelab.tune.probes import Knob, Level, Probe, Settings
from joulelab.tune.result import Result
from joulelab.tune.settings_search import search_over
from joulelab.tune.text import headline
from joulelab.tune.tuning import LeftOut, Measured, Outcome, WorkEndedError, tune

WINDOW_S = 5.0
"""Least time of a probe: an edge of it is known to a sensor's update, 0.1 s of NVML, so this keeps
the energy's error from the edges below 1 % if the power changes by less than a third there."""
POLLS_PER_WINDOW = 8


class Tune:
    """How to lower the energy of a training loop while it runs.

    Args:
        max_slowdown: Accepted additional time for a step, as a fraction.
        knobs: Names of devices' settings: ``"power_limit"``, ``"clock"``, ``"memory_clock"``,
            ``"cpu_power_limit"``. Or each knob's levels by its name; no levels of a device's knob
            are all that make sense. Any other name is a setting of the program, whose first level
            is the one without tuning.
        objective: What to minimise: ``"energy"``, or ``"edp"`` for energy times time.
        apply: Called between epochs with the settings of the program that the next epoch is to use.
            Such settings may change what the training learns; those of devices cannot.
        window_s: Least time of a probe.
        seed: Of all random choices.

    Attributes:
        result: Outcome of the latest search; ``None`` before one has ended.

    Raises:
        UserError: An argument is out of range, or ``apply`` is missing.

    Example:
        >>> tune = Tune(max_slowdown=0.1, knobs={"power_limit": (), "batch_size": (32, 64)},
        ...     apply=print)
        >>> tune.result is None
        True
    """

    def __init__(
        self,
        max_slowdown: float = 0.05,
        knobs: Sequence[str] | Mapping[str, Sequence[Level]] = ("power_limit",),
        objective: str = "energy",
        *,
        apply: Callable[[dict[str, Level]], object] | None = None,
        window_s: float = WINDOW_S,
        seed: int = 0,
    ) -> None:
        if not max_slowdown >= 0:
            raise UserError(f"max_slowdown is {max_slowdown!r}", why="it must be 0 or more")
        if not window_s > 0:
            raise UserError(f"window_s is {window_s!r}", why="it must be positive")
        if objective not in OBJECTIVES:
            raise UserError(f"no objective {objective!r}", hint=f"choose {' or '.join(OBJECTIVES)}")
        if isinstance(knobs, str):
            knobs = (knobs,)
        levels = knobs if isinstance(knobs, Mapping) else dict.fromkeys(knobs, ())
        self.device_levels, given = split_levels(levels)
        of_program = {name: tuple(of_knob) for name, of_knob in given.items()}
        if not levels:
            raise UserError("there are no knobs to tune", hint='give knobs=("power_limit",)')
        for name, of_knob in of_program.items():
            if not of_knob or apply is None:
                hint = f"give knobs={{{name!r}: (A, B)}} and apply, or a knob of a device: "
                hint += ", ".join(DEVICE_KNOBS)
                raise UserError(f"the program's knob {name!r} has no levels or no apply", hint=hint)
        self.program_knobs = [Knob(name, of, of[0]) for name, of in of_program.items()]
        self.max_slowdown, self.objective, self.apply = max_slowdown, objective, apply
        self.window_s, self.seed = window_s, seed
        self.result: Result | None = None

    def start(self, meter: Recording, *, quiet: bool = False) -> LoopTuner:
        """Begin to tune a loop that the meter measures.

        Of the processes of a job on one host, the first tunes the GPUs of all.
        """
        launch = current_launch()
        if launch is not None and launch.local_rank:
            return _Untuned()
        if launch is not None and not _is_on_one_host(launch):
            return _untuned("the job may run on several hosts, which would be set differently")
        if launch is not None and self.program_knobs:
            return _untuned("the program's settings would differ between the job's processes")
        return _Tuner(self, meter, quiet=quiet)


def _is_on_one_host(launch: Launch) -> bool:
    if launch.nodes is None:
        return os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1")
    return launch.nodes == 1


class _Untuned:
    """Does nothing."""

    def begin_epoch(self) -> None:
        """Do nothing."""

    close = begin_epoch


def _untuned(reason: str) -> LoopTuner:
    _warn(reason)
    return _Untuned()


def _warn(reason: object) -> None:
    warnings.warn(f"the training goes on untuned: {reason}", RuntimeWarning, stacklevel=2)


class _Tuner:
    """Searches and sets on a thread of its own, until the loop ends."""

    keeps_work = True
    notes: tuple[str, ...] = ()

    def __init__(self, tune: Tune, meter: Recording, *, quiet: bool) -> None:
        self._tune, self._meter, self._quiet = tune, meter, quiet
        self._ended = threading.Event()
        self._settings: Settings = {knob.name: knob.baseline for knob in tune.program_knobs}
        self._wanted: Settings | None = None  # Of the program, from the next epoch on.
        self._since_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="joulelab-tune", daemon=True)
        self._thread.start()

    @property
    def unit(self) -> str:
        """What the work is counted in."""
        return self._windows.unit

    def begin_epoch(self) -> None:
        """Change the program's settings, if the search wants to."""
        if self._wanted is not None:
            assert self._tune.apply is not None
            self._tune.apply(dict(self._wanted))
            self._since_ns, self._wanted = time.monotonic_ns(), None

    def close(self) -> None:
        """End the search and restore the devices."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.suppress(WorkEndedError):
                self._tune_loop()
        except Exception as error:  # noqa: BLE001  (the training must go on, whatever fails)
            _warn(error)

    def _tune_loop(self) -> None:
        load_scipy()
        options = self._tune
        self._windows = LiveWindows(
            self._meter, epochs_only=bool(options.program_knobs), pid=os.getpid()
        )
        # Which GPUs the program uses is known once it works.
        while not self._windows.units():
            self._wait()
        gpus = gpus_in_use(self._windows.trace())
        with borrow_knobs(options.device_levels, gpus) as (knobs, self._borrowed):
            for note in () if self._borrowed is None else self._borrowed.notes:
                self._print(note)
            while True:
                outcome = self._search([*knobs, *options.program_knobs])
                if outcome.ended_early:
                    self._report(outcome)
                    return
                self._change(outcome.result.settings)
                self._report(outcome)
                change = self._wait_for_change(outcome.result)
                self._print(f"{change}: tuning again")

    def _search(self, knobs: Sequence[Knob]) -> Outcome:
        options = self._tune
        search = search_over(
            knobs, options.max_slowdown, objective=options.objective, seed=options.seed
        )
        baseline = {knob.name: knob.baseline for knob in knobs}
        try:
            return tune(search, baseline, self, _NoDisplay())
        except JoulelabError:
            if self._ended.is_set():
                raise WorkEndedError("the loop ended first") from None
            raise

    def _wait_for_change(self, result: Result) -> Change:
        """Measure from time to time, until time or power of a step have changed."""
        test, pace = DriftTest.of(result), Pace(COST_SHARE, clock=time.thread_time)
        while True:
            with pace:
                change = test.add(self.measure(result.settings).probe)
            if change is not None:
                return change
            while not pace.due:
                self._wait()
            self._since_ns = time.monotonic_ns()

    def measure(self, settings: Settings) -> Measured:
        """Measure the next steps at some settings."""
        self._change(settings)
        measured, self._since_ns = self._windows.measure(
            settings, self._since_ns, self._tune.window_s, self._wait
        )
        return measured

    def _change(self, settings: Settings) -> None:
        """Change what differs: devices now, and the program before the next epoch."""
        program = {knob.name for knob in self._tune.program_knobs}
        changed = {name for name in settings if settings[name] != self._settings.get(name)}
        of_devices = {name: float(settings[name]) for name in changed - program}
        if self._borrowed is not None and of_devices:
            self._borrowed.set(of_devices)
            self._since_ns = time.monotonic_ns()
        if changed & program:
            self._wanted = {name: settings[name] for name in program}
            while self._wanted is not None:
                self._wait()
        self._settings = settings

    def _wait(self) -> None:
        """Let some steps pass.

        Raises:
            WorkEndedError: There are no more.
            RecorderError: They are no longer recorded.
        """
        if self._ended.wait(self._tune.window_s / POLLS_PER_WINDOW):
            raise WorkEndedError("the loop ended before the search did")
        if not self._meter.alive:
            raise RecorderError(self._meter.failure)

    def _report(self, outcome: Outcome) -> None:
        """Print and save the outcome of a search."""
        self._tune.result = outcome.result
        ended = outcome.ended_early or outcome.cost_text()
        text = f"{headline(outcome.result)} {sentence(ended)}"
        self._meter.add_event(TUNED, text=text, result=outcome.to_json())
        self._print(text)

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(f"joulelab: {text}", file=sys.stderr, flush=True)  # noqa: T201


class _NoDisplay:
    """Shows nothing while a search runs."""

    def begin(self, settings: Settings) -> None:
        """Do nothing."""

    def measured(self, probe: Probe, best: Result | None) -> None:
        """Do nothing."""

    def left_out(self, what: LeftOut) -> None:
        """Do nothing."""
