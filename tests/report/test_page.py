import hashlib
import json
import re
from base64 import b64decode, b64encode
from xml.etree import ElementTree

import pandas as pd
import pytest
from reading import Page

from joulelab.errors import StoreError, UserError
from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE
from joulelab.report import renderer
from joulelab.report.page import write_report
from joulelab.sensors.sensor import Provenance

HOSTILE = '<script>alert("x")</script> --> & "quoted" \u2028 {quantity}'


@pytest.fixture(scope="module")
def study(tmp_path_factory, synthetic):
    path = tmp_path_factory.mktemp("page") / "study"
    writer = synthetic.write_study(path)
    writer.failed(HOSTILE, 1, reason=f"out of memory in {HOSTILE}")
    return path


@pytest.fixture(scope="module")
def written(study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "FORMATS", ("svg",))
        return write_report([study])


def page_of(directory):
    return Page(write_report([directory]).page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def html(written):
    return written.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_files(study, written):
    assert written.page == study / "report.html"
    assert {path.name for path in written.figures} >= {
        "energy-train.svg", "energy-infer.svg", "duration.svg", "predictors-macs-train.svg",
        "energy.csv", "duration.csv",
    }  # fmt: skip
    assert [path.name for path in written.results] == [
        "results.parquet", "results.csv", "epochs.parquet",
    ]  # fmt: skip
    assert {"findings.json", "summary.tex"} <= {path.name for path in written.tables}
    every = (*written.figures, *written.results, *written.tables)
    assert all(path.stat().st_size > 0 for path in every)
    energy = pd.read_csv(study / "figures" / "energy.csv", keep_default_na=False)
    assert list(energy)[:3] == ["study", "machine", "setting"]
    assert set(energy["machine"]) == {"workstation"}


def test_every_tag_is_closed_and_nothing_is_asked_of_the_network(html, page):
    for link in page.links:
        assert link.startswith(("#", "data:")), link
    without_scripts = re.sub(r"(?s)<script.*?</script>", "", html)
    assert not re.search(r"url\(|@import|<iframe|<object|<embed", without_scripts)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link[1:] for link in page.links if link.startswith("#")} <= targets


def test_no_script_runs_but_the_pages_own(page):
    [policy] = [
        meta["content"]
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    for script in page.scripts[1:]:
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert len(page.scripts) == 5


def test_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_is_accessible(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    views = [part for part in page.all("div") if part.get("class") == "view" and "role" in part]
    assert len(views) >= 5
    assert all(part["role"] == "img" and len(part["aria-label"]) > 20 for part in views)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in header for header in page.all("th"))


def test_without_javascript_every_figure_is_a_picture(page):
    pictures = page.all("img")
    assert len(pictures) >= len(page.all("figure")) > 2
    for picture in pictures:
        kind, data = picture["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(b64decode(data)).tag.endswith("svg")


def test_results_are_in_the_table(page):
    # LeNet's training: 840 J and 856.8 J
    assert re.search(r"Training LeNet [\d.]+ [\d.]+–[\d.]+ least 0\.283 ", page.words), "of 3,000"
    assert re.search(r"LeNet .* 0\.283 .* 848 \d+–\d+ ", page.words)
    assert "8 of 8, 1 failed" in page.words
    assert "SIMULATED" not in page.words


def test_runs_on_a_busy_machine_are_marked(synthetic, tmp_path, fast):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet", "VGG16"], repeats=2)
    for block in range(2):
        writer.idle(block, "before")
        writer.cell("LeNet", block)
        writer.cell("VGG16", block, change=synthetic.disturb if block else None)
    html = write_report([tmp_path / "s"]).page.read_text()
    assert "1 of 4 runs was measured on a busy machine: other processes (make) also used" in html
    assert html.count("1 on a busy machine") == 2, "VGG16 in training and inference"
    (finding,) = [
        one
        for one in json.loads((tmp_path / "s" / "findings.json").read_text())
        if one["id"] == "busy.runs"
    ]
    assert (finding["estimate"], finding["n"]) == (0.25, 4)
    results = pd.read_csv(tmp_path / "s" / "results.csv")
    assert set(results.loc[results["shared"].eq(True), "run_id"]) == {"r1-vgg16"}


def test_sources_of_the_energy_are_stated(page):
    assert "CPU 0 power is estimated, not measured (estimate.cpu)." in page.words
    assert "Its uncertainty is ±49 % of its value (95 %)" in page.words
    assert "GPU 0 power is measured by the hardware (nvml.samples)." in page.words
    assert "Memory 0 no RAPL counter" in page.words
    assert "Block 0: +4.00 W (+3.1 %)" in page.words


def test_machine_and_plan(page):
    assert "NVIDIA GeForce RTX 3090 (350 W) 24 GiB" in page.words
    assert "i9-11900KF @ 3.50GHz (125 W)" in page.words
    assert 'name = "synthetic"' in page.words


def test_failures_are_listed_with_their_names_escaped(html, page):
    assert "<script>alert" not in html
    assert " ".join(HOSTILE.split()) in page.words


@pytest.mark.usefixtures("fast")
def test_hostile_names_stay_names(tmp_path, synthetic):
    machine = synthetic.other_machine(host=HOSTILE, cpu_model=HOSTILE, os=HOSTILE)
    writer = synthetic.Writer(tmp_path / "study", machine=machine)
    for model in (HOSTILE, "LeNet"):
        writer.cell(model, 0)
    html = write_report([writer.directory]).page.read_text(encoding="utf-8")
    page = Page(html)
    assert "<script>alert" not in html
    assert "\u2028" not in page.scripts[0]
    assert len(page.scripts) == 5
    assert HOSTILE in {row["model"] for row in page.rows("energy")}
    assert page.words.count('alert("x")') >= 3


@pytest.mark.usefixtures("fast")
def test_simulated_study_is_named_so_in_the_title(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study", provenance=Provenance.SIMULATED)
    writer.cell("LeNet", 0)
    html = write_report([writer.directory]).page.read_text(encoding="utf-8")
    assert "<title>synthetic: energy report (SIMULATED)</title>" in html
    assert "Its energies were not measured" in html


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda writer: writer.cell("LeNet", 0, energies=False),
            "No run has a measured or estimated energy",
        ),
        (lambda writer: writer.cell("LeNet", 0), "Two models with known characteristics"),
        (lambda writer: writer.failed("LeNet", 0), "No run has finished"),
    ],
    ids=["no energy", "one model, one repeat, no idle", "only failures"],
)
def test_missing_pieces_are_stated(tmp_path, synthetic, make, words):
    writer = synthetic.Writer(tmp_path / "study")
    make(writer)
    page = page_of(writer.directory)
    assert words in page.words
    assert "Idle power was not measured, so net energies are unknown" in page.words


@pytest.mark.usefixtures("fast")
def test_assumptions_come_from_the_trace(tmp_path, synthetic, monkeypatch):
    from joulelab.recording.trace import Trace
    from joulelab.report import provenance
    from joulelab.sensors.sensor import Channel, Quantity

    channel = Channel(
        component="cpu:0",
        quantity=Quantity.POWER,
        source="estimate.cpu",
        provenance=Provenance.ESTIMATED,
        update_period_s=1.0,
        note="estimated: TDP 125 W and an idle share of 0.3",
    )
    monkeypatch.setattr(provenance, "read_trace", lambda directory: Trace.of([channel], []))
    writer = synthetic.Writer(tmp_path / "study")
    writer.cell("LeNet", 0)
    words = page_of(writer.directory).words
    assert "Assumption: TDP 125 W and an idle share of 0.3." in words


@pytest.mark.usefixtures("fast")
def test_a_damaged_trace_loses_only_the_assumptions(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    run = writer.cell("LeNet", 0)
    directory = writer.directory / "runs" / run["run_id"]
    (directory / READINGS_FILE).write_bytes(b"\x00\xff")
    (directory / EVENTS_FILE).write_bytes(b"")
    words = page_of(writer.directory).words
    assert "CPU 0 power is estimated" in words
    assert "Assumption" not in words


@pytest.mark.usefixtures("fast")
def test_several_studies_on_one_page(tmp_path, synthetic, monkeypatch):
    for name in ("here", "there"):
        writer = synthetic.Writer(tmp_path / name)
        for model in ("LeNet", "MobileNetV2"):
            writer.cell(model, 0)
    monkeypatch.chdir(tmp_path)
    written = write_report(["here", "there"])
    assert str(written.page) == "joulelab-report/report.html"
    assert {path.name for path in written.figures} >= {
        "synthetic-here-workstation-duration.svg",
        "synthetic-there-workstation-duration.svg",
    }
    page = Page(written.page.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [choice["label"] for choice in page.all("optgroup")] == [
        "synthetic (here) · workstation",
        "synthetic (there) · workstation",
    ]
    assert {row["group"] for row in page.rows("energy")} == {0, 1}
    assert page.data["groups"] == [
        {"group": number, "family": number, "unit": "sample"} for number in (0, 1)
    ]


@pytest.mark.usefixtures("fast")
def test_the_charts_of_one_model_are_sentences(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "one", repeats=2)
    for block in range(2):
        writer.idle(block, "before")
        writer.cell("LeNet", block, stretch=1 + 0.02 * block)
        writer.idle(block, "after")
    written = write_report([tmp_path / "one"])
    page = Page(written.page.read_text(encoding="utf-8"))
    rows = {row["phase"]: row["text"] for row in page.rows("duration")}
    assert f"LeNet: training {rows['train']}, inference {rows['infer']}." in page.words
    energies = [row for row in page.rows("energy") if row["quantity"] == "net"]
    assert all(f"LeNet: {row['text']}." in page.words for row in energies)
    assert "LeNet: GPU " in page.words
    names = {path.stem for path in written.figures}
    assert {"energy", "duration", "power"} <= names  # Their rows, as CSV.
    assert not any(path.suffix == ".svg" and "duration" in path.stem for path in written.figures)


def test_nothing_to_report(tmp_path, synthetic):
    with pytest.raises(UserError, match="no study"):
        write_report([])
    with pytest.raises(StoreError, match="is not a study"):
        write_report([tmp_path])
    writer = synthetic.Writer(tmp_path / "empty")
    with pytest.raises(StoreError, match="nothing to report: no run has ended"):
        write_report([writer.directory])
