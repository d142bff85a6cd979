"""Whatever the entries are, every way of grouping them has the same sum."""

import math
import random
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from energy_parts import component_energy
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.site import Site
from joulelab.energy.energy import Energy
from joulelab.ledger.entries import Entry, price_entries
from joulelab.ledger.group import (
    KEYS,
    group_entries,
    period_of,
    previous_period,
    select_entries,
    without_copies,
)
from joulelab.ledger.ledger import Ledger
from joulelab.runs.record import Run
from joulelab.uncertain import UncertainValue

SITES = (Site(), Site(country="FR"), Site(intensity_g_per_kwh=400.0, pue=1.5))
times = st.floats(1.6e9, 1.8e9)


def part(component, gross_j, edge_j):
    uncertainties = {"gain_uncertainty": 0.05, "offset_uncertainty_w": 0.1}
    return component_energy(component, gross_j, edge_uncertainty_j=edge_j, **uncertainties)


def run_of(parts, **changed):
    energy = Energy(duration_s=10.0, components={one.component: one for one in parts})
    values = {
        "directory": Path("nowhere"),
        "id": "0",
        "kind": "command",
        "name": "train",
        "command": ("python", "train.py"),
        "host": "x",
        "duration_s": 10.0,
        "energy": energy,
    }
    return Run(**values | changed)


def random_entry(rng):
    """An entry of a small world, in which keys, projects and periods repeat."""
    components = rng.sample(["gpu:0", "cpu:0"], rng.randint(0, 2))
    started = math.nan if rng.random() < 0.1 else rng.uniform(1.6e9, 1.8e9)
    run = run_of(
        [part(name, rng.uniform(1.0, 1e6), rng.uniform(0.0, 10.0)) for name in components],
        id=str(rng.randint(0, 20)),
        project=rng.choice([None, "a", "b"]),
        phase=rng.choice([None, "train", "infer"]),
        model=rng.choice([None, "LeNet"]),
        host=rng.choice(["x", "y"]),
        started_unix_s=started,
        ended_unix_s=started + 10.0,
        status=rng.choice(["done", "unfinished"]),
    )
    return Entry(run, rng.choice(SITES))


RANDOM = random.Random(1)
ENTRIES = [random_entry(RANDOM) for _ in range(200)]
# Drawing the fields of every entry would take most of the time.
some_entries = st.lists(st.sampled_from(ENTRIES), max_size=12)


def never(error):
    raise error


@given(some_entries, st.sampled_from(sorted(KEYS)))
def test_rows_add_up_to_the_total(found, by):
    ledger = Ledger(tuple(price_entries(found, never)), by, ())
    total = ledger.total
    assert sum(len(row.entries) for row in ledger.rows) == len(found)
    for name in ("energy", "carbon"):
        whole = getattr(total, name)
        parts = UncertainValue.total(getattr(row, name) for row in ledger.rows)
        assert parts.value == pytest.approx(whole.value)
        assert parts.uncertainty == pytest.approx(whole.uncertainty)
    shares = [ledger.share_of(row) for row in ledger.rows if row.is_measured]
    assert all(math.isnan(ledger.share_of(row).value) for row in ledger.rows if not row.is_measured)
    if total.energy.value > 0:
        assert math.fsum(one.value for one in shares) == pytest.approx(1.0)
        assert all(0 <= one.low <= one.value <= one.high <= 1 for one in shares)
    ledger.to_json()


@given(some_entries, st.randoms(use_true_random=False))
def test_copies_count_once_in_any_order(found, rng):
    first, copies = without_copies(found)
    shuffled = [*found, *found]
    rng.shuffle(shuffled)
    again, more = without_copies(shuffled)
    assert {one.key for one in first} == {one.key for one in again}
    assert more == copies + len(found)
    assert len(first) + copies == len(found)


@given(some_entries, times)
def test_before_and_after_a_day_is_everything(found, at):
    day = datetime.fromtimestamp(at, UTC).date()
    before, undated = select_entries(found, until=day)
    after, _ = select_entries(found, since=date.fromordinal(day.toordinal() + 1))
    assert len(before) + len(after) + undated == len(found)


@given(times, st.sampled_from(["week", "month"]))
def test_the_previous_period_ends_where_this_one_begins(at, by):
    key = period_of(by, at)
    day_s = 86400.0
    begin = at
    while period_of(by, begin - day_s) == key:
        begin -= day_s
    assert previous_period(key) == period_of(by, begin - day_s)


def test_periods_are_in_order_of_time_and_other_rows_by_size():
    def entry(host, gross_j, began):
        started = datetime.fromisoformat(began).replace(tzinfo=UTC).timestamp()
        return Entry(
            run_of([part("gpu:0", gross_j, 0.0)], host=host, started_unix_s=started), Site()
        )

    found = price_entries([entry("x", 5.0, "2026-02-01"), entry("y", 9.0, "2026-01-01")], never)
    assert [row.key for row in group_entries(found, "month")] == ["2026-01", "2026-02"]
    assert [row.key for row in group_entries(found, "host")] == ["y", "x"]
