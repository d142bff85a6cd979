"""A page in a real browser."""

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


class Opened:
    """A page, with every message and request of it.

    Args:
        browser, path: What opens it, and the page.
        size: Among :data:`SIZES`.
        scheme: ``"light"`` or ``"dark"``.
        scripts: Whether the browser runs scripts.
        width: Width of the window in pixels, in place of that of the size.
        drawn: Whether the page has a script that draws its charts.
    """

    def __init__(
        self,
        browser,
        path: Path,
        size="desktop",
        scheme="light",
        *,
        scripts=True,
        drawn=True,
        width=0,
    ):
        width, height = (width, 900) if width else SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.messages, self.requests = [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        if scripts and drawn:
            self.drawn()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def check(self):
        """Nothing is loaded or reported, nothing is wider than the page, and axe is content."""
        self.check_quiet()
        assert serious_faults(self.page) == []

    def check_quiet(self):
        """Nothing is loaded or reported, and nothing is wider than the page."""
        assert self.messages == []
        own = ("file:", "data:", "blob:")
        assert [url for url in self.requests if not url.startswith(own)] == []
        width = "document.documentElement.scrollWidth - window.innerWidth"
        assert self.page.evaluate(width) <= 0

    def download(self, button, directory):
        """Save what a button downloads; return its path."""
        with self.page.expect_download() as download:
            button.click()
        path = directory / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def drawn(self):
        self.page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60000)
        return self

    def resize(self, size):
        """Change the size of the window and wait until the charts are redrawn."""
        self.page.evaluate("document.documentElement.dataset.drawn = 'no'")
        width, height = SIZES[size]
        self.page.set_viewport_size({"width": width, "height": height})
        self.drawn()

    def marks(self, chart):
        """Count the marks of a chart's visible panels."""
        return self.page.locator(f"#figure-{chart} .panel:visible .role-mark path").count()

    def is_a_sentence(self, chart):
        """Return whether every visible panel is a sentence: its single mark, or why it is empty."""
        panels = self.page.locator(f"#figure-{chart} .panel:visible")
        return all(panel.locator(".view > p").count() == 1 for panel in panels.all())

    def choose(self, label):
        self.page.get_by_label(label, exact=True).first.check()
        return self.drawn()


def serious_faults(page):
    """What axe finds that keeps readers with a handicap from using a page."""
    found = Axe().run(page).response["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in serious]
