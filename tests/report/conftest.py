import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from joulelab.cli.app import main
from joulelab.report import renderer
from joulelab.report.page import write_report


@pytest.fixture(scope="session")
def empty_images(few_resamples):
    """A function that patches reports to empty images and few resamples, for tests of texts."""

    def apply(patch):
        few_resamples(patch)
        patch.setattr(renderer, "FORMATS", ("svg",))
        patch.setattr(renderer, "render", lambda specification, formats: {"svg": b"<svg/>"})
        patch.setattr("joulelab.report.page.processes_for", lambda runs: 0)

    return apply


@pytest.fixture
def fast(monkeypatch, empty_images):
    """Apply :func:`empty_images` during a test."""
    empty_images(monkeypatch)


@pytest.fixture(scope="session")
def h100_report(tmp_path_factory, h100_study):
    """The report of the study of docs/explanation/h100.md."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "FORMATS", ("svg",))
        patch.setattr("joulelab.report.page.processes_for", lambda runs: 0)
        return write_report([h100_study], tmp_path_factory.mktemp("h100_report"))


@pytest.fixture(scope="session")
def quick_page(tmp_path_factory):
    """The page of a study that was measured here, cut to fractions of a second a cell."""
    directory = tmp_path_factory.mktemp("quick")
    plan = directory / "plan.toml"
    plan.write_text(
        """
        name = "quick"
        models = ["LeNet", "MobileNet"]
        repeats = 1
        idle_s = 0.2
        [data]
        name = "digits"
        [factors]
        batch_size = [8]
        [train]
        seconds = 0.2
        [infer]
        seconds = 0.2
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "FORMATS", ("svg",))
        patch.setenv("JOULELAB_HOME", os.fspath(directory / "home"))
        with pytest.raises(SystemExit) as stop:
            main(["study", str(plan), "--out", str(directory / "study")])
    assert stop.value.code == 0
    return directory / "study" / "report.html"


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory, synthetic, empty_images):
    """The page of two machines and two batch sizes, with names that would break out."""
    directory = tmp_path_factory.mktemp("hostile")
    hostile = '</script><img src=x onerror="document.title=1">'
    for name, machine in (("a", {}), ("b", {"host": hostile})):
        writer = synthetic.Writer(
            directory / name, machine=synthetic.other_machine(**machine), repeats=2
        )
        for block in range(2):
            writer.idle(block, "before")
            for model in ("LeNet", "MobileNetV2", hostile):
                for batch_size in (8, 128):
                    writer.cell(model, block, stretch=1 + 0.02 * block, batch_size=batch_size)
            writer.idle(block, "after")
    with pytest.MonkeyPatch.context() as patch:
        empty_images(patch)
        return write_report([directory / "a", directory / "b"], directory / "both.html").page


@pytest.fixture(scope="module")
def browser():
    """A real browser for the pages.

    It ends with its module: its event loop runs until then, and other tests run their own.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("pages were not opened: there is no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
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
