"""The page of a ledger, as text and in a real browser."""

import re
from datetime import datetime
from pathlib import Path

import pytest
from opened_page import Opened

from joulelab.carbon.costs import Costs
from joulelab.carbon.factors import Factor
from joulelab.carbon.site import Site
from joulelab.energy.energy import Energy
from joulelab.format import quantity
from joulelab.ledger.entries import Entry
from joulelab.ledger.ledger import Ledger
from joulelab.ledger.text import head_lines, notes, row_table, top_consumer_table
from joulelab.report.ledger_page import MOST_SERIES, OTHERS, energy_over_time, write_ledger_page
from joulelab.report.page_template import order
from joulelab.runs.record import Run
from joulelab.uncertain import UncertainValue

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }}"


def entry(gross_j, began, **labels):
    """A run in a ledger, with costs; without energy if it is ``None``."""
    start_s = float("nan") if began is None else datetime.fromisoformat(began).timestamp()
    values = {"id": f"run {began}", "kind": "command", "name": "train", "host": "here"} | labels
    run = Run(directory=Path("runs", str(began)), started_unix_s=start_s, duration_s=100.0,
        status="done", energy=Energy(duration_s=100.0), **values)  # fmt: skip
    if gross_j is None:
        return Entry(run, Site())
    energy = UncertainValue(gross_j, own=gross_j / 100, least=0.0)
    factor = Factor(300.0, "Germany", "", "given")
    costs = Costs(energy_j=gross_j, interval_j=energy.interval, factor=factor)
    return Entry(run, Site(), energy, costs)


def ledger(by="phase", n=20):
    phases = ("train", "infer", None)
    entries = [
        entry(1e6 * (1 + i % 4), f"2026-11-{1 + i:02d}T12:00+00:00", phase=phases[i % 3],
            host=f"node-{i % 9}", name=HOSTILE if i == 3 else "train")
        for i in range(n)
    ]  # fmt: skip
    entries += [entry(5e5, None, phase="data"), entry(None, "2026-11-02T00:00+00:00")]
    return Ledger(tuple(entries), by, ("one run overlapped",))


@pytest.mark.parametrize("by", ["phase", "host", "week"])
def test_the_page_has_every_text_of_the_terminal(tmp_path, by):
    made = ledger(by)
    page = write_ledger_page(tmp_path / "ledger.html", made).read_text()
    visible = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.replace("</td>", " | ")))
    for line in head_lines(made):
        assert line in visible
    for table in (row_table(made), top_consumer_table(made)):
        for name, *cells in table.rows:
            escaped = name.replace("<", "&lt;").replace(">", "&gt;")
            assert " ".join(f"{escaped}{' | '.join(cells)} | ".split()) in visible
    for note in notes(made):
        assert note[1:] in visible
    # The only script sorts the table, by values: texts have prefixes.
    assert page.count("<script") == 1
    orders = re.findall(r'data-order="([^"]*)"', page)
    energies = orders[2 :: len(row_table(made).headings) - 1][: len(made.rows)]
    assert energies == [order(row.energy.value) if row.is_measured else "" for row in made.rows]


def test_bars_add_up_to_the_rows(tmp_path):
    made = ledger("phase")
    bars = energy_over_time(made)
    sums = (bars["high_j"] - bars["low_j"]).groupby(bars["name"]).sum()
    rows = {row.key: row.energy.value for row in made.rows}
    assert sums.to_dict() == pytest.approx(
        {key: rows[key] for key in ("train", "infer", "untagged")}
    )
    assert set((bars["stop"] - bars["start"]).dt.days) == {1}


def test_many_rows_share_a_colour_and_weeks_have_one():
    by_host = energy_over_time(ledger("host"))
    assert by_host["name"].nunique() == MOST_SERIES
    assert OTHERS in set(by_host["name"])
    made = ledger("week")
    weeks = energy_over_time(made)
    assert set(weeks["name"]) == {""}
    assert list(weeks["high_j"]) == pytest.approx([
        row.energy.value for row in made.rows if row.key != "undated"
    ])  # fmt: skip
    assert {one.weekday() for one in weeks["start"]} == {0}


@pytest.mark.parametrize("days", [1, 2, 40])
def test_each_day_has_one_label_below_its_bar(tmp_path, days):
    entries = [
        entry(1e6, f"2026-{1 + i // 28:02d}-{1 + i % 28:02d}T12:00+00:00") for i in range(days)
    ]
    page = write_ledger_page(tmp_path / "a.html", Ledger(tuple(entries), "phase", ())).read_text()
    # A single bar would show nothing.
    assert page.count("<svg") == (0 if days == 1 else 2)
    for figure in page.split("<svg")[1:]:
        labels = re.findall(r">((?:Jan|Feb|Mar) \d+)<", figure)
        assert len(labels) == len(set(labels)) >= min(days, 2)


def test_a_ledger_of_years_is_drawn_by_month():
    entries = (entry(1.0, "2024-01-31T00:00+00:00"), entry(2.0, "2026-02-28T00:00+00:00"))
    bars = energy_over_time(Ledger(entries, "phase", ()))
    assert [f"{one:%F}" for one in bars["start"]] == ["2024-01-01", "2026-02-01"]
    assert [f"{one:%F}" for one in bars["stop"]] == ["2024-02-01", "2026-03-01"]


def test_without_known_times_there_is_no_figure(tmp_path):
    made = Ledger((entry(5e5, None),), "phase", ())
    page = write_ledger_page(tmp_path / "ledger.html", made).read_text()
    assert "Energy over time" not in page
    assert quantity(5e5, "J") in page


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_in_a_browser(browser, tmp_path, size, scheme):
    page = write_ledger_page(tmp_path / "ledger.html", ledger())
    assert len(page.read_bytes()) < 150_000
    with Opened(browser, page, size, scheme, drawn=False) as opened:
        opened.check()
        figures = opened.page.locator("[role=img]:visible")
        assert figures.count() == 1
        text_px = figures.locator("svg text").first.bounding_box()["height"]
        assert text_px > 9
