"""The energy of federated learning is divided among clients, rounds and the server."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.window_union import WindowUnion
from joulelab.errors import UserError
from joulelab.integrations.federated_energy import add_up_clients, compare_trainings
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.hosts import HostRecording
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

POWER_W, IDLE_W = 100.0, 40.0
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
    found = add_up_clients(recordings)
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
        add_up_clients([recording(ROUND)])


def test_comparison_has_an_interval():
    found = [add_up_clients([recording(ROUND, *CLIENTS_OF_ROUND)]) for _ in range(3)]
    energies = [recording().estimator.total([Window(0, s * SECOND_NS)]) for s in (4, 5, 6)]
    text = compare_trainings(found, energies, "95 % accuracy")
    ratio = 20 / (4 * 5 * 6) ** (1 / 3)
    assert text.startswith(f"Federated training to 95 % accuracy used {ratio:.2f} times (95 % CI ")
    assert "mean of 3 repeats), computation on clients alone " in text
    with pytest.raises(UserError, match="cannot be compared"):
        compare_trainings(found, energies[:2], "95 % accuracy")
