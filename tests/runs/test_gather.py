"""The recordings of a job on several hosts are added up, each on its own clock."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from energy_parts import make_channel

from joulelab.errors import UserError
from joulelab.recording.trace_format import TraceWriter, pack, span_lines
from joulelab.runs.hosts import gather

S = 10**9
HOUR_NS = 3600 * S


def channel(component):
    return make_channel(component, source="simulated.samples", update_period_s=0.02, window_s=0.02)


def record(directory, host, *, clock_ns, power_w, spans, ranks, world_size=4, **header):
    """A recording of 20 s of constant power, whose clock begins at ``clock_ns``.

    Args:
        power_w: By component.
        spans: ``(rank, name, attributes, start_s, stop_s)``, in seconds after the beginning.
    """
    directory.mkdir(parents=True)
    about = {
        "channels": [channel(name).to_json() for name in power_w],
        "absent": [],
        "host": host,
        "boot_id": f"boot of {host}",
        "start_ns": clock_ns,
        "start_unix_s": 1e9,
    }
    writer = TraceWriter(directory, about | header)
    writer.readings(
        pack(clock_ns + i * S // 50, watts, position)
        for position, watts in enumerate(power_w.values())
        for i in range(20 * 50 + 1)
    )
    for rank in ranks:
        launch = {"launcher": "torchrun", "job": "j", "rank": rank, "local_rank": rank % 2}
        launch |= {"world_size": world_size, "node": rank // 2, "nodes": world_size // 2}
        writer.event(event="joined", pid=100 + rank, launch=launch, gpus=None, t_ns=clock_ns + S)
    for rank, name, attributes, start_s, stop_s in spans:
        times = (clock_ns + round(start_s * S), clock_ns + round(stop_s * S))
        index = int(start_s * 10)
        for line in span_lines("spans", [(index, None, 1, name, attributes, *times)]):
            writer.events(line.replace(b'"pid":', b'"pid":%d,"written_by":' % (100 + rank)))
    for rank in ranks:
        writer.event(event="left", pid=100 + rank, t_ns=clock_ns + 18 * S)
    writer.close()


@pytest.fixture
def two_hosts(tmp_path):
    """Two ranks each; in the epochs of a host one rank is late by a second."""
    for host, ranks, clock_ns, power_w in (
        ("a", (0, 1), 5 * S, {"gpu:0": 300.0, "cpu:0": 50.0}),
        ("b", (2, 3), 5 * S + HOUR_NS, {"gpu:0": 100.0, "cpu:0": 20.0}),
    ):
        spans = [
            (rank, "epoch", {"index": index}, 2 + 6 * index + rank % 2, 6 + 6 * index + rank % 2)
            for rank in ranks
            for index in range(2)
        ]
        record(tmp_path / host / "0", host, clock_ns=clock_ns, power_w=power_w, spans=spans,
               ranks=ranks)  # fmt: skip
    (tmp_path / "trace.bin").symlink_to(tmp_path / "a" / "0" / "trace.bin")
    return tmp_path


def test_hosts_with_clocks_an_hour_apart_are_added_up(two_hosts):
    job = gather(two_hosts)
    assert list(job.hosts) == ["a", "b"]
    assert job.ranks == (0, 1, 2, 3)
    assert job.names == ("epoch",)
    assert job.missing == job.doubled == ()
    # Both ranks of a host are in an epoch of 4 s, one a second later: 5 s, twice.
    energy = job.energy("epoch")
    assert {name: round(part.gross_j) for name, part in energy.components.items()} == {
        "gpu:0@a": 3000,
        "cpu:0@a": 500,
        "gpu:0@b": 1000,
        "cpu:0@b": 200,
    }
    assert energy.duration_s == pytest.approx(10.0)
    assert energy.mean_power_w == pytest.approx(470.0)
    assert job.energy("epoch", index=1).gross_j == pytest.approx(energy.gross_j / 2)
    assert job.total.gross_j == pytest.approx(470.0 * 17)


def test_a_host_that_is_missing_is_named(two_hosts):
    shutil.rmtree(two_hosts / "b")
    job = gather(two_hosts)
    assert job.missing == (
        "no recording of ranks 2 to 3 (of 4)",
        "no recording of host 1 (of 2)",
    )
    energy = job.energy("epoch")
    assert energy.gross_j == pytest.approx(3500)
    assert set(job.missing) <= set(energy.notes)


def test_a_host_without_such_a_span_is_named(two_hosts):
    spans = [(4, "evaluate", {}, 2, 4)]
    record(two_hosts / "c" / "0", "c", clock_ns=0, power_w={"cpu:0": 10.0}, spans=spans, ranks=[4])
    energy = gather(two_hosts).energy("evaluate")
    assert energy.gross_j == pytest.approx(20)
    assert {"a has no span 'evaluate'", "b has no span 'evaluate'"} <= set(energy.notes)


def test_a_host_that_was_rebooted_counts_as_another(two_hosts):
    spans = [(0, "epoch", {"index": 2}, 2, 4)]
    record(two_hosts / "a" / "1", "a", clock_ns=S, power_w={"gpu:0": 300.0, "cpu:0": 50.0},
           spans=spans, ranks=[0], boot_id="another", start_unix_s=2e9)  # fmt: skip
    job = gather(two_hosts)
    assert list(job.hosts) == ["a", "a#2", "b"]
    assert job.energy("epoch", index=2).components["gpu:0@a#2"].gross_j == pytest.approx(600)


def test_overlapping_recordings_of_one_host_count_once(two_hosts):
    """Ranks that did not find each other leave one each, with different spans."""
    power_w = {"gpu:0": 300.0, "cpu:0": 50.0}
    late = [(7, "epoch", {"index": 0}, 3, 8), (7, "late", {}, 17, 19)]
    record(two_hosts / "a" / "1", "a", clock_ns=5 * S + S // 2, power_w=power_w, spans=late,
           ranks=[7], start_unix_s=1e9 + 0.5)  # fmt: skip
    job = gather(two_hosts)
    # From 2 to 8.5 s, by either recorder.
    assert job.energy("epoch", index=0).components["gpu:0@a"].gross_j == pytest.approx(6.5 * 300)
    # The first recording ends 18 s after its beginning.
    assert job.energy("late").gross_j == pytest.approx(2 * 350)


@pytest.fixture
def command(run):
    return partial(run, "gather")


def test_the_command_prints_the_energy_of_the_job(two_hosts, command):
    code, out, err = command(two_hosts, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert printed["ranks"] == [0, 1, 2, 3]
    assert set(printed["hosts"]) == {"a", "b"}
    assert printed["spans"]["epoch"]["gross_j"] == pytest.approx(4700)
    assert printed["total"]["gross_j"] == pytest.approx(470.0 * 17)
    code, out, _ = command(two_hosts)
    assert code == 0
    assert out.startswith("2 hosts, 4 ranks: a, b\n")
    assert "epoch      4,700 J" in out


def test_the_command_lists_missing_ranks_and_refuses_a_missing_directory(two_hosts, command):
    shutil.rmtree(two_hosts / "b")
    assert "no recording of ranks 2 to 3 (of 4)" in command(two_hosts)[1]
    code, out, err = command(two_hosts / "nowhere")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_two_names_of_one_machine_are_reported(two_hosts):
    record(two_hosts / "c" / "0", "c", clock_ns=0, power_w={"cpu:0": 10.0}, spans=[], ranks=[0],
           boot_id="boot of a")  # fmt: skip
    assert gather(two_hosts).doubled == (
        "a and c are one machine: what both recorded counts twice",
    )


def test_a_missing_recording_or_span_is_an_error(two_hosts, tmp_path):
    with pytest.raises(UserError, match="no recording in"):
        gather(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="known: epoch"):
        gather(two_hosts).energy("epok")
    assert np.isnan(gather(two_hosts).energy("epoch").net_j)
