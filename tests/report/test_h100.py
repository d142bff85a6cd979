"""Report of the recording of sixteen models on an H100, as the documentation shows it."""

import json
import re

import pytest
import refresh_h100
from reading import Page

NUMBER = re.compile(r"(?:(?<=\s)-)?\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def page(h100_report):
    return Page(h100_report.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def findings(h100_report):
    found = json.loads((h100_report.page.parent / "findings.json").read_text(encoding="utf-8"))
    return {finding["id"]: finding for finding in found}


def test_charts(page):
    assert set(page.data["charts"]) == {
        "energy",
        "duration",
        "ratio",
        "power",
        "utilization",
        "predictors",
        "energy-time",
        "trace",
    }
    for missing in ("No model ran at two batch sizes", "No model has both a known accuracy"):
        assert missing in page.words
    assert len({row["model"] for row in page.rows("energy")}) == 16


@pytest.mark.parametrize("phase", ["train", "infer"])
def test_rank_correlations_are_those_of_the_recording(findings, page, phase):
    best = findings[f"spearman.{phase}.net.macs_per_parameter"]
    assert best["estimate"] == pytest.approx(0.90, abs=0.02)
    assert best["low"] == pytest.approx(0.72, abs=0.08)
    assert best["high"] == pytest.approx(0.97, abs=0.03)
    assert best["n"] == 16
    assert findings[f"spearman.{phase}.net.macs"]["estimate"] == pytest.approx(0.79, abs=0.03)
    [note] = [
        row["model"]
        for row in page.rows("predictors")
        if row["mark"] == "note"
        and (row["predictor"], row["quantity"], row["phase"])
        == ("macs_per_parameter", "net", phase)
    ]
    assert note.startswith(f"Spearman {best['estimate']:.2f}")
    assert "do not differ significantly at n = 16" in page.words


def test_power_of_every_run_is_there(page):
    rows = page.rows("trace")
    assert len({row["run"] for row in rows}) == 48
    powers = [row["power_w"] for row in rows if row["mark"] == "power"]
    assert 60 < min(powers) < 150
    assert 550 < max(powers) < 720


@pytest.mark.parametrize("page", refresh_h100.PAGES, ids=lambda page: page.name)
def test_the_documentation_quotes_its_findings(findings, page):
    quoted = refresh_h100.QUOTED.findall(page.read_text(encoding="utf-8"))
    assert len(quoted) >= 5
    for name, statement in quoted:
        found = findings[name]["statement"]
        assert are_similar(statement, found), "run python docs/refresh_h100.py"


def test_the_documentation_shows_its_figures(h100_report):
    (page,) = (one for one in refresh_h100.PAGES if one.name == "h100.md")
    shown = refresh_h100.SHOWN.findall(page.read_text(encoding="utf-8"))
    drawn = {path.name: path for path in h100_report.figures}
    assert len(shown) >= 5
    for name in shown:
        stored = refresh_h100.DOCS / "images" / f"h100-{name}"
        # Another font moves a text by a pixel, but does not change it.
        pairs = zip(texts(stored), texts(drawn[name]), strict=True)
        assert all(are_similar(*pair) for pair in pairs), "run python docs/refresh_h100.py"


def texts(path):
    return re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8"))


def are_similar(one, other):
    """Compare texts, except the last digits, which depend on the processor and the libraries."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    return numbers(one) == pytest.approx(numbers(other), rel=0.05, abs=0.03)


def numbers(text):
    return [float(one.replace(",", "")) for one in NUMBER.findall(text)]
