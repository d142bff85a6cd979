"""Pages in a real browser: drawn, selected from, accessible, without a network."""

import base64
from collections import Counter
from xml.etree import ElementTree

import pytest
from opened_page import SIZES, Opened, serious_faults


@pytest.fixture(scope="module")
def opened(browser, hostile_page):
    with Opened(browser, hostile_page) as one:
        yield one


@pytest.fixture(scope="module", params=["hostile_page", "quick_page", "h100_report"])
def resized(request, browser):
    """Each kind of page, opened once, on a phone in the dark."""
    path = request.getfixturevalue(request.param)
    with Opened(browser, getattr(path, "page", path), "phone", "dark") as one:
        yield one


@pytest.mark.parametrize("size", SIZES)
def test_every_chart_is_drawn_without_a_message_or_a_request(resized, size):
    one = resized
    if size == "desktop":
        one.resize(size)
    one.check_quiet()
    assert len([url for url in one.requests if url.startswith("file:")]) == 1
    names = one.page.eval_on_selector_all("figure", "all => all.map(f => f.id.slice(7))")
    assert len(names) > 4
    # A short study may leave no energy net of idle to compare: the page states so.
    empty = [name for name in names if not one.marks(name)]
    assert [name for name in empty if not one.is_a_sentence(name)] == []
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


def headings(opened):
    texts = opened.page.locator(".results thead th:visible").all_inner_texts()
    return [" ".join(text.split()) for text in texts]


def column(opened, name):
    """The values that the visible rows of each phase are sorted by, in their order."""
    return opened.page.evaluate(
        """name => {
          const heading = [...document.querySelectorAll('.results thead th')]
            .find(th => !th.hidden && th.textContent.startsWith(name));
          return [...document.querySelectorAll('.results tbody:not([hidden])')].map(body =>
            [...body.querySelectorAll('tr[data-groups]:not([hidden])')].map(row => {
              const cell = row.cells[heading.cellIndex];
              const order = cell.dataset.order;
              return order === undefined ? cell.textContent : Number(order);
            }));
        }""",
        name,
    )


def heading(opened, name):
    return opened.page.get_by_role("columnheader", name=name).filter(visible=True).first


def test_the_table_shows_and_sorts_by_the_chosen_energy(opened):
    for label, other in (("Gross", "Net"), ("Net of idle", "Gross")):
        opened.choose(label)
        name = label.split()[0]
        assert headings(opened)[1].startswith(f"{name} per sample")
        assert headings(opened)[2].startswith("Compared with the least")
        assert not any(one.startswith(other) for one in headings(opened))
        values = column(opened, f"{name} per sample")
        assert len(values) == 2
        assert values == [sorted(one) for one in values]
        assert heading(opened, f"{name} per sample").get_attribute("aria-sort") == "ascending"


def test_a_click_on_a_heading_sorts_and_a_second_one_reverses(opened):
    unsorted = column(opened, "Model")
    for name in ("Time per sample", "Mean power", "Model"):
        button = heading(opened, name).get_by_role("button")
        button.click()
        values = column(opened, name)
        assert values == [sorted(one) for one in values]
        assert heading(opened, name).get_attribute("aria-sort") == "ascending"
        button.click()
        assert column(opened, name) == [one[::-1] for one in values]
        assert opened.page.locator(".results [aria-sort]").count() == 1
        assert heading(opened, name).get_attribute("aria-sort") == "descending"
    heading(opened, "Net per sample").get_by_role("button").click()
    assert column(opened, "Model") == unsorted


def test_a_heading_is_sorted_with_the_keyboard(opened):
    button = heading(opened, "Compared with the least").get_by_role("button")
    button.focus()
    opened.page.keyboard.press("Enter")
    assert column(opened, "Compared with the least")[0][0] == 1
    opened.page.keyboard.press("Space")
    values = column(opened, "Compared with the least")
    assert values == [sorted(one, reverse=True) for one in values]
    assert button.evaluate("button => button === document.activeElement")
    # The other energy is sorted likewise.
    opened.choose("Gross")
    values = column(opened, "Compared with the least")
    assert values == [sorted(one, reverse=True) for one in values]
    opened.choose("Net of idle")
    heading(opened, "Net per sample").get_by_role("button").click()


def test_rows_without_a_value_are_last_in_both_directions(opened):
    body = opened.page.locator(".results tbody").first
    cell = body.locator("tr[data-groups]:visible").first.locator("td").first
    known = cell.get_attribute("data-order")
    cell.evaluate("cell => { cell.dataset.order = ''; }")
    button = heading(opened, "Net per sample").get_by_role("button")
    for _ in range(2):
        button.click()
        assert column(opened, "Net per sample")[0][-1] == 0  # Number("")
    opened.page.locator(".results [data-order='']").first.evaluate(
        "(cell, known) => { cell.dataset.order = known; }", known
    )
    button.click()


def test_the_comparable_column_and_the_heading_stay_in_sight(opened):
    opened.resize("phone")
    scroll = opened.page.locator(".tall").first
    scroll.scroll_into_view_if_needed()
    inside = """(cell, area) => {
      const box = cell.getBoundingClientRect(), frame = area.getBoundingClientRect();
      return box.left >= frame.left && box.right <= frame.right && box.top >= frame.top - 1;
    }"""
    area = scroll.element_handle()
    assert heading(opened, "Net per sample").evaluate(inside, area)
    assert opened.page.locator(".scroll-hint").is_visible()
    scroll.evaluate("area => area.scrollTo(area.scrollWidth, area.scrollHeight)")
    assert heading(opened, "Model").evaluate(inside, area)
    row = opened.page.locator(".results tbody:visible tr[data-groups]:visible").last
    assert row.locator("th").evaluate(inside, area)
    opened.resize("desktop")
    assert not opened.page.locator(".scroll-hint").is_visible()


def test_columns_without_data_are_hidden(opened, resized):
    assert "Accuracy" in " ".join(headings(opened))
    cells = opened.page.locator(".results td:visible").all_inner_texts()
    assert "–" not in cells
    for table in resized.page.locator("table.sortable").all():
        count = table.locator("thead th:visible").count()
        for row in table.locator("tbody tr:visible:not(:has(th[scope=rowgroup]))").all():
            assert row.locator(":is(th, td):visible").count() == count


def test_characteristics_are_sorted_by_their_numbers(opened):
    table = opened.page.locator("[aria-labelledby=models] table")
    table.get_by_role("button", name="MACs (M)").click()
    values = [
        float(text.replace(",", ""))
        for text in table.locator("tbody tr td:nth-child(5)").all_inner_texts()
        if text
    ]
    assert values == sorted(values)


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
    assert "(95 % CI " in tip.inner_text()
    assert opened.messages == []


def test_downloads(opened, tmp_path):
    for kind, begins in (("csv", b"phase,model"), ("svg", b"<svg"), ("png", b"\x89PNG")):
        button = opened.page.locator(f"#figure-duration [data-download={kind}]")
        path = opened.download(button, tmp_path)
        assert path.name == f"duration.{kind}"
        assert path.read_bytes().startswith(begins)
    lines = (tmp_path / "duration.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2


def test_a_single_point_is_a_sentence_and_its_caption_explains_nothing(opened):
    view = opened.page.locator("#figure-energy .panel:visible .view").first
    caption = opened.page.locator("#figure-energy figcaption")
    assert "Lines are 95 % intervals" in caption.inner_text()
    boxes = opened.page.locator(".controls [name=model]")
    opened.page.locator(".controls .models").evaluate("one => one.open = true")
    for box in boxes.all()[1:]:
        box.uncheck()
    opened.drawn()
    name = boxes.first.get_attribute("value")
    assert view.inner_text().startswith(f"{name}: ")
    assert "(95 % CI " in view.inner_text()
    assert view.locator("svg").count() == 0
    assert caption.inner_text().strip() == ""
    assert not opened.page.locator("#figure-energy [data-download=png]").is_visible()
    opened.page.locator("[data-all=yes]").click()
    opened.drawn()
    assert view.locator("svg").count() == 1


def contents(svg):
    """Return the titles of a drawing's axes and the number of its marks.

    Lines to names are left out: they depend on the width.
    """
    found = Counter()
    for part in svg.iter():
        name = part.get("class", "")
        if "role-axis-title" in name or "role-legend-label" in name:
            found.update(text.text for text in part.iter() if text.tag.endswith("text"))
        elif "role-mark" in name and "mark-text" not in name:
            kind = name.split()[0]
            found[kind] += sum(one.get("stroke-width") != "0.8" for one in part)
    return found


@pytest.mark.parametrize("name", ["quick_page", "h100_report"])
def test_files_show_what_the_page_shows_at_first(browser, request, name):
    path = request.getfixturevalue(name)
    path = getattr(path, "page", path)
    shown, files = {}, {}
    with Opened(browser, path) as one:
        for figure in one.page.locator("figure[id]").all():
            panels = figure.locator(".panel:visible .view svg").all()
            shown[figure.get_attribute("id")] = [
                contents(ElementTree.fromstring(panel.evaluate("svg => svg.outerHTML")))
                for panel in panels
            ]
    with Opened(browser, path, scripts=False) as one:
        for figure in one.page.locator("figure[id]").all():
            addresses = [image.get_attribute("src") for image in figure.locator("img").all()]
            files[figure.get_attribute("id")] = [
                contents(ElementTree.fromstring(base64.b64decode(one.partition(",")[2])))
                for one in addresses
            ]
    assert sum(map(len, shown.values())) > 4
    for figure, drawn in shown.items():
        assert files[figure][: len(drawn)] == drawn, figure


def test_the_data_of_a_chart_is_a_table(opened):
    details = opened.page.locator("#figure-duration .data")
    details.locator("summary").click()
    details.locator("tbody tr").first.wait_for()
    assert details.locator("tbody tr").count() == 6
    assert details.locator("th").first.inner_text() == "phase"


def test_without_javascript_charts_are_images(browser, h100_report):
    with Opened(browser, h100_report.page, scripts=False) as one:
        assert one.page.locator("figure img:visible").count() >= one.page.locator("figure").count()
        assert one.page.locator(".controls:visible, button:visible").count() == 0
        cells = one.page.locator(".results tbody").first.locator("tr td:nth-child(2)")
        orders = cells.evaluate_all("all => all.map(cell => Number(cell.dataset.order))")
        assert orders == sorted(orders)
        assert len(orders) == 16
        widths = one.page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
        assert min(widths) > 100


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
