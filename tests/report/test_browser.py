"""Pages in a real browser: drawn, selected from, accessible, without a network."""

import pytest
from opened_page import SIZES, Opened, serious_faults


@pytest.fixture(scope="module")
def opened(browser, hostile_page):
    one = Opened(browser, hostile_page)
    yield one
    one.context.close()


@pytest.fixture(scope="module", params=["hostile_page", "quick_page", "h100_report"])
def resized(request, browser):
    """Each kind of page, opened once, on a phone in the dark."""
    path = request.getfixturevalue(request.param)
    one = Opened(browser, getattr(path, "page", path), "phone", "dark")
    yield one
    one.context.close()


@pytest.mark.parametrize("size", SIZES)
def test_every_chart_is_drawn_without_a_message_or_a_request(resized, size):
    one = resized
    if size == "desktop":
        one.resize(size)
    assert one.messages == []
    assert [url for url in one.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in one.requests if url.startswith("file:")]) == 1
    names = one.page.eval_on_selector_all("figure", "all => all.map(f => f.id.slice(7))")
    assert len(names) > 4
    # A short study may leave no energy net of idle to compare: the page states so.
    empty = [name for name in names if not one.marks(name)]
    assert [name for name in empty if not one.is_empty_with_reason(name)] == []
    overflow = one.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    cut = one.page.evaluate(
        "[...document.querySelectorAll('.view svg')].filter(s => s.getBoundingClientRect().width >"
        " s.parentElement.parentElement.clientWidth + 1).length"
    )
    assert cut == 0
    assert one.page.title() != "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(resized, scheme):
    page = resized.page
    page.emulate_media(color_scheme=scheme)
    for details in page.locator("details:not(.data), #figure-duration .data").all():
        details.evaluate("one => one.open = true")
    page.locator("#figure-duration .data tbody tr").first.wait_for()
    assert serious_faults(page) == []


def axis_title(opened, chart):
    texts = opened.page.locator(f"#figure-{chart} .panel:visible .role-axis-title text")
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


def test_the_table_shows_and_sorts_by_the_chosen_energy(opened):
    def columns():
        return [text.split(" J")[0] for text in opened.page.locator(
            ".results thead th:visible").all_inner_texts()]  # fmt: skip

    def is_sorted(quantity):
        return opened.page.evaluate(
            "quantity => [...document.querySelectorAll('.results tbody')].every(body => {"
            " const values = [...body.querySelectorAll('tr[data-groups]:not([hidden])')]"
            "   .map(row => Number(row.dataset[quantity] || Infinity));"
            " return values.every((value, i) => i === 0 || values[i - 1] <= value); })",
            quantity,
        )

    for label, quantity in (("Gross", "gross"), ("Net of idle", "net")):
        opened.choose(label)
        assert is_sorted(quantity)
        assert any(name.startswith(label.split()[0]) for name in columns())
        other = {"gross": "Net", "net": "Gross"}[quantity]
        assert not any(name.startswith(other) for name in columns())


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
    select = opened.page.locator("select[name=group]")
    assert select.locator("optgroup").count() == 2
    assert select.locator("option").count() == 4
    before = opened.page.locator(".results tr:visible").count()
    select.select_option(index=3)
    opened.drawn()
    assert opened.page.locator(".results tr:visible").count() == before
    assert opened.messages == []
    select.select_option(index=0)
    opened.drawn()


def test_the_selector_of_a_chart(opened):
    assert (
        "MACs per parameter" in opened.page.locator("#figure-predictors .panel").first.inner_text()
    )
    opened.page.locator("#figure-predictors select").select_option("macs")
    opened.drawn()
    texts = opened.page.locator("#figure-predictors .role-axis-title text").all_text_contents()
    assert "MACs per sample" in texts


def test_a_tooltip_shows_the_value_and_its_interval(opened):
    point = opened.page.locator("#figure-energy .mark-symbol path").first
    point.hover()
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "95 % from" in tip.inner_text()
    assert opened.messages == []


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


def test_the_data_of_a_chart_is_a_table(opened):
    details = opened.page.locator("#figure-duration .data")
    details.locator("summary").click()
    details.locator("tbody tr").first.wait_for()
    assert details.locator("tbody tr").count() == 6
    assert details.locator("th").first.inner_text() == "phase"


def test_without_javascript_charts_are_images(browser, h100_report):
    one = Opened(browser, h100_report.page, scripts=False)
    assert one.page.locator("figure img:visible").count() >= one.page.locator("figure").count()
    assert one.page.locator(".controls:visible, button:visible").count() == 0
    widths = one.page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
    assert min(widths) > 100
    one.context.close()


def test_keyboard_and_paper(browser, hostile_page, tmp_path):
    one = Opened(browser, hostile_page)
    one.page.keyboard.press("Tab")
    assert one.page.evaluate("document.activeElement.className") == "skip"
    one.page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    one.page.emulate_media(media="print")
    assert one.page.locator(".controls:visible, .downloads:visible").count() == 0
    assert one.page.locator(".view svg:visible").count() > 5
    one.page.emulate_media(media="screen")
    one.page.locator("input[name=phase][value=all]").focus()
    one.page.keyboard.press("ArrowRight")
    one.drawn()
    assert one.page.locator("#figure-energy .panel:visible").count() == 1
    one.context.close()
