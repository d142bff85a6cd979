"""Ledgers of invented records: what is counted, how it is grouped, and the warnings."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.site import save_site
from joulelab.energy.attribution import Share
from joulelab.energy.baseline import BUSY_IDLE
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.ledger.entries import label_run
from joulelab.ledger.group import KEYS
from joulelab.ledger.ledger import PUBLISHED_SPLITS, read_ledger
from joulelab.ledger.text import row_table
from joulelab.ledger.warnings import overlap_j


def read(*directories, **options):
    def on_error(error):
        raise error

    return read_ledger(directories, **{"on_error": on_error} | options)


def test_records_of_machines_and_months_add_up(tmp_path, run_record):
    run_record(tmp_path / "a" / "one", 1000.0, host="a", phase="train", project="digits")
    run_record(tmp_path / "a" / "two", 2000.0, host="a", phase="infer", began="2026-10-05T00:00Z")
    run_record(tmp_path / "b" / "one", 4000.0, host="b")
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(7000.0)
    # The gain of 5 % adds up on a machine, and not across machines.
    assert ledger.total.energy.uncertainty == pytest.approx(math.hypot(150.0, 200.0))
    for by in KEYS:
        rows = read(tmp_path, by=by).rows
        assert math.fsum(row.energy.value for row in rows) == pytest.approx(7000.0)
    assert {row.key for row in ledger.rows} == {"train", "infer", "untagged"}
    assert [row.key for row in read(tmp_path, by="month").rows] == ["2026-10", "2026-11"]


def test_of_copies_only_the_finished_and_tagged_one_counts(tmp_path, run_record):
    first = run_record(tmp_path / "here" / "one", 1000.0)
    shutil.copytree(first, tmp_path / "there" / "one")
    label_run(tmp_path / "there" / "one", project="digits", phase="train", tags={})
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert [row.key for row in ledger.rows] == ["train"]
    assert any("1 copy of a record not counted" in warning for warning in ledger.warnings)


def test_another_record_of_the_same_name_is_not_a_copy(tmp_path, run_record):
    run_record(tmp_path / "a" / "out", 1000.0, began="2026-11-02T12:00Z")
    run_record(tmp_path / "b" / "out", 1000.0, began="2026-11-03T12:00Z")
    assert read(tmp_path).total.energy.value == pytest.approx(2000.0)


def test_one_phase_or_runs_without_a_phase(tmp_path, run_record):
    run_record(tmp_path / "one", 1.0, phase="train")
    run_record(tmp_path / "two", 10.0, phase="infer")
    run_record(tmp_path / "three", 100.0)
    found = [read(tmp_path, phase=phase).total.energy.value for phase in ("train", "untagged")]
    assert found == pytest.approx([1.0, 100.0])


def test_days_are_those_of_utc_and_both_ends_count(tmp_path, run_record):
    run_record(tmp_path / "before", 1.0, began="2026-11-01T23:59:59Z")
    run_record(tmp_path / "first", 10.0, began="2026-11-02T01:00+00:00")
    run_record(tmp_path / "last", 100.0, began="2026-11-04T00:30+01:00")
    run_record(tmp_path / "after", 1000.0, began="2026-11-04T00:00Z")
    from datetime import date

    ledger = read(tmp_path, since=date(2026, 11, 2), until=date(2026, 11, 3))
    assert ledger.total.energy.value == pytest.approx(110.0)


def test_a_week_is_compared_with_the_one_before_and_the_gain_cancels(tmp_path, run_record):
    run_record(tmp_path / "one", 1000.0, began="2026-12-22T00:00Z")
    run_record(tmp_path / "two", 1200.0, began="2026-12-29T00:00Z")
    run_record(tmp_path / "three", 900.0, began="2027-01-12T00:00Z")
    ledger = read(tmp_path, by="week")
    changes = [ledger.change_of(row, ledger.rows) for row in ledger.rows]
    assert [row.key for row in ledger.rows] == ["2026-W52", "2026-W53", "2027-W02"]
    assert math.isnan(changes[0].value)
    assert (changes[1].low, changes[1].high) == pytest.approx((1.2, 1.2), rel=1e-6)
    # The week before had no record.
    assert math.isnan(changes[2].value)


def test_a_change_within_no_factor_of_ten_is_not_determined(tmp_path, run_record, make_energy):
    run_record(tmp_path / "one", 1000.0, began="2026-12-22T00:00Z")
    uncertain = make_energy(1000.0, edge_j=600.0)
    run_record(tmp_path / "two", uncertain, began="2026-12-29T00:00Z")
    ledger = read(tmp_path, by="week")
    found = ledger.change_of(ledger.rows[1], ledger.rows)
    assert (found.value, found.low, found.high) == (1.0, 0.0, math.inf)
    assert "cannot be determined" in row_table(ledger).rows[1]


def test_phases_next_to_published_splits(tmp_path, run_record):
    shares = {"data": 31.0, "experiment": 9.0, "train": 20.0, "infer": 40.0}
    for phase, gross_j in shares.items():
        run_record(tmp_path / phase, gross_j, phase=phase)
    run_record(tmp_path / "other", 1000.0)
    whole, cycles = (parts for _, parts in read(tmp_path).splits)
    assert [part.share.value for part in whole] == pytest.approx([0.31, 0.29, 0.40])
    assert [part.published for part in whole] == [0.31, 0.29, 0.40]
    assert [part.share.value for part in cycles] == pytest.approx([9 / 69, 20 / 69, 40 / 69])
    for published in PUBLISHED_SPLITS:
        assert math.fsum(part for part, _ in published.parts.values()) == pytest.approx(1.0)


def test_unmeasured_runs_are_reported_and_do_not_count_as_zero(tmp_path, run_record, make_energy):
    run_record(
        tmp_path / "blind", Energy(duration_s=9.0, absent={"gpu:0": "no driver"}), name="blind"
    )
    run_record(tmp_path / "seen", 1000.0)
    run_record(tmp_path / "cpu", make_energy(500.0, component="cpu:0"))
    ledger = read(tmp_path, by="command")
    assert ledger.total.energy.value == pytest.approx(1500.0)
    text = "\n".join(ledger.warnings)
    assert "1 run without energy, not in the sums: blind" in text
    assert "no gpu energy in 1 run: train" in text
    assert "no cpu energy in 1 run: train" in text
    rows = ledger.to_json()["top_consumers"]
    assert all(row["gross_j"] is not None for row in rows)


def test_simulated_energy_is_reported(tmp_path, run_record):
    run_record(tmp_path / "one", 1000.0)
    assert "100 % of the energy is simulated, not measured" in read(tmp_path).warnings


def test_doubtful_idle_power_is_reported(tmp_path, run_record, make_energy):
    doubtful = replace(make_energy(1000.0), notes=(f"{BUSY_IDLE} (50 % of the CPU used)",))
    run_record(tmp_path / "one", doubtful)
    run_record(tmp_path / "two", 1000.0)
    warning = f"{BUSY_IDLE} for 1 run: energies net of idle are uncertain"
    assert warning in read(tmp_path).warnings


def test_an_unfinished_run_is_reported(tmp_path, run_record):
    run_record(tmp_path / "one", 1000.0, status="unfinished")
    ledger = read(tmp_path)
    assert any(warning.startswith("1 unfinished run") for warning in ledger.warnings)
    assert ledger.rows[0].unfinished == 1


def test_overlapping_runs_are_reported(tmp_path, run_record):
    run_record(tmp_path / "one", 1000.0)
    run_record(tmp_path / "two", 1000.0, began="2026-11-02T12:00:50Z")
    run_record(tmp_path / "far", 1000.0, host="elsewhere")
    (warning,) = [one for one in read(tmp_path).warnings if "overlapped" in one]
    assert "500 J too large" in warning


def test_only_the_own_share_of_a_shared_machine(tmp_path, run_record, make_energy):
    whole = make_energy(1000.0, gain=0.0)
    users = ("make (pid 7)",)
    share = Share(fraction=0.4, low=0.3, high=0.5, method="CPU time", users=users)
    part = replace(whole.components["gpu:0"], share=share)
    run_record(tmp_path / "one", replace(whole, components={"gpu:0": part}))
    run_record(tmp_path / "two", replace(whole, components={"gpu:0": part}))
    run_record(tmp_path / "alone", make_energy(1000.0, gain=0.0), host="elsewhere")
    ledger = read(tmp_path)
    assert ledger.total.energy.value == pytest.approx(3000.0)
    assert any(
        "about 800 J (95 % CI 600–1,000 J) of 2,000 J is their own" in warning
        for warning in ledger.warnings
    )
    assert any(one.startswith("2 runs on shared machines (make): ") for one in ledger.warnings)
    assert any("overlapped" in warning for warning in ledger.warnings)
    own = read(tmp_path, own_share=True)
    assert own.total.energy.value == pytest.approx(1800.0)
    assert own.total.energy.interval == pytest.approx((1600.0, 2000.0))
    assert not any("overlapped" in warning for warning in own.warnings)


def test_the_own_share_of_a_run_has_one_interval_everywhere(tmp_path, run_record, make_energy):
    share = Share(fraction=0.4, low=0.3, high=0.5, method="CPU time")
    parts = {
        name: replace(make_energy(1000.0).components["gpu:0"], component=name, share=share)
        for name in ("cpu:0", "dram:0")
    }
    energy = replace(make_energy(2000.0), components=parts)
    run_record(tmp_path / "one", energy)
    own = read(tmp_path, own_share=True).total.energy
    assert own.value == pytest.approx(energy.job_j)
    assert own.interval == pytest.approx(energy.job_interval_j)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10), st.floats(1.0, 100.0)), max_size=8)
)
def test_an_overlap_is_the_sum_minus_the_largest_at_every_moment(found):
    stretches = [(float(start), float(start + length), power) for start, length, power in found]
    expected = 0.0
    for second in range(31):
        powers = [power for start, stop, power in stretches if start <= second < stop]
        expected += sum(powers) - max(powers, default=0.0)
    assert overlap_j(stretches) == pytest.approx(expected, abs=1e-9)


def test_each_record_has_the_costs_of_its_own_site(tmp_path, run_record):
    save_site(country="DE", price_per_kwh=0.3, currency="EUR")
    run_record(tmp_path / "home" / "jobs" / "here", 3.6e6)
    run_record(tmp_path / "cluster" / "jobs" / "there", 3.6e6, host="there")
    (tmp_path / "cluster" / "site.toml").write_text("intensity_g_per_kwh = 50.0\npue = 2\n")
    ledger = read(tmp_path)
    by_name = {one.run.directory.name: one for one in ledger.entries}
    assert by_name["there"].carbon.value == pytest.approx(100.0)
    assert by_name["there"].price is None
    assert by_name["here"].price.value == pytest.approx(0.3)
    assert len(ledger.sources) == 3
    assert read(tmp_path, given={"country": "FR"}).sources[0].startswith("carbon at 41")


def test_a_site_above_the_given_directory_is_ignored(tmp_path, run_record):
    (tmp_path / "site.toml").write_text("intensity_g_per_kwh = 50.0\n")
    run_record(tmp_path / "work" / "one", 3.6e6)
    run_record(tmp_path / "jobs" / "two", 3.6e6)
    assert read(tmp_path / "work").total.without_carbon == 1
    # That directory is in a home, so the site of the home applies.
    assert read(tmp_path / "jobs").total.carbon.value == pytest.approx(50.0)


def test_a_file_that_is_not_a_site_leaves_the_records_in_the_sums(tmp_path, run_record):
    (tmp_path / "site.toml").write_text("title = 'my pages'\n")
    run_record(tmp_path / "one", 1000.0)
    errors = []
    ledger = read_ledger([tmp_path], on_error=errors.append)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert len(errors) == 1
    assert "title" in str(errors[0])


def test_studies_count_with_everything_that_their_runs_did(tmp_path, synthetic):
    study = synthetic.Writer(tmp_path / "study", models=["LeNet", "VGG16"])
    study.idle(0, "before")
    runs = [study.cell("LeNet", 0), study.cell("VGG16", 0)]
    spent_j = sum(span["energy"]["gross_j"] for run in runs for span in run["spans"])
    label_run(tmp_path / "study", project="digits", phase="experiment", tags={})
    ledger = read(tmp_path, by="model")
    (idle,) = [row for row in ledger.rows if row.key == "untagged"]
    assert ledger.total.energy.value - idle.energy.value == pytest.approx(spent_j)
    assert {row.key for row in ledger.rows} == {"LeNet", "VGG16", "untagged"}
    assert [row.key for row in read(tmp_path).rows] == ["experiment"]


def test_labels_do_not_change_measurements(tmp_path, run_record):
    path = run_record(tmp_path / "one", 1000.0, tags={"seed": "1"})
    before = json.loads((path / "run.json").read_text())
    label_run(path, project="digits", phase=None, tags={"samples": "10"})
    after = json.loads((path / "run.json").read_text())
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"project", "tags"}
    assert after["tags"] == {"seed": "1", "samples": "10"}


def test_what_cannot_be_labelled(tmp_path, run_record, synthetic):
    import os

    with pytest.raises(UserError, match="neither a run nor a study"):
        label_run(tmp_path, project="p", phase=None, tags={})
    path = run_record(tmp_path / "one", 1.0)
    with pytest.raises(UserError, match="no phase"):
        label_run(path, project=None, phase="trainin", tags={})
    host, pid = os.uname().nodename, os.getpid()
    path = run_record(tmp_path / "two", 1.0, host=host, pid=pid, status="unfinished")
    with pytest.raises(UserError, match="still running"):
        label_run(path, project="p", phase=None, tags={})
    study = synthetic.Writer(tmp_path / "study")
    study.cell("LeNet", 0)
    with pytest.raises(UserError, match="run of a study"):
        label_run(tmp_path / "study" / "runs" / "r0-lenet", project="p", phase=None, tags={})
    with pytest.raises(UserError, match="only runs have tags"):
        label_run(tmp_path / "study", project="p", phase=None, tags={"a": "b"})


def test_a_damaged_record_is_reported_and_the_others_count(tmp_path, run_record, synthetic):
    run_record(tmp_path / "one", 1000.0)
    (run_record(tmp_path / "two", 1000.0) / "run.json").write_text('{"schema": "joulelab-job-1"}')
    study = synthetic.Writer(tmp_path / "study", models=["LeNet"])
    study.cell("LeNet", 0)
    (tmp_path / "study" / "runs" / "r0-lenet" / "run.json").write_text("{")
    errors = []
    ledger = read_ledger([tmp_path], on_error=errors.append)
    assert ledger.total.energy.value == pytest.approx(1000.0)
    assert len(errors) == 2
