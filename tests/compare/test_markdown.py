"""A comparison as Markdown, read as GitHub reads it."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from joulelab.format import markdown_code, markdown_text, printable


def html_of(text):
    return MarkdownIt("commonmark").enable("table").enable("strikethrough").render(text)


def cells_of(html):
    return re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html, re.DOTALL)


def visible(html):
    text = re.sub(r"<[^>]+>", "", html)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_any_name_is_shown_as_it_is_in_a_table(name):
    shown = " ".join(printable(name).split())
    for escaped in (markdown_text(name), markdown_code(name)):
        html = html_of(f"| a | b |\n|---|---|\n| {escaped} | end |\n")
        cells = cells_of(html)
        assert [visible(one) for one in cells] == ["a", "b", shown, "end"]
        assert not re.search("<(em|strong|a|img|del|s|h1|script)[ >]", cells[2])


@pytest.fixture
def compared(tmp_path, write_runs):
    """Run the command with a baseline and a candidate whose names have Markdown in them."""
    baseline = write_runs(tmp_path / "a|b`c`", [300, 302, 298])
    candidate = write_runs(tmp_path / "b", [340, 342, 338], started_unix_s=1.79e9 + 3600)

    def run(*options):
        command = [sys.executable, "-m", "joulelab", "compare", baseline, candidate, *options]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("limit", "code", "heading"),
    [
        ("5%", 1, "❌ Gross energy: limit of +5 %: the candidate is above it (significant)"),
        ("50%", 0, "✅ Gross energy: limit of +50 %: the candidate is within it"),
        ("11.4%", 0, "⚠️ Gross energy: limit of +11.4 %: undecided whether the candidate is"),
    ],
)
def test_the_verdict_comes_first_and_the_exit_code_stays(compared, limit, code, heading):
    printed = compared("--fail-above", limit, "--markdown", "-")
    assert (printed.returncode, printed.stderr) == (code, "")
    html = html_of(printed.stdout)
    assert visible(html).startswith(heading)
    assert "11.4 % higher in the candidate (95 % CI +" in html
    assert compared("--fail-above", limit).returncode == code


def test_the_tables_have_the_values_of_the_text(compared, tmp_path):
    path = tmp_path / "comment.md"
    text = compared("--markdown", path)
    assert text.returncode == 0
    assert text.stdout.startswith("baseline   ")
    cells = [visible(one) for one in cells_of(html_of(path.read_text()))]
    assert f"baseline: {tmp_path}/a|b`c`" in cells
    assert cells[cells.index(f"candidate: {tmp_path}/b") + 1] == "3"
    difference = next(line for line in text.stdout.splitlines() if "  difference " in line)
    assert difference.split(maxsplit=1)[1] in cells
    assert "carbon and cost, all runs" not in cells


def test_a_study_has_a_table_of_cells_that_is_cut(tmp_path, monkeypatch):
    import synthetic_study

    from joulelab.compare import markdown
    from joulelab.compare.compare import compare
    from joulelab.compare.measurement import BASELINE, CANDIDATE, read_group
    from joulelab.energy.uncertainty import METRICS

    groups = []
    for role, stretch in ((BASELINE, 1.0), (CANDIDATE, 1.1)):
        writer = synthetic_study.Writer(tmp_path / role)
        for block in range(2):
            writer.idle(block, "before")
            for model in ("LeNet", "ResNet18"):
                writer.cell(model, block, stretch=stretch + 0.01 * block)
        groups.append(read_group(str(tmp_path / role), role))
    found = compare(*groups, METRICS["gross_j_per_sample"])
    n = len(found.cells)
    assert n > 2
    monkeypatch.setattr(markdown, "MOST_ROWS", 2)
    text = markdown.comparison_markdown(found, 0.05, None, each=True)
    assert f"{n} cells, with Holm's correction" in text
    assert f"{n - 2} more are not shown." in text
    assert "`LeNet`" in text
