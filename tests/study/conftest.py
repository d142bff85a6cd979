"""Tiny plans, a worker without PyTorch, and studies in a process of their own."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from energy_parts import component_energy

from joulelab.energy.energy import Energy
from joulelab.machine import describe
from joulelab.study.engine import LocalEngine
from joulelab.study.plan import Plan

RUN = """
import sys
from joulelab.study.plan_file import load_plan
from joulelab.study.runner import run_study
run_study(sys.argv[2], load_plan(sys.argv[1]))
"""


@pytest.fixture
def tiny_plan(monkeypatch) -> Plan:
    """Four cells of two tiny models, on the simulated machine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return Plan.model_validate(
        {
            "name": "tiny",
            "models": ["tiny_models:tiny", "tiny_models:linear"],
            "repeats": 2,
            "idle_s": 0.2,
            "sensors": ["simulated"],
            "data": {"name": "synthetic", "train_count": 64, "test_count": 32},
            "factors": {"batch_size": [16]},
            "train": {"epochs": 2, "warmup_steps": 1, "learning_rate": 0.01},
            "infer": {"passes": 2, "warmup_steps": 1},
        }
    )


def body(**changes):
    """What a worker answers for a run of 2 s and 200 W."""
    part = component_energy("gpu:0", 400.0, source="simulated", duration_s=2.0)
    energy = Energy(duration_s=2.0, components={"gpu:0": part}).to_json()
    span = {"name": "epoch", "attributes": {"phase": "train"}, "start_ns": 0, "stop_ns": 2 * 10**9}
    return {
        "status": "done",
        "failure": None,
        "started_unix_s": 1000.0,
        "ended_unix_s": 1003.0,
        "settings": {},
        "characteristics": None,
        "measured": [span | {"energy": energy}],
        "results": {"train": {"energy": energy}},
        "epochs": [],
        **changes,
    }


class FakeWorker:
    """Answers like a worker, without a process and PyTorch.

    Args:
        answers: Called with the request for a run; its answer, or an exception to raise.
    """

    def __init__(self, answers) -> None:
        self.answers, self.started, self.asked = answers, 0, []
        self.ready = {"machine": describe().to_json(), "data": {}, "devices": {"auto": "cpu"}}

    def start(self, log):
        self.started += 1
        log.write_text("a line of the log\n")
        return self

    def ask(self, request, *, hang_s, on_event=None):
        if request["do"] == "prepare":
            return self.ready
        self.asked.append(request)
        answer = self.answers(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def engine(self, store, plan):
        """This host as an engine, with this worker."""
        return LocalEngine(store, plan, self.start)

    def stop(self):
        pass

    kill = stop


@pytest.fixture
def fake_worker():
    """Makes fake workers; by default every run succeeds."""
    return lambda answers=lambda request: {"body": body()}: FakeWorker(answers)


@pytest.fixture
def answer():
    return body


class StudyProcess:
    """``run_study`` in a process of its own."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        path = directory.with_name("plan-to-run.toml")
        path.write_text(plan.to_toml())
        self.log = directory.with_name("runner.log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(path), str(directory)], stderr=log
            )

    def find(self, module: str) -> psutil.Process | None:
        """Find its worker or its recorder, by the module that runs there."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if module in child.cmdline():
                    return child
        except psutil.Error:
            return None
        return None

    def partial(self) -> str | None:
        """Return the name of the run that is being measured, once its trace has begun."""
        for path in self.directory.glob(".partial/*/trace.bin"):
            if path.exists():
                return path.parent.name
        return None

    def family(self) -> list[psutil.Process]:
        """Return the runner and all that it started."""
        runner = psutil.Process(self.process.pid)
        return [runner, *runner.children(recursive=True)]

    def end(self) -> int:
        """Return its exit code."""
        return self.process.wait()


@pytest.fixture
def start_study(tmp_path):
    """Starts studies; ends what is left of them."""
    started = []

    def start(plan: Plan) -> StudyProcess:
        started.append(StudyProcess(tmp_path / "study", plan))
        return started[-1]

    yield start
    for study in started:
        study.process.kill()
        study.process.wait()
