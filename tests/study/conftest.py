"""A study in a process of its own, and ways to look for its worker and recorder."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from joulelab.study.plan import Plan

PATIENCE_S = 120.0
RUN = """
import sys, tomllib
from joulelab.study.plan_file import load_plan
from joulelab.study.runner import run_study
run_study(sys.argv[2], load_plan(sys.argv[1]))
"""


def wait_for(condition, *, what: str):
    """What the condition gives once it is true."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


@pytest.fixture
def tiny_plan(monkeypatch) -> Plan:
    """Four cells of two tiny models, on the simulated machine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
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
        """Its worker or its recorder, by the module that runs there."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if module in child.cmdline():
                    return child
        except psutil.Error:
            return None
        return None

    def partial(self) -> str | None:
        """The name of what is under way, once its trace has begun."""
        for path in self.directory.glob(".partial/*/trace.bin"):
            if path.exists():
                return path.parent.name
        return None

    def family(self) -> list[psutil.Process]:
        """The runner and all that it started."""
        runner = psutil.Process(self.process.pid)
        return [runner, *runner.children(recursive=True)]

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE_S)


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


@pytest.fixture(name="wait_for")
def wait_for_fixture():
    """Waits for a condition."""
    return wait_for
