"""The page of joules per token, and in a real browser."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from benchmarks.token_attribution import Case, record, simulate
from opened_page import Opened

from joulelab.carbon.site import Site
from joulelab.llm.text import costs_of
from joulelab.llm.token_attribution import attribute
from joulelab.report.llm_page import PARTS, LoadPoint, explained_power, write_llm_page
from joulelab.report.page_template import environment
from joulelab.uncertain import Ratio

HOSTILE = "</script><img src=http://example.com/x> & “model”"
SWEEP = [
    LoadPoint("concurrency 1", Ratio(2.0, 1.8, 2.2), 60.0),
    LoadPoint("concurrency 8", Ratio(0.5, 0.45, 0.55), 400.0),
]


@pytest.fixture(scope="module")
def measured():
    case = Case(duration_s=10.0, period_s=0.05)
    rng = np.random.default_rng(1)
    truth = simulate(case, rng)
    trace = record(truth, case, rng)
    return attribute(truth.requests, trace), trace


@pytest.fixture(scope="module")
def page(tmp_path_factory, measured):
    result, trace = measured
    site = Site(intensity_g_per_kwh=360.0, price_per_kwh=0.3, currency="EUR")
    result = replace(result, notes=(f"a note {HOSTILE}",))
    return write_llm_page(
        tmp_path_factory.mktemp("llm") / "tokens.html", result,
        title=HOSTILE, trace=trace, costs=costs_of(result, site), sweep=SWEEP,
    )  # fmt: skip


def test_the_page_has_the_values_and_the_figures(page, measured):
    result, _ = measured
    text = page.read_text()
    assert "per output token and" in text
    assert f"{len(result.requests)} requests, " in text
    assert "J per request (median; 5 % to 95 %: " in text
    assert "output tokens per kWh, idle included." in text
    assert "Carbon at 360 g/kWh" in text
    for title in ("Energy per token over the load", "Power over time", "Requests in flight",
                  "Energy of each request", "All requests against the steady state"):  # fmt: skip
        assert title in text
    assert "A note &lt;/script&gt;" in text
    assert "<img" not in text
    assert len(page.read_bytes()) < 200_000


def test_what_is_explained_adds_up_to_the_energy(measured):
    result, _ = measured
    start_s, stop_s = result.requests.window_s
    edges_s = np.linspace(start_s, stop_s, 201)
    table = explained_power(result, edges_s)
    assert list(table["part"].unique()) == list(PARTS.values())
    width_s = (stop_s - start_s) / 200
    whole_j = table.groupby("part")["power_w"].sum() * width_s
    assert whole_j[PARTS["decode"]] == pytest.approx(result.per_request.decode_j.sum())
    assert whole_j[PARTS["prefill"]] == pytest.approx(result.per_request.prefill_j.sum())
    assert whole_j.sum() == pytest.approx(result.energy.gross_j)


def test_without_idle_power_there_is_less_to_show(tmp_path, measured):
    result, trace = measured
    parts = {
        name: replace(one, idle_j=float("nan")) for name, one in result.energy.components.items()
    }
    gross = replace(
        result,
        energy=replace(result.energy, components=parts),
        per_request=None,
        steady_state=None,
        component_costs={},
        cost=replace(result.cost, j_per_output_token=Ratio(*[float("nan")] * 3),
            j_per_input_token=Ratio(*[float("nan")] * 3)),
    )  # fmt: skip
    text = write_llm_page(tmp_path / "a.html", gross, title="a", trace=trace).read_text()
    assert "per output token, idle included." in text
    assert "Power over time" in text
    assert "Energy of each request" not in text
    assert "nan" not in text
    assert explained_power(gross, np.array([0.0, 1.0])).equals(pd.DataFrame())


@pytest.mark.parametrize(
    ("site", "columns"),
    [
        (Site(), []),
        (Site(price_per_kwh=0.3, currency="EUR"), ["Price (95 % CI)"]),
        (Site(intensity_g_per_kwh=360.0), ["CO2e (95 % CI)"]),
    ],
)
def test_costs_that_are_unknown_have_no_column(tmp_path, measured, site, columns):
    result, _ = measured
    page = write_llm_page(tmp_path / "a.html", result, title="a", costs=costs_of(result, site))
    head = page.read_text().partition('<th scope="col">A million tokens</th>')[2]
    head = head.partition("</tr>")[0]
    assert re.findall("<th[^>]*>([^<]*)<", head) == ["Energy (95 % CI)", *columns]


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (4, 4), (5, 5), (6, 3), (7, 4), (11, 4)])
def test_cards_are_in_rows_of_nearly_the_same_length(number, columns):
    template = environment().from_string(
        '{% from "facts.html.j2" import fact_list %}{{ fact_list(facts) }}'
    )
    assert f'style="--columns: {columns}"' in template.render(facts=[("a", "b")] * number)


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_in_a_browser(browser, page, measured, size, scheme):
    with Opened(browser, page, size, scheme, drawn=False) as opened:
        opened.check()
        assert opened.page.locator("h1").inner_text() == HOSTILE
        points = opened.page.locator(
            "section[aria-labelledby=requests] svg .mark-symbol.role-mark path"
        )
        assert points.count() == len(measured[0].requests)
        areas = opened.page.locator("section[aria-labelledby=power] svg .mark-area path")
        assert areas.count() == len(PARTS)
