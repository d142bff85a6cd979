"""Energy of federated learning with Flower adds up over clients and rounds to that of the job."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.estimator import WindowUnion
from joulelab.errors import UserError
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.hosts import HostRecording, gather
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

pytest.importorskip("flwr", reason="needs Flower: pip install 'joulelab[federated]'")
pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'joulelab[federated]'")

from federated_app import CLIENTS, PARAMETERS, ROUNDS
from flwr.app import ArrayRecord

from joulelab.integrations import flower

POWER_W, IDLE_W = 100.0, 40.0
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


SECOND_NS = 10**9


def recording(*spans, component="cpu:0", baseline=None):
    """A host with a constant power for 20 s, and spans: name, start, stop, attributes."""
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="counter",
        provenance=Provenance.MEASURED,
        update_period_s=0.1,
    )
    readings = [Reading(i * SECOND_NS // 10, 0, POWER_W * i / 10) for i in range(201)]
    made = [
        TraceSpan(name, start * SECOND_NS, stop * SECOND_NS, (1, i), None, 0, attributes)
        for i, (name, start, stop, attributes) in enumerate(spans)
    ]
    trace = replace(Trace.of([channel], readings), header={"host": "node"}, spans=made)
    return HostRecording(Path("unused"), trace, baseline)


def of_client(client, start, stop, cpu_s, number=1):
    return "fit", start, stop, {"client": client, "round": number, "cpu_s": cpu_s}


ROUND = ("round", 2, 12, {"round": 1, "client_j": {}})
# Client 0 computes from 3 s to 7 s, client 1 from 5 s to 9 s.
CLIENTS_OF_ROUND = (of_client("0", 3, 7, 1.0), of_client("1", 5, 9, 3.0))
IDLE = Baseline(
    (
        IdlePoint(
            time_s=0.0,
            duration_s=1.0,
            power_w={"cpu:0": IDLE_W},
            uncertainty_w={"cpu:0": 0.0},
            source={"cpu:0": "counter"},
        ),
    )
)


def added_up(*recordings):
    """Computation and waiting by client, then all parts."""
    found = flower._add_up(recordings)
    assert math.fsum(found.parts.values()) == pytest.approx(found.total.gross_j)
    return {one.client: (one.computation_j, one.waiting_j) for one in found.clients}, found


def test_time_in_which_clients_overlap_is_divided_by_cpu_time():
    clients, found = added_up(recording(ROUND, *CLIENTS_OF_ROUND))
    assert clients["0"] == pytest.approx((POWER_W * (2 + 2 / 4), 0))
    assert clients["1"] == pytest.approx((POWER_W * (2 + 2 * 3 / 4), 0))
    assert found.server_j == pytest.approx({1: POWER_W * 4})
    assert found.outside_j == pytest.approx(POWER_W * 10)
    assert any("CPU time" in note for note in found.notes)
    assert any("idle power is unknown" in note for note in found.notes)


def test_gpus_are_divided_evenly():
    clients, _ = added_up(recording(ROUND, *CLIENTS_OF_ROUND, component="gpu:0"))
    assert clients["0"] == clients["1"] == pytest.approx((POWER_W * 3, 0))


def test_idle_energy_of_waiting_clients_is_waiting():
    clients, found = added_up(recording(ROUND, *CLIENTS_OF_ROUND, baseline=IDLE))
    net_w = POWER_W - IDLE_W
    # Idle energy is divided evenly between the two, whether they compute or not.
    assert clients["0"] == pytest.approx((net_w * 2.5 + IDLE_W * 4 / 2, IDLE_W * 2 / 2))
    assert clients["1"] == pytest.approx((net_w * 3.5 + IDLE_W * 4 / 2, IDLE_W * 2 / 2))
    assert not any("idle power is unknown" in note for note in found.notes)


def test_a_client_on_a_host_of_its_own_waits_between_its_rounds():
    of_server = recording(ROUND)
    of_own = recording(of_client("0", 3, 7, 1.0), of_client("0", 11, 12, 1.0, number=2))
    _, found = added_up(of_server, of_own)
    assert [one.client for one in found.clients] == ["0", "0"]
    assert [one.waiting_j for one in found.clients] == pytest.approx([POWER_W * 4, 0])
    assert found.sum.computation_j == pytest.approx(POWER_W * 5)
    assert found.total.gross_j == pytest.approx(2 * POWER_W * 20)


times = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted)
spans_of_clients = st.lists(
    st.tuples(st.sampled_from("012"), times, st.floats(0, 4), st.integers(1, 2)), min_size=1
)


@settings(max_examples=50, deadline=None)
@given(spans_of_clients, st.lists(times, max_size=2), st.sampled_from([None, IDLE]))
def test_parts_add_up_whatever_overlaps(clients, rounds, baseline):
    spans = [of_client(one, *pair, cpu_s, number) for one, pair, cpu_s, number in clients]
    spans += [
        ("round", *pair, {"round": number, "client_j": {}})
        for number, pair in enumerate(rounds, start=1)
    ]
    _, found = added_up(recording(*spans, baseline=baseline))
    assert found.total.gross_j == pytest.approx(POWER_W * 20)
    assert all(value >= -1e-9 for value in found.parts.values())
    computing = WindowUnion.of([Window(start, stop) for _, (start, stop), *_ in clients]).host
    at_least_j = (POWER_W - IDLE_W) * float((computing[:, 1] - computing[:, 0]).sum())
    assert found.sum.computation_j >= at_least_j - 1e-6


def test_a_recording_without_clients_is_an_error():
    with pytest.raises(UserError, match="no client of Flower"):
        flower._add_up([recording(ROUND)])


def test_comparison_has_an_interval():
    found = [flower._add_up([recording(ROUND, *CLIENTS_OF_ROUND)]) for _ in range(3)]
    energies = [recording().estimator.total([Window(0, s * SECOND_NS)]) for s in (4, 5, 6)]
    text = flower.compare_trainings(found, energies, "95 % accuracy")
    ratio = 20 / (4 * 5 * 6) ** (1 / 3)
    assert text.startswith(f"Federated training to 95 % accuracy used {ratio:.2f} times (95 % CI ")
    assert "mean of 3 repeats), computation on clients alone " in text
    with pytest.raises(UserError, match="cannot be compared"):
        flower.compare_trainings(found, energies[:2], "95 % accuracy")
