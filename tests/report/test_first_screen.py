"""The first screen of a report: the same answers on the page and in the terminal."""

import html
import json
import re
import shlex

import pandas as pd
import pytest

from joulelab.findings.all import analyze
from joulelab.findings.tables import StudyTables
from joulelab.format import number, quantity
from joulelab.layout import labelled
from joulelab.report.first_screen import first_screen
from joulelab.report.page import write_report


@pytest.fixture(scope="module")
def directory(synthetic, tmp_path_factory):
    """Two models, of which one was disturbed once."""
    directory = tmp_path_factory.mktemp("first") / "study"
    writer = synthetic.Writer(directory, models=["LeNet", "VGG16"], repeats=3)
    for block in range(3):
        writer.idle(block, "before")
        writer.cell("LeNet", block, stretch=1 + 0.02 * block)
        disturb = synthetic.disturb if block == 1 else None
        writer.cell("VGG16", block, stretch=1 + 0.02 * block, change=disturb)
        writer.idle(block, "after")
    return directory


@pytest.fixture(scope="module")
def report(directory, empty_images):
    with pytest.MonkeyPatch.context() as patch:
        empty_images(patch)
        patch.setenv("JOULELAB_INTENSITY", "360")
        patch.setenv("JOULELAB_PRICE", "0.3")
        patch.setenv("JOULELAB_CURRENCY", "EUR")
        return write_report([directory])


@pytest.fixture(scope="module")
def words(report):
    text = re.sub(r"<[^>]+>", " ", report.page.read_text().split("<script")[0])
    return " ".join(html.unescape(text).split())


def lines(report):
    return dict.fromkeys(f"{label} {text}" for label, text in report.screen.lines())


def test_page_and_terminal_have_the_same_values(report, words):
    for _, text in report.screen.lines():
        for value in re.findall(r"\d[\d,.]*(?:–[\d,.]+)?(?: [kmM]?(?:J|Wh|W|g|EUR)\b)?", text):
            assert value.rstrip(".,") in words


def test_totals_are_those_of_the_results(report, directory):
    results = pd.read_csv(directory / "results.csv")
    facts = {fact.name: fact for fact in report.screen.places[0].facts}
    assert facts["Energy"].value == quantity(results["gross_j"].sum(), "J")
    assert facts["Net of idle"].value == quantity(results["net_j"].sum(), "J")
    grams = results["gross_j"].sum() / 3.6e6 * 360
    assert facts["CO2e"].value == quantity(grams, "g")
    assert facts["Price"].value == f"{number(results['gross_j'].sum() / 3.6e6 * 0.3)} EUR"
    assert "360 g/kWh" in facts["CO2e"].details[1]
    assert report.screen.basis.startswith("CO2e at 360 g/kWh")
    by_phase = results.groupby("phase")["gross_j"].sum()
    assert facts["Costs most"].value == "training"
    assert quantity(by_phase["infer"], "J") in facts["Costs most"].details[1]
    assert facts["Energy"].details[2] == "CPU estimated, GPU measured"


def test_key_findings_are_findings_and_the_first_names_the_model(report, directory):
    known = {one["id"]: one for one in json.loads((directory / "findings.json").read_text())}
    keys = report.screen.places[0].keys.answers
    assert 3 <= len(keys) <= 5
    for key in keys:
        assert key.finding.answer in known[key.finding.id]["statement"] or key.topic == "Limits"
    assert keys[0].topic == "Model"
    assert "LeNet" in keys[0].text


def test_the_banner_names_runs_users_effect_and_remedy(report, words, directory):
    (warning,) = report.screen.warnings
    assert warning.startswith("1 of 6 runs was measured on a busy machine: other processes (make)")
    assert f"--out {directory} --retry-shared" in warning
    assert warning.endswith("r1-vgg16.")
    assert " ".join(warning.replace("`", " ").split()) in words


def test_the_forecast_is_what_its_command_prints(report, printed):
    text = report.screen.places[0].forecast
    command = shlex.split(re.search("`(.*)`", text)[1])
    assert command[0] == "joulelab"
    out = printed(*command[1:])
    assert text.startswith(f"LeNet, {out.splitlines()[0]}")


def test_without_a_site_there_is_a_hint(directory, monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    for name in ("JOULELAB_INTENSITY", "JOULELAB_PRICE", "JOULELAB_COUNTRY"):
        monkeypatch.delenv(name, raising=False)
    screen = first_screen(analyze(StudyTables.read([directory])))
    assert "joulelab site" in screen.basis
    assert not {fact.name for fact in screen.places[0].facts} & {"CO2e", "Price"}


@pytest.mark.parametrize("width", [20, 40, 80, None])
def test_lines_fit_a_terminal_and_no_value_is_cut(report, width):
    text = labelled(report.screen.lines(), width)
    energy = report.screen.places[0].facts[0]
    assert energy.value in text
    assert energy.details[1].split("CI ")[1].split(" ")[0] in text


def test_machines_are_compared_and_each_has_its_own_place(factors):
    screen = first_screen(factors)
    assert [place.title for place in screen.places] == ["workstation", "server"]
    (compared,) = screen.machines.answers
    assert compared.finding.id.startswith("machines.ratio.")
    first, second = ([fact.value for fact in place.facts] for place in screen.places)
    assert first != second
    for place in screen.places:
        assert len(place.keys.answers) <= 3
        for key in place.keys.answers:
            assert key.finding.study == place.title


def test_an_empty_report_has_an_empty_first_screen():
    screen = first_screen(analyze(StudyTables.of([])))
    assert screen.lines() == []
    assert screen.to_json() == []
