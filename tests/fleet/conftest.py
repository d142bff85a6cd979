"""A study of twelve short cells on a simulated machine whose energy is known exactly."""

import tempfile
from pathlib import Path

import pytest

from joulelab.runs.study_runs import read_study
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.study.cells import blocks
from joulelab.study.plan import Plan

MODELS = Path(__file__).parents[1] / "study"  # tiny_models

MACHINE = SimulatedMachine(
    (
        SimulatedSource(
            component="cpu:0",
            waveform=Waveform.ramp(low_w=100.0, high_w=160.0, period_s=20.0),
            update_period_s=0.01,
            window_s=0.01,
            interval_s=0.05,
        ),
    )
)


def fleet_plan(repeats: int, **fleet) -> Plan:
    """Twelve cells in this many blocks."""
    return Plan.model_validate(
        {
            "name": "fleet",
            "models": ["tiny_models:linear"],
            "phases": ["infer"],
            "repeats": repeats,
            "idle_s": 0.2,
            "sensors": [MACHINE.spec()],
            "data": {"name": "synthetic", "train_count": 64, "test_count": 64},
            "factors": {"batch_size": [4 * (n + 1) for n in range(12 // repeats)]},
            "infer": {"seconds": 0.4, "warmup_steps": 0},
            "fleet": fleet,
        }
    )


def check_whole(directory: Path, plan: Plan) -> None:
    """Every cell was run once and has the energy of the waveform; so has idle power."""
    study = read_study(directory)
    wanted = [cell.run_id for block in blocks(plan) for cell in block]
    assert not study.damaged
    assert [run.id for run in study.cells()] == wanted
    for run in study.runs:
        assert run.status == "done"
        spans = [span for span in run.study.spans if span.name in ("idle", "epoch")]
        true_j = sum(MACHINE.energy_j(one.start_ns * 1e-9, one.stop_ns * 1e-9) for one in spans)
        gross_j = sum(span.energy.gross_j for span in spans)
        # A recorder that a busy machine starves misses readings, which the interval covers.
        half_j = sum(span.energy.interval_j[1] - span.energy.gross_j for span in spans)
        assert gross_j == pytest.approx(true_j, rel=1e-3, abs=half_j)
    for run in study.cells():
        own_idle = [one for one in study.idles() if one.study.block == run.study.block]
        assert run.host in {one.host for one in own_idle}
        assert run.study.results["infer"].energy.idle_j > 0


@pytest.fixture(scope="module")
def temporary():
    """Where processes leave their files if they are killed; short enough for names of sockets."""
    with tempfile.TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as directory:
        yield directory


@pytest.fixture(autouse=True)
def models_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(MODELS))
    monkeypatch.syspath_prepend(MODELS)


@pytest.fixture
def make_plan():
    return fleet_plan


@pytest.fixture
def assert_whole():
    return check_whole
