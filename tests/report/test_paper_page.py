"""The page of the paper's claims, its table in the terminal and in the documentation."""

import json

import pytest
import refresh_h100
from opened_page import SIZES, Opened

from joulelab.findings.paper import Agreement, claims, read_h100
from joulelab.report.paper_page import headline, page, write_paper_page


def test_without_a_study_the_recording_of_an_h100(printed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = printed("report", "--paper")
    assert "Of 48 claims of the paper, 13 could be tested" in out
    assert "3.99 (95 % CI 3.65–4.35)" in out
    written = (tmp_path / "joulelab-report" / "paper.html").read_text(encoding="utf-8")
    written = written.replace("\u00a0", " ")
    for row in read_h100():
        assert row.why.split("'")[0] in written
        assert row.claim.paper.split("'")[0] in written


def test_json_has_every_claim(printed, tmp_path):
    found = json.loads(printed("report", "--paper", "--json", "--out", tmp_path / "my.html"))
    assert found["page"] == str(tmp_path / "my.html")
    assert [row["id"] for row in found["claims"]] == [claim.id for claim in claims()]
    for agreement in Agreement:
        same = [row for row in found["claims"] if row["agreement"] == agreement]
        assert found["agreement"].get(agreement, 0) == len(same)
    (time,) = (row for row in found["claims"] if row["id"] == "three.mean")
    assert (time["low"], time["high"]) == pytest.approx((3.65, 4.35), abs=0.01)
    assert time["allowed"] == [3, 3]


def test_a_study_of_your_own(printed, synthetic, tmp_path, monkeypatch, few_resamples):
    few_resamples(monkeypatch)
    writer = synthetic.Writer(tmp_path / "mine", repeats=2)
    for block in range(2):
        writer.idle(block, "before")
        for model in ("LeNet", "VGG16"):
            writer.cell(model, block, stretch=1 + 0.02 * block)
        writer.idle(block, "after")
    found = json.loads(printed("report", "--paper", writer.directory, "--json"))
    assert found["page"] == str(writer.directory / "paper.html")
    assert "RTX 3090" in next(row["machine"] for row in found["claims"] if row["machine"])
    written, _ = write_paper_page([writer.directory], tmp_path / "again")
    assert written == tmp_path / "again" / "paper.html"


def test_errors(refused, tmp_path):
    assert "is not a study" in refused("report", "--paper", tmp_path)
    assert "no effect" in refused("report", "--paper", "--trace", "r0")


def test_headline():
    none = [row for row in read_h100() if row.agreement is Agreement.NOT_TESTED]
    assert headline(none).startswith("None of 35 claims of the paper")
    one = [row for row in read_h100() if row.agreement is Agreement.NO][:1]
    assert headline(one).endswith(
        "1 could be tested with these measurements: 0 agree and 1 disagrees."
    )


def test_the_documentation_shows_the_table():
    shown = refresh_h100.PAPER_PAGE.read_text(encoding="utf-8")
    assert refresh_h100.paper_table(read_h100()) in shown, "run python docs/refresh_h100.py"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser(browser, tmp_path, size, scheme):
    path = tmp_path / "paper.html"
    path.write_text(page(read_h100(), title="</title><script>x</script>"), encoding="utf-8")
    with Opened(browser, path, size, scheme, drawn=False) as opened:
        opened.check()
        assert opened.page.locator(".claims tbody tr").count() == len(read_h100())
