import base64
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from PIL import Image

from joulelab.errors import StoreError, UserError
from joulelab.recording.format import EVENTS_FILE, READINGS_FILE
from joulelab.report import page as page_module
from joulelab.report.page import write_all, write_report
from joulelab.sensors.sensor import Provenance

VOID = {"meta", "link", "img", "br"}
HOSTILE = '<script>alert("x")</script> & "quoted"'


class Page(HTMLParser):
    """Checks that every tag is closed, and keeps what the tests ask for."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [
            value for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory, synthetic):
    path = tmp_path_factory.mktemp("page") / "study"
    writer = synthetic.write_study(path)
    writer.failed(HOSTILE, 1, reason=f"out of memory in {HOSTILE}")
    return path


@pytest.fixture(scope="module")
def written(study):
    return write_all([study])


@pytest.fixture(scope="module")
def html(written):
    return written.page.read_text(encoding="utf-8")


@pytest.fixture
def only_svg(monkeypatch):
    """PNG and PDF take most of the time and are looked at elsewhere."""
    monkeypatch.setattr(page_module, "FORMATS", ("svg",))


def test_files(study, written):
    assert written.page == study / "report.html"
    kinds = sorted(path.suffix for path in written.figures)
    assert kinds == sorted([".pdf", ".png", ".svg"] * 5)
    assert {path.parent for path in written.figures} == {study / "figures"}
    assert sorted(path.name for path in written.tables) == [
        "epochs.parquet",
        "results.csv",
        "results.parquet",
    ]
    assert all(path.stat().st_size > 0 for path in (*written.figures, *written.tables))
    with Image.open(study / "figures" / "energy.png") as image:
        assert image.width >= 7 * 150


def test_every_tag_is_closed_and_nothing_is_asked_of_the_network(html):
    page = Page(html)
    for link in page.links:
        assert link.startswith(("#", "data:")), link
    assert not re.search(r"url\(|@import|<script", html)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link[1:] for link in page.links if link.startswith("#")} <= targets


def test_ids_are_unique(html):
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_is_accessible(html):
    page = Page(html)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    images = page.all("img")
    assert len(images) == 5
    assert all(len(image["alt"]) > 20 for image in images)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in header for header in page.all("th"))


def test_figures_are_drawings(html):
    for image in Page(html).all("img"):
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_results_are_in_the_table(html):
    words = Page(html).words
    # LeNet's training: 840 J and 856.8 J
    assert re.search(r"Training LeNet 2 848 \d+ to \d+ ", words)
    assert "8 of 8, 1 failed" in words
    assert "SIMULATED" not in words


def test_origin_of_the_energy_is_said(html):
    words = Page(html).words
    assert "CPU 0 power is estimated, not measured (estimate.cpu)." in words
    assert "uncertain by ±49 % of its value (95 %)" in words
    assert "GPU 0 power is measured by the hardware (nvml.samples)." in words
    assert "Memory 0 no RAPL counter" in words
    assert "Block 0: +4.00 W (+3.1 %)" in words


def test_machine_and_plan(html):
    words = Page(html).words
    assert "NVIDIA GeForce RTX 3090 (350 W) 24 GiB" in words
    assert "i9-11900KF @ 3.50GHz (125 W)" in words
    assert 'name = "synthetic"' in words


def test_names_are_escaped(html):
    assert "<script" not in html
    assert HOSTILE in Page(html).words


@pytest.mark.usefixtures("only_svg")
def test_hostile_machine_names_are_escaped(tmp_path, synthetic):
    machine = synthetic.other_machine(host=HOSTILE, cpu_model=HOSTILE, os=HOSTILE)
    writer = synthetic.Writer(tmp_path / "study", machine=machine)
    writer.cell(HOSTILE, 0)
    html = write_report([writer.directory]).read_text(encoding="utf-8")
    assert "<script" not in html
    assert Page(html).words.count(HOSTILE) >= 3


def test_same_runs_same_page(study, html, tmp_path):
    again = write_report([study], tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == html
    assert (tmp_path / "figures" / "energy.pdf").read_bytes() == (
        study / "figures" / "energy.pdf"
    ).read_bytes()


@pytest.mark.usefixtures("only_svg")
def test_simulated_study_says_so_in_the_title(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study", provenance=Provenance.SIMULATED)
    writer.cell("LeNet", 0)
    html = write_report([writer.directory]).read_text(encoding="utf-8")
    header = html.split("<main")[0]
    assert "<strong>SIMULATED</strong>" in header
    assert "(SIMULATED)</title>" in header


@pytest.mark.usefixtures("only_svg")
def test_missing_figures_say_why_and_nothing_is_zero(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    writer.cell("LeNet", 0, energies=False)
    page = Page(write_report([writer.directory]).read_text(encoding="utf-8"))
    assert "Energy per sample: not drawn, because no run's energy was measured" in page.words
    assert "Idle power was not measured" in page.words
    assert "LeNet 1 – – – – 2.40 – 80.0" in page.words


@pytest.mark.usefixtures("only_svg")
def test_a_study_whose_cells_all_failed_shows_why(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    writer.failed("LeNet", 0)
    page = Page(write_report([writer.directory]).read_text(encoding="utf-8"))
    assert "CUDA out of memory" in page.words
    assert "0 of 1, 1 failed" in page.words


@pytest.mark.usefixtures("only_svg")
def test_assumptions_come_from_the_trace(tmp_path, synthetic, monkeypatch):
    from joulelab.recording.trace import Trace
    from joulelab.report import origin
    from joulelab.sensors.sensor import Channel, Quantity

    channel = Channel(
        component="cpu:0",
        quantity=Quantity.POWER,
        source="estimate.cpu",
        provenance=Provenance.ESTIMATED,
        update_period_s=1.0,
        note="estimated: TDP 125 W and an idle share of 0.3",
    )
    monkeypatch.setattr(origin, "read_trace", lambda directory: Trace.of([channel], []))
    writer = synthetic.Writer(tmp_path / "study")
    writer.cell("LeNet", 0)
    page = Page(write_report([writer.directory]).read_text(encoding="utf-8"))
    assert "Assumed: TDP 125 W and an idle share of 0.3." in page.words


@pytest.mark.usefixtures("only_svg")
def test_a_damaged_trace_costs_only_the_assumptions(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    run = writer.cell("LeNet", 0)
    directory = writer.directory / "runs" / run["run_id"]
    (directory / READINGS_FILE).write_bytes(b"\x00\xff")
    (directory / EVENTS_FILE).write_bytes(b"")
    words = Page(write_report([writer.directory]).read_text(encoding="utf-8")).words
    assert "CPU 0 power is estimated" in words
    assert "Assumed" not in words


@pytest.mark.usefixtures("only_svg")
def test_several_studies_on_one_page(tmp_path, synthetic, monkeypatch):
    for name in ("here", "there"):
        synthetic.Writer(tmp_path / name).cell("LeNet", 0)
    monkeypatch.chdir(tmp_path)
    written = write_all(["here", "there"])
    assert str(written.page) == "joulelab-report/report.html"
    assert {path.name for path in written.figures} >= {
        "synthetic-here-energy.svg",
        "synthetic-there-energy.svg",
    }
    html = written.page.read_text(encoding="utf-8")
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(Page(html).all("article")) == 2


def test_nothing_to_report(tmp_path, synthetic):
    with pytest.raises(UserError, match="no study"):
        write_report([])
    with pytest.raises(StoreError, match="no study"):
        write_report([tmp_path])
    writer = synthetic.Writer(tmp_path / "empty")
    with pytest.raises(StoreError, match="nothing to report: no run has ended"):
        write_report([writer.directory])


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_a_browser_draws_it(written, tmp_path, width, height):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            written.page.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(picture) as image:
        assert image.size == (width, height)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 20
