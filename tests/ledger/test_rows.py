"""Whatever the entries are, every way of telling them apart has the same sum."""

import math
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.site import Site
from joulelab.energy.energy import ComponentEnergy
from joulelab.ledger.book import KEYS, once, period_before, period_of, rows, selected
from joulelab.ledger.costing import costed
from joulelab.ledger.entries import Entry
from joulelab.ledger.ledger import Ledger
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import UncertainValue

SITES = (Site(), Site(country="FR"), Site(intensity_g_per_kwh=400.0, pue=1.5))
times = st.floats(1.6e9, 1.8e9)


def part(component, gross_j, edge_j):
    return ComponentEnergy(
        component=component,
        source="counter",
        provenance=Provenance.MEASURED,
        duration_s=10.0,
        gross_j=gross_j,
        gain_uncertainty=0.05,
        offset_uncertainty_w=0.1,
        edge_uncertainty_j=edge_j,
    )


@st.composite
def entries(draw):
    parts = st.builds(
        part, st.sampled_from(["gpu:0", "cpu:0"]), st.floats(1.0, 1e6), st.floats(0, 10)
    )
    started = draw(st.one_of(times, st.just(math.nan)))
    return Entry(
        key=draw(st.integers(0, 50)),
        kind="job",
        name="train",
        project=draw(st.sampled_from([None, "a", "b"])),
        phase=draw(st.sampled_from([None, "training", "inference"])),
        model=draw(st.sampled_from([None, "LeNet"])),
        command="python train.py",
        host=draw(st.sampled_from(["x", "y"])),
        directory=Path("nowhere"),
        started_unix_s=started,
        ended_unix_s=started + 10.0,
        duration_s=10.0,
        unfinished=draw(st.booleans()),
        parts=tuple(draw(st.lists(parts, max_size=3))),
        boards={},
        site=draw(st.sampled_from(SITES)),
    )


def never(error):
    raise error


@given(st.lists(entries(), max_size=12), st.sampled_from(sorted(KEYS)))
def test_rows_add_up_to_the_total(found, by):
    ledger = Ledger(tuple(costed(found, never)), by, ())
    total = ledger.total
    assert sum(len(row.entries) for row in ledger.rows) == len(found)
    for figure in ("energy", "carbon"):
        whole = getattr(total, figure)
        parts = UncertainValue.total(getattr(row, figure) for row in ledger.rows)
        assert parts.value == pytest.approx(whole.value)
        assert parts.uncertainty == pytest.approx(whole.uncertainty)
    shares = [ledger.share_of(row) for row in ledger.rows]
    if total.energy.value > 0:
        assert math.fsum(one.value for one in shares) == pytest.approx(1.0)
        assert all(0 <= one.low <= one.value <= one.high <= 1 for one in shares)
    ledger.to_json()


@given(st.lists(entries(), max_size=12), st.randoms(use_true_random=False))
def test_copies_count_once_in_any_order(found, random):
    first, copies = once(found)
    shuffled = [*found, *found]
    random.shuffle(shuffled)
    again, more = once(shuffled)
    assert {one.key for one in first} == {one.key for one in again}
    assert more == copies + len(found)
    assert len(first) + copies == len(found)


@given(st.lists(entries(), max_size=12), times)
def test_a_time_and_the_rest_of_it_are_everything(found, at):
    day = datetime.fromtimestamp(at, UTC).date()
    before, undated = selected(found, until=day)
    after, _ = selected(found, since=date.fromordinal(day.toordinal() + 1))
    assert len(before) + len(after) + undated == len(found)


@given(times, st.sampled_from(["week", "month"]))
def test_the_period_before_ends_where_this_one_begins(at, by):
    key = period_of(by, at)
    day_s = 86400.0
    begin = at
    while period_of(by, begin - day_s) == key:
        begin -= day_s
    assert period_before(key) == period_of(by, begin - day_s)


def test_rows_of_a_time_are_in_its_order_and_others_by_size():
    def one(host, gross_j, began):
        started = datetime.fromisoformat(began).replace(tzinfo=UTC).timestamp()
        return Entry(
            key=(host, began), kind="job", name="n", project=None, phase=None, model=None,
            command="c", host=host, directory=Path("nowhere"), started_unix_s=started,
            ended_unix_s=started + 10, duration_s=10.0, unfinished=False,
            parts=(part("gpu:0", gross_j, 0.0),), boards={}, site=Site(),
        )  # fmt: skip

    found = costed([one("x", 5.0, "2026-02-01"), one("y", 9.0, "2026-01-01")], never)
    assert [row.key for row in rows(found, "month")] == ["2026-01", "2026-02"]
    assert [row.key for row in rows(found, "host")] == ["y", "x"]
