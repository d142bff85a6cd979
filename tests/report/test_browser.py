"""The page in a real browser: drawn, chosen from, read aloud, without a network."""

import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from joulelab.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="pages were not opened: there is no chromium on PATH"
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, synthetic):
    """Two machines, two batch sizes, names that would break out where they could."""
    directory = tmp_path_factory.mktemp("browser")
    hostile = '</script><img src=x onerror="document.title=1">'
    for name, machine in (("a", {}), ("b", {"host": hostile})):
        writer = synthetic.Writer(
            directory / name,
            machine=synthetic.other_machine(**machine),
            repeats=2,
        )
        for block in range(2):
            writer.idle(block, "before")
            for model in ("LeNet", "MobileNetV2", hostile):
                for batch_size in (8, 128):
                    writer.cell(model, block, stretch=1 + 0.02 * block, batch_size=batch_size)
            writer.idle(block, "after")
    return write_report([directory / "a", directory / "b"], directory / "both.html")


@pytest.fixture(scope="module", params=["two machines", "quick", "h100"])
def path(request, pages):
    if request.param == "two machines":
        return pages
    if request.param == "quick":
        return request.getfixturevalue("quick")
    return request.getfixturevalue("h100").page


class Opened:
    """A page, with everything that it said and asked for."""

    def __init__(self, browser, path: Path, size="desktop", scheme="light", scripts=True):
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.resolve().as_uri())
        if scripts:
            self.drawn()

    def drawn(self):
        self.page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60000)
        return self

    def marks(self, figure):
        """How many marks a figure's visible panels have."""
        return self.page.locator(f"#figure-{figure} .panel:visible .role-mark path").count()

    def says_why(self, figure):
        """Whether every visible panel of a figure says why it is empty."""
        panels = self.page.locator(f"#figure-{figure} .panel:visible").all_inner_texts()
        return all("Nothing to show" in text for text in panels)

    def choose(self, label):
        self.page.get_by_label(label, exact=True).first.check()
        return self.drawn()


@pytest.fixture(scope="module")
def opened(browser, pages):
    one = Opened(browser, pages)
    yield one
    one.context.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_without_a_word_or_a_request(browser, path, size, scheme):
    one = Opened(browser, path, size, scheme)
    assert one.said == []
    assert [url for url in one.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in one.asked if url.startswith("file:")]) == 1
    names = one.page.eval_on_selector_all("figure", "all => all.map(f => f.id.slice(7))")
    assert len(names) > 4
    # A second of the quick study may leave no energy net of idle to compare: it says so.
    assert [name for name in names if not one.marks(name) and not one.says_why(name)] == []
    overflow = one.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    cut = one.page.evaluate(
        "[...document.querySelectorAll('.view svg')].filter(s => s.getBoundingClientRect().width >"
        " s.parentElement.parentElement.clientWidth + 1).length"
    )
    assert cut == 0
    assert one.page.title() != "1"
    one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, path, scheme):
    one = Opened(browser, path, "desktop", scheme)
    opened = one.page.locator("details:not(.data), #figure-duration .data").all()
    for details in opened:
        details.evaluate("one => one.open = true")
    one.page.locator("#figure-duration .data tbody tr").first.wait_for()
    found = Axe().run(one.page).response["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in serious] == []
    one.context.close()


def axis_title(opened, figure):
    texts = opened.page.locator(f"#figure-{figure} .panel:visible .role-axis-title text")
    return texts.all_text_contents()[0]


def test_net_and_gross(opened):
    assert axis_title(opened, "energy").startswith("Energy net of idle")
    gross = opened.page.locator(".finding[data-quantity=gross]:visible")
    assert gross.count() == 0
    opened.choose("Gross")
    assert axis_title(opened, "energy").startswith("Gross energy")
    assert gross.count() > 0
    assert opened.page.locator(".finding[data-quantity=net]:visible").count() == 0
    opened.choose("Net of idle")


def test_one_phase_hides_the_other(opened):
    panels = opened.page.locator("#figure-energy .panel:visible")
    assert panels.count() == 2
    points = opened.marks("duration")
    opened.choose("Training")
    assert panels.all_inner_texts()[0].startswith("Training")
    assert panels.count() == 1
    assert opened.marks("duration") == points / 2
    assert opened.page.locator(".results tbody:visible").count() == 1
    opened.choose("Both")
    assert opened.marks("duration") == points


def test_a_model_is_hidden_everywhere(opened):
    points = opened.marks("duration"), opened.marks("energy")
    rows = opened.page.locator(".results tr:visible th[scope=row]").count()
    opened.page.locator(".models > summary").click()
    opened.page.get_by_label("LeNet", exact=True).uncheck()
    opened.drawn()
    assert opened.marks("duration") < points[0]
    assert opened.marks("energy") < points[1]
    assert opened.page.locator(".results tr:visible th[scope=row]").count() < rows
    assert "2 of 3" in opened.page.locator(".models > summary").inner_text()
    opened.page.get_by_role("button", name="All", exact=True).click()
    opened.drawn()
    assert opened.marks("duration") == points[0]


def test_machines_and_settings_are_shown_one_at_a_time(opened):
    select = opened.page.locator("select[name=scope]")
    assert select.locator("optgroup").count() == 2
    assert select.locator("option").count() == 4
    before = opened.page.locator(".results tr:visible").count()
    select.select_option(index=3)
    opened.drawn()
    assert opened.page.locator(".results tr:visible").count() == before
    assert opened.said == []
    select.select_option(index=0)
    opened.drawn()


def test_a_figures_own_choice(opened):
    assert (
        "MACs per parameter" in opened.page.locator("#figure-predictors .panel").first.inner_text()
    )
    opened.page.locator("#figure-predictors select").select_option("macs")
    opened.drawn()
    texts = opened.page.locator("#figure-predictors .role-axis-title text").all_text_contents()
    assert "MACs of a sample" in texts


def test_hover_tells_the_value_and_its_interval(opened):
    point = opened.page.locator("#figure-energy .mark-symbol path").first
    point.hover()
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "95 % from" in tip.inner_text()
    assert opened.said == []


def test_downloads(opened, tmp_path):
    for kind, begins in (("csv", b"phase,model"), ("svg", b"<svg"), ("png", b"\x89PNG")):
        with opened.page.expect_download() as download:
            opened.page.locator(f"#figure-duration [data-download={kind}]").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"duration.{kind}"
        assert path.read_bytes().startswith(begins)
    lines = (tmp_path / "duration.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2


def test_data_is_a_table_for_those_who_cannot_see_it(opened):
    details = opened.page.locator("#figure-duration .data")
    details.locator("summary").click()
    details.locator("tbody tr").first.wait_for()
    assert details.locator("tbody tr").count() == 6
    assert details.locator("th").first.inner_text() == "phase"


def test_keyboard(browser, pages):
    opened = Opened(browser, pages)
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"
    opened.page.locator("input[name=phase][value=both]").focus()
    opened.page.keyboard.press("ArrowRight")
    opened.drawn()
    assert opened.page.locator("#figure-energy .panel:visible").count() == 1
    opened.context.close()


def test_without_javascript_figures_are_pictures(browser, pages):
    one = Opened(browser, pages, scripts=False)
    assert one.page.locator("figure img:visible").count() >= one.page.locator("figure").count()
    assert one.page.locator(".controls:visible, button:visible").count() == 0
    widths = one.page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
    assert min(widths) > 100
    one.context.close()


def test_paper(browser, pages, tmp_path):
    one = Opened(browser, pages)
    one.page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    one.page.emulate_media(media="print")
    assert one.page.locator(".controls:visible, .downloads:visible").count() == 0
    assert one.page.locator(".view svg:visible").count() > 5
    one.context.close()
