"""The page of a tuned program, and in a real browser."""

import math
from dataclasses import replace

import pytest
from energy_parts import energy_of
from opened_page import Opened

from joulelab.report.tuning_page import write_tuning_page
from joulelab.sensors.sensor import Provenance
from joulelab.tune.probes import Probe
from joulelab.tune.result import Estimate, FrontPoint, Result
from joulelab.tune.tuning import LeftOut, Measured, Outcome

BASE = {"batch_size": 8, "precision": "fp32"}
POINTS = {(8, "fp32"): (0.031, 0.38), (64, "fp32"): (0.019, 0.26), (64, "bf16"): (0.021, 0.24),
          (8, "bf16"): (0.045, 0.5)}  # fmt: skip
FRONT = [(64, "fp32"), (64, "bf16")]
HOSTILE = "</script><img src=http://example.com/x> & “plan”"


def outcome(choice=(64, "bf16"), **changes):
    def estimate(value):
        return Estimate(value, 0.96 * value, 1.04 * value)

    def settings(key):
        return dict(zip(BASE, key, strict=True))

    measured = [
        Measured(Probe(settings(key), t * f, e * f, work=100), energy_of(5 * e / t), 6.0)
        for key, (t, e) in POINTS.items()
        for f in (0.97, 1.03)
    ]
    front = tuple(
        FrontPoint(settings(key), *(estimate(value) for value in POINTS[key])) for key in FRONT
    )
    result = Result(settings(choice), BASE, Estimate(0.37, 0.34, 0.4),
                    Estimate(-0.32, -0.35, -0.3), len(measured), front, "a reason")  # fmt: skip
    given = {
        "result": result, "unit": "sample", "measured": tuple(measured),
        "left_out": (LeftOut(settings((256, HOSTILE)), "out of memory"),), "ended_early": "",
        "cost_s": 153.0, "cost_j": 1300.0, "notes": ("the energy is estimated, not measured",),
    }  # fmt: skip
    return Outcome(**(given | changes))


@pytest.mark.parametrize("provenance", [Provenance.MEASURED, Provenance.SIMULATED])
def test_simulated_energies_are_marked(tmp_path, provenance):
    energy = energy_of(45, provenance=provenance)
    measured = [replace(one, energy=energy) for one in outcome().measured]
    page = write_tuning_page(tmp_path, outcome(measured=measured), title="a", max_slowdown=0.05)
    is_simulated = provenance == Provenance.SIMULATED
    assert ("these energies were not measured" in page.read_text()) == is_simulated


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tuned")
    apply = ["joulelab study quick --set factors.batch_size=64"]
    return write_tuning_page(directory, outcome(), title=HOSTILE, max_slowdown=0.05, apply=apply)


def test_the_page_has_the_choice_the_cost_and_how_to_apply_it(page):
    text = page.read_text()
    assert "Batch size 64, precision bf16 saves 37.0 % (95 % CI 34.0–40.0 %)" in text
    assert "takes 32.0 % (95 % CI 30.0–35.0 %) less time" in text
    assert "joulelab study quick --set factors.batch_size=64" in text
    assert "The search took 2 min 33 s and about 1,300 J, and pays back after" in text
    assert "The energy is estimated, not measured." in text
    assert "out of memory" in text
    assert len(page.read_bytes()) < 60_000
    assert page.with_name("front.svg").read_text().startswith("<svg")


def test_nothing_better_is_an_answer(tmp_path):
    found = outcome((8, "fp32"), ended_early="it was interrupted")
    text = write_tuning_page(tmp_path, found, title="quick", max_slowdown=0.05).read_text()
    assert "Keep batch size 8, precision fp32: a reason." in text
    assert "The search is not complete: it was interrupted." in text
    assert "Pays back" not in text
    assert "Apply" not in text
    assert math.isnan(found.pays_back_after)


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_in_a_browser(browser, page, size, scheme):
    with Opened(browser, page, size, scheme, drawn=False) as opened:
        opened.check()
        marks = opened.page.locator("svg .mark-symbol path")
        assert marks.count() == len(POINTS) + 2 * len(POINTS)
        labels = opened.page.locator("svg .mark-text.role-mark text").all_text_contents()
        assert sorted(labels) == sorted(f"{size}, {precision}" for size, precision in POINTS)
        assert opened.page.locator("tbody tr").count() == len(POINTS)
        assert opened.page.locator("h1").inner_text() == HOSTILE
