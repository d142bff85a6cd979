"""The values that the documentation quotes are those of the published data."""

import csv
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "joules-per-token-elsewhere.md"
DATA = Path(__file__).parent / "data"


def read(name):
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def quoted():
    """The rows of the page's first table: requests, and the values of each source."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \|([^|]*)\|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    assert rows
    return {
        int(requests.replace(",", "")): [[*map(float, filter(None, cell.strip().split(", ")))]
                                         for cell in cells]
        for requests, *cells in rows
    }  # fmt: skip


def published():
    """The same from the data."""
    found = {}
    for row in read("published_mlenergy_v2.csv"):
        assert (row["tensor_parallel"], row["pipeline_parallel"]) == ("1", "1")
        cells = found.setdefault(int(row["batch_size_max"]), [[], [], []])
        joules = float(row["energy_per_request_j"]) / float(row["output_tokens_mean"])
        cells["A100" in row["gpu"]].append(joules)
    for row in read("published_joulebench.csv"):
        cells = found.setdefault(int(row["batch_size"]), [[], [], []])
        cells[2].append(float(row["j_per_tok_mean"]))
    return found


def test_the_table_has_the_published_values():
    page, data = quoted(), published()
    assert page.keys() == data.keys()
    for requests, cells in data.items():
        for mine, theirs in zip(page[requests], cells, strict=True):
            assert mine == pytest.approx(theirs, abs=0.0005)


def test_what_the_page_says_about_the_values():
    page = quoted()
    assert page[1024][0][0] / page[64][0][0] == pytest.approx(2 / 3, abs=0.02)
    assert page[1][2][1] / page[32][2][0] == pytest.approx(25, abs=0.5)
    ratios = [max(cells[2]) / min(cells[2]) for cells in page.values() if len(cells[2]) == 2]
    assert 1.145 < min(ratios) < max(ratios) < 1.195
    for row in read("published_joulebench.csv"):
        low, high = float(row["j_per_tok_ci_lo"]), float(row["j_per_tok_ci_hi"])
        assert (high - low) / 2 / float(row["j_per_tok_mean"]) < 0.0105
    lengths = [float(row["output_tokens_mean"]) for row in read("published_mlenergy_v2.csv")]
    assert all(480 <= length < 486 for length in lengths)
    tokens_per_kwh, all_kwh, gpu_kwh = 7_059_021.617, 0.141521, 0.119945
    assert all_kwh * tokens_per_kwh == pytest.approx(1000 * 999, rel=1e-6)
    j_per_token = 3.6e6 / tokens_per_kwh
    assert j_per_token == pytest.approx(0.510, abs=0.0005)
    assert j_per_token * gpu_kwh / all_kwh == pytest.approx(0.432, abs=0.0005)
