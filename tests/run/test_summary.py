"""The summary of a run, and which earlier run it is compared with."""

import math
import shlex
import time
from dataclasses import replace

import pytest
from energy_parts import component_energy
from run_records import measured, write_finished

from joulelab.carbon.costs import Costs
from joulelab.energy.energy import Energy
from joulelab.ledger.ledger import read_ledger
from joulelab.ledger.text import head_lines
from joulelab.run.summary import Epoch, Summary, compare, previous_run
from joulelab.runs.record import read_run
from joulelab.runs.span_tree import flat_tree
from joulelab.sensors.sensor import Absence, Provenance


def test_runs_measured_by_other_sensors_are_not_compared(tmp_path):
    one, two = write_finished(tmp_path / "one"), write_finished(tmp_path / "two")
    assert compare(two, one) is not None
    (part,) = one.energy.components.values()
    other = Energy(duration_s=1.0, components={"gpu:0": replace(part, source="nvml.power")})
    assert compare(two, replace(one, energy=other)) is None
    assert compare(two, replace(one, energy=Energy(duration_s=1.0))) is None
    assert compare(two, None) is None


@pytest.mark.parametrize("saved", ["runs", "jobs"])
def test_the_previous_run_has_the_same_command_and_name(tmp_path, monkeypatch, saved):
    """If the user chose the name, other arguments will do where the same are not found."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    runs = tmp_path / saved
    first = write_finished(runs / "20260101T000000Z-my-train-0001", name="my_train")
    second = write_finished(
        runs / "20260102T000000Z-my_train-0002", name="my_train", command=("python", "other.py")
    )
    write_finished(runs / "20260103T000000Z-other-0003", name="other")
    directory = tmp_path / "runs" / "20260105T000000Z-my-train-0005"
    new = replace(second, directory=directory, started_unix_s=1004.0)
    assert previous_run(new).id == second.id
    assert previous_run(replace(new, project=None)) is None
    assert previous_run(replace(second, started_unix_s=1003.0)).id == first.id
    assert previous_run(replace(new, started_unix_s=999.0)) is None
    assert previous_run(replace(new, command=first.command)).id == first.id


def test_commands_of_one_program_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    command = ("python", "-c", "A")
    old = write_finished(
        tmp_path / "runs" / "20260101T000000Z-python-0001", name="python", command=command
    )
    directory = tmp_path / "runs" / "20260105T000000Z-python-0005"
    new = replace(old, directory=directory, started_unix_s=1004.0)
    assert previous_run(new).id == old.id
    assert previous_run(replace(new, command=("python", "-c", "B"))) is None


def test_a_change_is_a_signed_percentage(tmp_path):
    one, two = write_finished(tmp_path / "one"), write_finished(tmp_path / "two")
    found = compare(replace(two, duration_s=0.942 * one.duration_s), one)
    costs = Costs(energy_j=1.0, interval_j=(1.0, 1.0))
    lines = dict(Summary(run=two, costs=costs, comparison=found).lines())
    assert " energy and -5.80 % time, against the run of " in lines["last time"]


def test_a_very_uncertain_energy_is_stated_within_its_limits(tmp_path):
    one = write_finished(tmp_path / "one")
    part = component_energy("gpu:0", 100.0, edge_uncertainty_j=500.0, idle_j=90.0)
    energy = Energy(duration_s=10.0, components={"gpu:0": part})
    two = write_finished(tmp_path / "two", energy=energy)
    (before,) = one.energy.components.values()
    same = Energy(duration_s=10.0, components={"gpu:0": replace(before, source=part.source)})
    found = compare(two, replace(one, energy=same))
    assert (found.energy.low, found.energy.high) == (0.0, math.inf)
    costs = Costs(energy_j=100.0, interval_j=energy.interval_j)
    lines = dict(Summary(run=two, costs=costs, comparison=found).lines())
    assert "a change of energy that cannot be determined and " in lines["last time"]
    assert lines["  gpu:0"].startswith("100 J (0–1,080 J) ")


def test_a_summary_fits_one_screen(tmp_path):
    one = write_finished(tmp_path / "one", started_unix_s=time.time() - 7 * 86400)
    two = write_finished(tmp_path / "two", command=("python", "train.py", "--epochs", "3"))
    costs = Costs(energy_j=two.energy.gross_j, interval_j=two.energy.interval_j)
    found = compare(two, one)
    lines = Summary(run=two, costs=costs, comparison=found, tree=flat_tree(two.spans)).lines()
    text = "\n".join(f"{label} {content}" for label, content in lines)
    assert len(lines) < 24
    for words in (
        "python train.py --epochs 3  exit code 3 after",
        "W on average",
        "`joulelab idle`",
        "simulated (simulated.samples)",
        "epoch",
        "`joulelab site",
        "7 days ago",
        "with other arguments",
        "a note",
        str(tmp_path / "two"),
    ):
        assert words in text
    assert found.energy.value == pytest.approx(two.energy.gross_j / one.energy.gross_j)
    assert not any(math.isnan(value) for value in (found.energy.low, found.energy.high))


def test_long_names_of_spans_leave_room_for_their_values(tmp_path):
    run = write_finished(tmp_path / "one")
    spans = [replace(span, name=f"{span.name}\n{'x' * 500}") for span in run.spans]
    costs = Costs(energy_j=1.0, interval_j=(1.0, 1.0))
    lines = Summary(run=run, costs=costs, tree=flat_tree(spans)).lines()
    rows = [row for label, content in lines if label == "spans" for row in content.split("\n")]
    assert rows
    assert all(len(row) < 130 for row in rows)


def test_a_summary_says_why_components_are_estimated(tmp_path):
    run = write_finished(tmp_path / "one")
    (part,) = run.energy.components.values()
    parts = {
        name: replace(part, component=name, source=source, provenance=Provenance.ESTIMATED)
        for name, source in (("cpu:0", "estimate.cpu"), ("dram:0", "estimate.dram"))
    }
    run = replace(run, energy=Energy(duration_s=1.0, components={**parts, "gpu:0": part}))
    costs = Costs(energy_j=run.energy.gross_j, interval_j=run.energy.interval_j)
    absent = [Absence(kind, "rapl", "no RAPL counters", "mount them") for kind in ("cpu", "dram")]
    absent += [Absence("gpu", "nvml", "no driver")]
    found = [text for _, text in Summary(run=run, costs=costs, absent=absent).lines()]
    why = "cpu:0 and dram:0 are estimated: no RAPL counters; see `joulelab doctor`"
    assert why in found
    assert not any("no driver" in text for text in found)


def test_a_summary_names_components_without_idle_power(tmp_path):
    run = write_finished(tmp_path / "one")
    (part,) = run.energy.components.values()
    parts = {"gpu:0": replace(part, idle_j=1.0), "gpu:1": replace(part, idle_j=math.nan)}
    run = replace(run, energy=Energy(duration_s=1.0, components=parts))
    costs = Costs(energy_j=run.energy.gross_j, interval_j=run.energy.interval_j)
    found = [text for _, text in Summary(run=run, costs=costs, absent=()).lines()]
    why = "net of idle unknown for gpu:1: measure the idle machine once with `joulelab idle`"
    assert why in found


@pytest.mark.parametrize("phases", [("train", "train"), ("prefill", "decode")])
def test_only_epochs_of_one_phase_can_be_forecast(tmp_path, phases):
    run = write_finished(tmp_path / "one")
    epochs = tuple(Epoch(phase, i, run.energy, None) for i, phase in enumerate(phases))
    costs = Costs(energy_j=run.energy.gross_j, interval_j=run.energy.interval_j)
    lines = dict(Summary(run=run, costs=costs, epochs=epochs).lines())
    assert ("forecast" in lines) == (len(set(phases)) == 1)


def test_a_record_and_its_summary_keep_the_meter_around_the_total(tmp_path):
    gpu = component_energy("gpu:0", 3000.0, gain_uncertainty=0.02)
    node = component_energy("node", 4500.0, source="redfish.power", contains=("gpu:0",))
    energy = Energy(duration_s=10.0, components={"gpu:0": gpu}, enclosing={"node": node})
    write_finished(tmp_path / "one", energy=energy)
    run = read_run(tmp_path / "one")
    assert run.energy == energy
    costs = Costs(energy_j=run.energy.gross_j, interval_j=run.energy.interval_j)
    lines = Summary(run=run, costs=costs, tree=flat_tree(run.spans)).lines()
    text = "\n".join(f"{label} {content}" for label, content in lines)
    assert "3,000 J" in dict(lines)["energy"]
    assert dict(lines)["  node"].endswith("simulated (redfish.power), around its parts")
    assert "more than its parts: power supply, fans, board, disks" in text
    assert "not metered: network" in text
    ledger = read_ledger([tmp_path], on_error=pytest.fail)
    assert ledger.total.energy.value == pytest.approx(3000.0)
    assert ledger.to_json()["total"]["enclosing_j"] == pytest.approx(4500.0)
    assert ledger.to_json()["total"]["enclosing_difference_j"] == pytest.approx(1500.0)
    assert "meters around 1 record, not added: 4,500 J, 1,500 J more than their parts" in [
        *head_lines(ledger)
    ]


def test_a_short_command_is_said_to_be_one_whatever_part_of_it_was_read(tmp_path):
    reasons = {"cpu:0": "estimate.cpu covers only 47 % of the span", "gpu": "none on this machine"}
    energy = Energy(duration_s=1.6, components={}, absent=reasons)
    run = write_finished(tmp_path / "short", energy=energy)
    costs = Costs(energy_j=math.nan, interval_j=(math.nan, math.nan))
    lines = list(Summary(run=replace(run, duration_s=1.6), costs=costs).lines())
    text = "not measured: the command ended before its sensors had covered it"
    assert lines[lines.index(("energy", text)) + 1] == (
        "",
        "measure a short command with `joulelab run --wait`",
    )


def test_the_command_of_a_forecast_finds_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    (span,) = (one for one in measured()[0]["spans"] if one.name == "epoch")
    commands = {}
    for directory in (tmp_path / "runs" / "saved", tmp_path / "a study" / "runs" / "r0-lenet"):
        run = write_finished(directory, spans=(replace(span, count=5),))
        costs = Costs(energy_j=math.nan, interval_j=(math.nan, math.nan))
        text = dict(Summary(run=run, costs=costs).lines())["forecast"]
        commands[directory.name] = shlex.split(text.partition("`")[2].partition("`")[0])
    assert commands["saved"][2] == "saved"
    assert read_run(commands["r0-lenet"][2]).id == "r0-lenet"
