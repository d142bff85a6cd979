"""Energy of federated learning with Flower adds up over clients and rounds to that of the job."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joulelab.energy.window_union import WindowUnion
from joulelab.runs.hosts import gather
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

pytest.importorskip("flwr", reason="needs Flower: pip install 'joulelab[federated]'")
pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'joulelab[federated]'")

from federated_app import CLIENTS, PARAMETERS, ROUNDS
from flwr.app import ArrayRecord

from joulelab.integrations import flower

POWER_W = 100.0
MACHINE = SimulatedMachine(
    (SimulatedSource(component="cpu:0", waveform=Waveform.constant(POWER_W)),)
)
ROWS = [(str(client), number + 1) for client in range(CLIENTS) for number in range(ROUNDS)]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The recording of a real simulation."""
    folder = tmp_path_factory.mktemp("federated")
    hidden = {"JOULELAB_RECORDING", "RAY_ADDRESS"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program = [sys.executable, Path(__file__).with_name("federated_app.py")]
    done = subprocess.run(
        [sys.executable, "-m", "joulelab", "run", "--out", folder / "job", "--", *program],
        env=environment
        | {
            "FLWR_TELEMETRY_ENABLED": "0",
            "HOME": str(folder),
            "JOULELAB_HOME": str(folder / "home"),
            "JOULELAB_SENSORS": MACHINE.spec(),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder / "job"


def test_energy_adds_up_to_that_of_the_job(job):
    found, whole = flower.read_energy(job), gather(job)
    assert math.fsum(found.parts.values()) == pytest.approx(whole.total.gross_j, rel=1e-6)
    assert whole.total.gross_j == pytest.approx(POWER_W * whole.total.duration_s, rel=0.01)
    spans = [one for one in whole.recordings[0].spans if "client" in one.attributes]
    computing = WindowUnion.of([one.window for one in spans]).host
    computing_j = POWER_W * float((computing[:, 1] - computing[:, 0]).sum()) * 1e-9
    of_rounds_j = POWER_W * sum(
        one.window.stop_ns - one.window.start_ns
        for one in whole.recordings[0].spans
        if one.name == "round"
    )
    shared = found.parts["other programs"]
    assert shared == 0
    assert found.sum.computation_j == pytest.approx(computing_j, rel=0.01)
    within_j = found.sum.energy_j + found.parts["server"]
    assert within_j == pytest.approx(of_rounds_j * 1e-9, rel=0.01)


def test_every_client_is_in_every_round_once(job):
    assert [(one.client, one.round) for one in flower.read_energy(job).clients] == ROWS
    spans = gather(job).recordings[0].spans
    for name in ("fit", "evaluate"):
        found = [
            (one.attributes["client"], one.attributes["round"]) for one in spans if one.name == name
        ]
        assert sorted(found) == ROWS
    assert [one.attributes["round"] for one in spans if one.name == "round"] == [1, 2]


def test_bytes_are_the_size_of_the_parameters(job):
    size = ArrayRecord(PARAMETERS).count_bytes()
    assert size == pytest.approx(sum(one.nbytes for one in PARAMETERS), rel=0.02)
    for one in flower.read_energy(job).clients:
        assert one.sent_bytes == size
        assert one.received_bytes == 2 * size  # to train and to evaluate
        assert one.examples == 10 + int(one.client) + 5


def test_server_knows_what_clients_reported(job):
    found = flower.read_energy(job)
    spans = [one for one in gather(job).recordings[0].spans if one.name == "round"]
    for span in spans:
        reported = span.attributes["client_j"]
        assert sorted(reported) == sorted({client for client, _ in ROWS})
        number = span.attributes["round"]
        # Clients do not see each other's spans immediately, so they may overestimate.
        own_j = found.by_round[number].computation_j
        duration_s = found.by_round[number].duration_s
        assert 0 < sum(reported.values()) <= POWER_W * duration_s * 1.01
        assert own_j <= POWER_W * duration_s * 1.01


def test_report_has_every_client_round_and_part(job):
    found = flower.read_energy(job)
    text = str(found)
    for part in ("computation", "waiting", "server", "communication", "derived", "idle power"):
        assert part in text
    data = json.loads(json.dumps(found.to_json()))
    assert math.fsum(data["parts_j"].values()) == pytest.approx(
        data["total"]["components"]["cpu:0"]["gross_j"]
    )
    assert data["network"]["provenance"] == "derived"
