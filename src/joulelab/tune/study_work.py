"""The program of a study's plan as work to tune: steps of its first phase in the worker process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from joulelab.controls.borrowing import Borrowed
from joulelab.energy.energy import Energy
from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.forecast.steady import LONGEST_WINDOW
from joulelab.machine import Machine
from joulelab.study.cells import Factors, combinations
from joulelab.study.plan import Plan
from joulelab.study.plan_file import parse
from joulelab.study.share import ATTEMPTS, prepared_worker
from joulelab.study.worker import Json, WorkerFailure, WorkerProcess
from joulelab.tune.knobs import DEVICE_KNOBS, PROGRAM_KNOBS
from joulelab.tune.probes import Knob, Level, Settings
from joulelab.tune.tuning import Measured, UnmeasurableError
from joulelab.tune.windows import probe_of

CHANGES_LEARNING = (
    "a batch size or a precision changes what the model learns; energy and time are per sample, "
    "not to an accuracy: see --objective energy-to-target"
)


class StudyWork:
    """Steps of a plan's first phase; a context manager.

    Args:
        plan: With one model. The first level of each factor is the baseline.
        directory: An existing directory for the recordings and the worker's log.
        window_s: Least time of steady steps in a probe.
        start_worker: Starts a worker that logs to a file.

    Attributes:
        borrowed: Sets the knobs of devices.

    Raises:
        UserError: The plan has several models, or what it needs is missing.
    """

    unit = "sample"
    keeps_work = False

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        window_s: float,
        start_worker: Callable[[Path], WorkerProcess] = WorkerProcess,
    ) -> None:
        if len(plan.models) > 1:
            raise UserError(
                f"the plan has {len(plan.models)} models",
                why="their best settings differ",
                hint=f"choose one, for example --set 'models=[\"{plan.models[0]}\"]'",
            )
        self._plan, self._directory, self._window_s = plan, directory, window_s
        self._start_worker = start_worker
        self._worker: WorkerProcess | None = None
        self._probes = 0
        self.borrowed: Borrowed | None = None
        self.notes: tuple[str, ...] = ()
        self.baseline: Factors = combinations(plan)[0]

    def __enter__(self) -> Self:
        self._ready = self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.kill()

    def knobs(self, levels: Mapping[str, Sequence[Level]]) -> list[Knob]:
        """Make knobs of the program.

        Args:
            levels: Levels of each knob by its name; none for those of the plan, or if it has only
                one, those around it.

        Raises:
            UserError: A knob or a level is none of a plan's.
        """
        if {"batch_size", "precision"} & levels.keys():
            self.notes = (CHANGES_LEARNING,)
        return [self._knob(name, tuple(levels[name])) for name in levels]

    def _knob(self, name: str, levels: tuple[Level, ...]) -> Knob:
        factors = self._plan.factors.levels()
        program = [one for one in PROGRAM_KNOBS if one in factors]
        if name not in program:
            known = [one.replace("_", "-") for one in (*program, *DEVICE_KNOBS)]
            raise UserError(f"the plan has no knob {name!r}", hint=nearest(name, known))
        if not levels and len(factors[name]) > 1:
            levels = tuple(factors[name])
        baseline: Level = self.baseline[name]
        levels = tuple(dict.fromkeys((baseline, *(levels or self._usual(name, baseline)))))
        parse(self._plan.to_dict() | {"factors": factors | {name: list(levels)}}, "--knobs")
        if not any(isinstance(level, str) for level in levels):
            levels = tuple(sorted(levels))
        return Knob(name, levels, baseline)

    def _usual(self, name: str, baseline: Any) -> tuple[Level, ...]:
        if name == "batch_size":
            part = "train_count" if self._plan.phases[0] == "train" else "test_count"
            most = self._ready["data"][part]
            sizes = (baseline // 2, 2 * baseline, 4 * baseline)
            return tuple(size for size in sizes if 1 <= size <= most)
        is_gpu = self._ready["devices"][self.baseline["device"]] != "cpu"
        usual: Mapping[str, tuple[Level, ...]] = {
            "precision": ("fp32", "tf32", "bf16") if is_gpu else ("fp32", "bf16"),
            "compile": (False, True),
            "memory_format": ("contiguous", "channels_last"),
        }
        return usual[name]

    def gpus(self) -> set[str]:
        """Return the GPU that the program uses."""
        kind, _, position = self._ready["devices"][self.baseline["device"]].partition(":")
        gpus = Machine.from_json(self._ready["machine"]).gpus
        return {f"gpu:{gpus[int(position)].index}"} if kind == "cuda" else set()

    def measure(self, settings: Settings) -> Measured:
        """Run steps at some settings until enough of them are steady.

        Raises:
            UnmeasurableError: The program fails, for example without enough memory.
            JoulelabError: The recorder or the worker cannot be started.
        """
        if self.borrowed is not None:
            self.borrowed.set({n: float(settings[n]) for n in settings if n in DEVICE_KNOBS})
        for _ in range(ATTEMPTS):
            answer = self._ask(settings)
            if "unrecorded" not in answer:
                break
            self._stop()
        else:
            raise JoulelabError("the steps were not recorded", why=str(answer["unrecorded"]))
        body = answer["body"]
        if body["failure"] is not None:
            # What a failure leaves behind in a process is unknown.
            self._stop()
            raise UnmeasurableError(body["failure"]["reason"])
        (found,) = body["results"].values()
        energy = Energy.from_json(found["energy"])
        return Measured(probe_of(settings, energy, found["durations_s"], found["work"]), energy)

    def _ask(self, settings: Settings) -> Json:
        self._probes += 1
        directory = self._directory / "recordings" / f"{self._probes:03}"
        directory.mkdir(parents=True)
        if self._worker is None:
            self._prepare()
        assert self._worker is not None
        request = {
            "do": "probe",
            "directory": str(directory),
            "factors": {name: settings.get(name, one) for name, one in self.baseline.items()},
            "seed": self._plan.seed,
            "window_s": self._window_s,
            "most_s": LONGEST_WINDOW * self._window_s,
        }
        try:
            return self._worker.ask(request, hang_s=self._plan.hang_s)
        except WorkerFailure as failure:
            self._worker = None
            raise UnmeasurableError(str(failure)) from None

    def _prepare(self) -> Json:
        log = self._directory / "worker.log"
        self._worker, ready = prepared_worker(self._plan, log, self._start_worker)
        return ready

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
