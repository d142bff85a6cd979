"""A number of the page is the same in CSV, JSON, ledger, comparison and terminal."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from reading import Page

from joulelab.cli.study import _print_table
from joulelab.findings.tables import StudyTables
from joulelab.format import (
    finite_or_none,
    interval,
    number,
    quantity,
    relative_to,
    with_interval,
)
from joulelab.ledger.model_energy import request_energy, training_energy
from joulelab.report.page import write_report

SIZES = {
    "J": 1, "kJ": 1e3, "mJ": 1e-3, "µJ": 1e-6, "W": 1, "%": 1, "s": 1, "ms": 1e-3, "µs": 1e-6,
}  # fmt: skip
PHASES = {"Training": "train", "Inference": "infer"}


class ResultsTable(HTMLParser):
    """The cells of the results: value, note and the number that they are sorted by."""

    def __init__(self, html):
        super().__init__()
        self.columns, self.cells = [], {}
        self.inside, self.tag, self.phase, self.row = False, "", "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.inside = attrs.get("class", "").startswith("results")
        if not self.inside:
            return
        if tag == "tr":
            self.row = []
        if tag in ("th", "td"):
            self.row.append({"text": [], "order": attrs.get("data-order"), "attrs": attrs})

    def handle_data(self, data):
        if self.inside and self.row and data.strip():
            self.row[-1]["text"].append(" ".join(data.split()))

    def handle_endtag(self, tag):
        if not self.inside or tag != "tr":
            return
        first, *others = self.row
        if not others:
            self.phase = PHASES[first["text"][0]]
        elif "data-order" not in others[0]["attrs"]:
            self.columns = [
                ((one["attrs"].get("data-quantity"), one["attrs"].get("data-column")), one["text"])
                for one in others
            ]
        else:
            for ((energy, name), heading), cell in zip(self.columns, others, strict=True):
                column = f"{energy}_{name}" if energy else heading[0]
                unit = heading[1] if len(heading) > 1 else ""
                self.cells[self.phase, first["text"][0], column] = cell | {"unit": unit}


@pytest.fixture(scope="module")
def noisy_study(tmp_path_factory, synthetic):
    """Two repeats that differ widely, also in their number of samples."""
    directory = tmp_path_factory.mktemp("noisy") / "noisy"
    models = ("LeNet", "MobileNetV2", "ResNet18")
    writer = synthetic.Writer(directory, models=list(models), repeats=2)
    rng = np.random.default_rng(5)

    def change(run):
        for result in run["results"].values():
            result["samples"] = round(result["samples"] * rng.uniform(0.5, 1.0))
            result["accuracy_pct"] = rng.uniform(30.0, 95.0)

    for block in range(2):
        writer.idle(block, "before")
        for model in models:
            writer.cell(model, block, stretch=rng.uniform(0.5, 2.0), change=change)
        writer.idle(block, "after")
    return directory


@pytest.fixture(scope="module")
def noisy_report(noisy_study, tmp_path_factory, empty_images):
    with pytest.MonkeyPatch.context() as patch:
        empty_images(patch)
        return write_report([noisy_study], tmp_path_factory.mktemp("noisy_report"))


@pytest.fixture(scope="module", params=["h100", "noisy"])
def study(request):
    return request.getfixturevalue(f"{request.param}_study")


@pytest.fixture(scope="module")
def report(request, study):
    return request.getfixturevalue("h100_report" if study.name == "h100" else "noisy_report")


@pytest.fixture(scope="module")
def cells(report):
    found = ResultsTable(report.page.read_text()).cells
    assert len(found) >= 6 * 9
    return found


def select(cells, column):
    return {key[:2]: cell for key, cell in cells.items() if key[2] == column}


@pytest.mark.parametrize(
    ("column", "above", "below"),
    [
        ("net_j_per_unit", "net_j", "samples"),
        ("gross_j_per_unit", "gross_j", "samples"),
        ("Time per sample", "duration_s", "samples"),
        ("Mean power", "gross_j", "duration_s"),
        ("net_j", "net_j", None),
        ("gross_j", "gross_j", None),
        ("Time in total", "duration_s", None),
    ],
)
def test_values_are_sums_of_the_runs_in_csv(report, cells, column, above, below):
    runs = pd.read_csv(report.page.with_name("results.csv"))
    found = select(cells, column)
    assert len(found) >= 6
    for (phase, model), cell in found.items():
        own = runs[(runs["phase"] == phase) & (runs["model"] == model)]
        value = own[above].sum() / (own[below].sum() if below else len(own))
        assert float(cell["order"]) == pytest.approx(value, rel=1e-8)
        assert cell["text"][0] == number(value / SIZES[cell["unit"]])


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("net_j_per_unit", "net_j_per_sample"),
        ("gross_j_per_unit", "gross_j_per_sample"),
        ("Time per sample", "duration_s_per_sample"),
        ("Mean power", "mean_power_w"),
        ("Accuracy", "accuracy_pct"),
        ("net_j", "net_j"),
        ("gross_j", "gross_j"),
        ("Time in total", "duration_s"),
    ],
)
def test_values_and_intervals_are_those_of_the_summary(report, cells, column, name):
    means = pd.read_csv(report.page.with_name("summary.csv")).set_index(["phase", "model"])
    found = select(cells, column)
    assert found or means[name].isna().all()
    for key, cell in found.items():
        size = SIZES[cell["unit"]]
        value, low, high = (means.loc[key, name + end] / size for end in ("", "_low", "_high"))
        ends = interval(low, high, value)
        assert cell["text"] == [number(value), *filter(None, [ends])]


@pytest.mark.parametrize("energy", ["net", "gross"])
def test_the_answer_is_in_the_table(report, cells, energy):
    findings = json.loads(report.page.with_name("findings.json").read_text())
    by_id = {one["id"]: one for one in findings}
    differences = select(cells, f"{energy}_difference")
    energies = select(cells, f"{energy}_j_per_unit")
    for phase in PHASES.values():
        found = by_id[f"models.{phase}.{energy}"]
        taken = re.search(r"[Tt]ake (\w+)", found["statement"])[1]
        order = sorted(
            (float(cell["order"]), key[1]) for key, cell in energies.items() if key[0] == phase
        )
        least = [key for key, cell in differences.items() if cell["text"] == ["least"]]
        assert (phase, order[0][1]) in least
        if report.analysis.accuracy.empty:
            assert taken == order[0][1]
            following = re.search(r"next, (\w+)", found["statement"])[1]
            cell = differences[phase, following]
            assert float(cell["order"]) == pytest.approx(found["estimate"], rel=1e-8)
        ratios = report.analysis.model_ratios
        same = ratios["to_least"] & (ratios["phase"] == phase) & (ratios["quantity"] == energy)
        for row in ratios[same].to_dict("records"):
            cell = differences[phase, row["model"]]
            text, ends = relative_to(row["estimate"], row["low"], row["high"])
            assert cell["text"][0] == text
            assert " ".join(cell["text"][1:]).startswith(ends)
            assert ("not significant" in " ".join(cell["text"])) == (not row["shown"])


def test_the_ledger_has_the_energy_of_the_page(study, report, cells, printed):
    means = pd.read_csv(report.page.with_name("summary.csv")).set_index(["phase", "model"])
    for (phase, model), cell in select(cells, "gross_j_per_unit").items():
        if phase == "infer":
            found = request_energy(f"{study}:{model}")
            size = SIZES[cell["unit"]]
            assert float(cell["order"]) == pytest.approx(found.value, rel=1e-8)
            ends = interval(*(end / size for end in found.interval), found.value / size)
            assert cell["text"] == [number(found.value / size), ends]
        else:
            found = training_energy(f"{study}:{model}")
            row = means.loc["train", model]
            assert found.value == pytest.approx(row["gross_j"])
            assert found.interval == pytest.approx((row["gross_j_low"], row["gross_j_high"]))
    value = means.loc["infer", "LeNet"]
    out = printed("ledger", "inference", "--requests-per-day", 20_000,
                       "--energy-per-request", f"{study}:LeNet")  # fmt: skip
    ends = (value[f"gross_j_per_sample{end}"] for end in ("", "_low", "_high"))
    assert f"20,000 requests per day, {with_interval(*ends, 'J')}" in out


@pytest.mark.parametrize("energy", ["net", "gross"])
def test_a_comparison_has_the_means_and_the_ratio_of_the_page(
    study, report, cells, energy, printed
):
    energies = select(cells, f"{energy}_j_per_unit")
    differences = select(cells, f"{energy}_difference")
    least = next(key[1] for key, cell in differences.items() if cell["text"] == ["least"])
    other = next(key[1] for key in differences if key[1] != least)
    for phase in PHASES.values():
        metric = f"{energy}_j_per_sample"
        sides = (f"{study}:{model},phase={phase}" for model in (least, other))
        out = printed("compare", *sides, "--metric", metric, "--json")
        effect = json.loads(out)["effect"]
        for side, model in (("baseline", least), ("candidate", other)):
            order = float(energies[phase, model]["order"])
            assert effect[f"{side}_mean"] == pytest.approx(order, rel=1e-8)
        ratio = effect["ratio"]
        if differences[phase, least]["text"] == ["least"]:
            order = float(differences[phase, other]["order"])
            assert ratio == pytest.approx(order, rel=1e-8)


def test_the_table_in_the_terminal_has_the_numbers_of_the_page(study, cells, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = finite_or_none(StudyTables.read([study]).summary.to_dict("records"))
    _print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    header = next(re.split(r"  +", line.strip()) for line in lines if "J/sample" in line)
    names = {"J/sample": "gross_j_per_unit", "net J": "net_j", "gross J": "gross_j",
             "W": "Mean power", "s": "Time in total"}  # fmt: skip
    checked = 0
    for line in lines:
        values = dict(zip(header, re.split(r"  +", line.strip()), strict=False))
        for heading, column in names.items():
            cell = cells.get((values.get("phase"), values.get("model"), column))
            if cell:
                value = float(cell["order"])
                assert values[heading] == number(value)
                checked += 1
    assert checked == len(names) * len(rows)


def test_the_first_screen_has_the_numbers_of_json_csv_and_terminal(report):
    page = Page(report.page.read_text())
    runs = pd.read_csv(report.page.with_name("results.csv"))
    energies = [quantity(runs[f"{name}_j"].sum(), "J") for name in ("gross", "net")]
    facts = re.findall(r"<dd>([^<]+?) <", report.page.read_text())
    assert facts[:2] == energies
    findings = json.loads(report.page.with_name("findings.json").read_text())
    by_id = {one["id"]: one for one in findings}
    ids = report.screen.to_json()
    printed = [" ".join(text.split()) for label, text in report.screen.lines() if label == "found"]
    assert len(ids) == len(printed) >= 2
    for name, text in zip(ids, printed, strict=True):
        assert text in page.words
        value, unit = by_id[name]["estimate"], by_id[name]["unit"].removeprefix("1")
        shown = {number(value), number(value, 2), quantity(value, unit), "cannot be determined"}
        assert any(one in text for one in shown), (name, value, text)
    for label, text in report.screen.lines():
        if label == "energy":
            assert text.startswith(energies[0])


def test_findings_on_the_page_are_those_of_the_file(report):
    page = Page(report.page.read_text())
    findings = json.loads(report.page.with_name("findings.json").read_text())
    stated = [one["statement"] for one in findings if not one["detail"]]
    assert stated
    for statement in stated:
        assert " ".join(statement.split()) in page.words


def test_rows_of_charts_are_those_of_their_files(report):
    page = Page(report.page.read_text())
    for name in page.data["charts"]:
        file = pd.read_csv(report.page.parent / "figures" / f"{name}.csv")
        rows = pd.DataFrame(page.rows(name))
        assert len(rows) == len(file)
        for column in set(file) & set(rows) - {"run"}:
            if pd.api.types.is_float_dtype(file[column]):
                found = pd.to_numeric(rows[column]).to_numpy(dtype=float)
                expected = file[column].replace([np.inf, -np.inf], np.nan)
                np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=f"{name}.{column}")
