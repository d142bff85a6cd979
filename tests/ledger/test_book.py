"""Ledgers of invented records: what is counted, once, under which key, with what beside it."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.site import keep
from joulelab.energy.attribution import Share
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.ledger.book import KEYS
from joulelab.ledger.ledger import read_ledger
from joulelab.ledger.overlaps import _too_often_j
from joulelab.ledger.split import REFERENCES
from joulelab.ledger.tags import tag


def read(*directories, **options):
    def complain(error):
        raise error

    return read_ledger(directories, **{"complain": complain} | options)


def test_records_of_machines_and_months_add_up(tmp_path, job):
    job(tmp_path / "a" / "one", 1000.0, host="a", phase="training", project="digits")
    job(tmp_path / "a" / "two", 2000.0, host="a", phase="inference", began="2026-10-05T00:00Z")
    job(tmp_path / "b" / "one", 4000.0, host="b")
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(7000.0)
    # The gain of 5 % adds up on a machine, and not across machines.
    assert ledger.total.energy.uncertainty == pytest.approx(math.hypot(150.0, 200.0))
    for by in KEYS:
        rows = read(tmp_path, by=by).rows
        assert math.fsum(row.energy.value for row in rows) == pytest.approx(7000.0)
    assert {row.key for row in ledger.rows} == {"training", "inference", "untagged"}
    assert [row.key for row in read(tmp_path, by="month").rows] == ["2026-10", "2026-11"]


def test_a_copy_counts_once_and_the_finished_and_tagged_one_counts(tmp_path, job):
    first = job(tmp_path / "here" / "one", 1000.0)
    shutil.copytree(first, tmp_path / "there" / "one")
    tag(tmp_path / "there" / "one", project="digits", phase="training", tags={})
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert [row.key for row in ledger.rows] == ["training"]
    assert any("1 copies" in note for note in ledger.notes)


def test_another_record_of_the_same_name_is_no_copy(tmp_path, job):
    job(tmp_path / "a" / "out", 1000.0, began="2026-11-02T12:00Z")
    job(tmp_path / "b" / "out", 1000.0, began="2026-11-03T12:00Z")
    assert read(tmp_path).total.energy.value == pytest.approx(2000.0)


def test_one_phase_or_what_has_none(tmp_path, job):
    job(tmp_path / "one", 1.0, phase="training")
    job(tmp_path / "two", 10.0, phase="inference")
    job(tmp_path / "three", 100.0)
    found = [read(tmp_path, phase=phase).total.energy.value for phase in ("training", "untagged")]
    assert found == pytest.approx([1.0, 100.0])


def test_days_are_those_of_utc_and_both_ends_count(tmp_path, job):
    job(tmp_path / "before", 1.0, began="2026-11-01T23:59:59Z")
    job(tmp_path / "first", 10.0, began="2026-11-02T01:00+00:00")
    job(tmp_path / "last", 100.0, began="2026-11-04T00:30+01:00")
    job(tmp_path / "after", 1000.0, began="2026-11-04T00:00Z")
    from datetime import date

    ledger = read(tmp_path, since=date(2026, 11, 2), until=date(2026, 11, 3))
    assert ledger.total.energy.value == pytest.approx(110.0)


def test_a_week_stands_against_the_one_before_and_the_gain_cancels(tmp_path, job):
    job(tmp_path / "one", 1000.0, began="2026-12-22T00:00Z")
    job(tmp_path / "two", 1200.0, began="2026-12-29T00:00Z")
    job(tmp_path / "three", 900.0, began="2027-01-12T00:00Z")
    ledger = read(tmp_path, by="week")
    changes = [ledger.change_of(row, ledger.rows) for row in ledger.rows]
    assert [row.key for row in ledger.rows] == ["2026-W52", "2026-W53", "2027-W02"]
    assert math.isnan(changes[0].value)
    assert (changes[1].low, changes[1].high) == pytest.approx((1.2, 1.2), rel=1e-6)
    # The week before had no record: nothing to stand against.
    assert math.isnan(changes[2].value)


def test_phases_stand_beside_the_published_splits(tmp_path, job):
    shares = {"data": 31.0, "experimentation": 9.0, "training": 20.0, "inference": 40.0}
    for phase, gross_j in shares.items():
        job(tmp_path / phase, gross_j, phase=phase)
    job(tmp_path / "other", 1000.0)
    whole, cycles = (parts for _, parts in read(tmp_path).splits)
    assert [part.share.value for part in whole] == pytest.approx([0.31, 0.29, 0.40])
    assert [part.reference for part in whole] == [0.31, 0.29, 0.40]
    assert [part.share.value for part in cycles] == pytest.approx([9 / 69, 20 / 69, 40 / 69])
    for reference in REFERENCES:
        assert math.fsum(part for part, _ in reference.parts.values()) == pytest.approx(1.0)


def test_what_was_not_measured_is_said_and_not_counted_as_nothing(tmp_path, job, make_energy):
    job(tmp_path / "blind", Energy(duration_s=9.0, absent={"gpu:0": "no driver"}), name="blind")
    job(tmp_path / "seen", 1000.0)
    job(tmp_path / "cpu", make_energy(500.0, component="cpu:0"))
    ledger = read(tmp_path, by="command")
    assert ledger.total.energy.value == pytest.approx(1500.0)
    text = "\n".join(ledger.notes)
    assert "1 without any energy, not in the sums: blind" in text
    assert "gpu not measured in 1, though in others: train" in text
    assert "cpu not measured in 1, though in others: train" in text
    figures = ledger.to_json()["dearest"]
    assert all(row["gross_j"] is not None for row in figures)


def test_what_is_simulated_is_named_so(tmp_path, job):
    job(tmp_path / "one", 1000.0)
    assert "100 % of the energy is simulated, not measured" in read(tmp_path).notes


def test_an_unfinished_job_is_flagged(tmp_path, job):
    (job(tmp_path / "one", 1000.0) / "run.json").unlink()
    ledger = read(tmp_path)
    assert any(note.startswith("1 not finished") for note in ledger.notes)
    assert ledger.rows[0].unfinished == 1


def test_records_made_at_the_same_time_are_told_of(tmp_path, job):
    job(tmp_path / "one", 1000.0)
    job(tmp_path / "two", 1000.0, began="2026-11-02T12:00:50Z")
    job(tmp_path / "far", 1000.0, host="elsewhere")
    (note,) = [note for note in read(tmp_path).notes if "same time" in note]
    assert "500 J too large" in note


def test_what_others_had_of_a_machine_is_told_and_can_be_left_out(tmp_path, job, make_energy):
    whole = make_energy(1000.0, gain=0.0)
    share = Share(fraction=0.4, low=0.3, high=0.5, method="CPU time")
    part = replace(whole.components["gpu:0"], share=share)
    job(tmp_path / "one", replace(whole, components={"gpu:0": part}))
    job(tmp_path / "two", replace(whole, components={"gpu:0": part}))
    job(tmp_path / "alone", make_energy(1000.0, gain=0.0), host="elsewhere")
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(3000.0)
    assert any("about 800 J (600 to 1,000) was their own" in note for note in ledger.notes)
    assert any("same time" in note for note in ledger.notes)
    own = read(tmp_path, own_share=True)
    assert own.total.energy.value == pytest.approx(1800.0)
    assert own.total.energy.interval == pytest.approx((1600.0, 2000.0))
    assert not any("same time" in note for note in own.notes)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10), st.floats(1.0, 100.0)), max_size=8)
)
def test_overlaps_are_the_sum_less_the_largest_at_every_moment(found):
    stretches = [(float(start), float(start + length), power) for start, length, power in found]
    expected = 0.0
    for second in range(31):
        powers = [power for start, stop, power in stretches if start <= second < stop]
        expected += sum(powers) - max(powers, default=0.0)
    assert _too_often_j(stretches) == pytest.approx(expected, abs=1e-9)


def test_each_record_costs_what_its_own_site_says(tmp_path, job):
    keep(country="DE", price_per_kwh=0.3, currency="EUR")
    job(tmp_path / "home" / "jobs" / "here", 3.6e6)
    job(tmp_path / "cluster" / "jobs" / "there", 3.6e6, host="there")
    (tmp_path / "cluster" / "site.toml").write_text("intensity_g_per_kwh = 50.0\npue = 2\n")
    ledger = read(tmp_path)
    by_name = {one.entry.directory.name: one for one in ledger.entries}
    assert by_name["there"].carbon.value == pytest.approx(100.0)
    assert by_name["there"].price is None
    assert by_name["here"].price.value == pytest.approx(0.3)
    assert len(ledger.rests_on) == 3
    assert read(tmp_path, given={"country": "FR"}).rests_on[0].startswith("carbon at 41")


def test_a_site_is_looked_for_no_higher_than_what_was_asked_for(tmp_path, job):
    (tmp_path / "site.toml").write_text("intensity_g_per_kwh = 50.0\n")
    job(tmp_path / "work" / "one", 3.6e6)
    job(tmp_path / "jobs" / "two", 3.6e6)
    assert read(tmp_path / "work").total.without_carbon == 1
    # That directory is a home's, and so what lies beside it belongs to it.
    assert read(tmp_path / "jobs").total.carbon.value == pytest.approx(50.0)


def test_what_is_no_site_leaves_the_records_in_the_sums(tmp_path, job):
    (tmp_path / "site.toml").write_text("title = 'my pages'\n")
    job(tmp_path / "one", 1000.0)
    errors = []
    ledger = read_ledger([tmp_path], complain=errors.append)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert len(errors) == 1
    assert "title" in str(errors[0])


def test_studies_count_all_that_their_runs_did(tmp_path, synthetic):
    study = synthetic.Writer(tmp_path / "study", models=["LeNet", "VGG16"])
    study.idle(0, "before")
    runs = [study.cell("LeNet", 0), study.cell("VGG16", 0)]
    spent_j = sum(span["energy"]["gross_j"] for run in runs for span in run["spans"])
    tag(tmp_path / "study", project="digits", phase="experimentation", tags={})
    ledger = read(tmp_path, by="model")
    (idle,) = [row for row in ledger.rows if row.key == "untagged"]
    assert ledger.total.energy.value - idle.energy.value == pytest.approx(spent_j)
    assert {row.key for row in ledger.rows} == {"LeNet", "VGG16", "untagged"}
    assert [row.key for row in read(tmp_path).rows] == ["experimentation"]


def test_tagging_leaves_what_was_measured(tmp_path, job):
    path = job(tmp_path / "one", 1000.0, tags={"seed": "1"})
    before = json.loads((path / "run.json").read_text())
    tag(path, project="digits", phase=None, tags={"samples": "10"})
    after = json.loads((path / "run.json").read_text())
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"project", "tags"}
    assert after["tags"] == {"seed": "1", "samples": "10"}


def test_what_cannot_be_tagged_is_refused(tmp_path, job):
    import os

    with pytest.raises(UserError, match="no job and no study"):
        tag(tmp_path, project="p", phase=None, tags={})
    path = job(tmp_path / "one", 1.0, host=os.uname().nodename, pid=os.getpid())
    with pytest.raises(UserError, match="no phase"):
        tag(path, project=None, phase="trainin", tags={})
    (path / "run.json").unlink()
    with pytest.raises(UserError, match="still running"):
        tag(path, project="p", phase=None, tags={})


def test_a_damaged_record_is_told_of_and_the_others_count(tmp_path, job, synthetic):
    job(tmp_path / "one", 1000.0)
    (job(tmp_path / "two", 1000.0) / "run.json").write_text('{"schema": "joulelab-job-1"}')
    study = synthetic.Writer(tmp_path / "study", models=["LeNet"])
    study.cell("LeNet", 0)
    (tmp_path / "study" / "runs" / "r0-lenet" / "run.json").write_text("{")
    errors = []
    ledger = read_ledger([tmp_path], complain=errors.append)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert len(errors) == 2
