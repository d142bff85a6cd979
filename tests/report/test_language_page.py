"""The page of a study of language models, whose unit of work is a token."""

import json

import pytest
from reading import Page

from joulelab.report.page import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory, synthetic, empty_images):
    directory = tmp_path_factory.mktemp("language") / "study"
    writer = synthetic.Writer(
        directory, models=["lm:gpt2", "lm:smollm2-135m"], repeats=2, factors={"batch_size": [1, 8]}
    )
    for block in range(2):
        writer.idle(block, "before")
        for model in writer.plan.models:
            for batch_size in (1, 8):
                writer.cell(model, block, stretch=2.0 / batch_size, batch_size=batch_size)
        writer.idle(block, "after")
    with pytest.MonkeyPatch.context() as patch:
        empty_images(patch)
        return write_report([directory])


@pytest.fixture(scope="module")
def page(report):
    return Page(report.page.read_text(encoding="utf-8"))


def test_the_page_is_about_tokens(page):
    assert "Net per token" in page.words
    assert "the least net energy per token in training" in page.words
    assert "per sample" not in page.words
    assert {group["unit"] for group in page.data["groups"]} == {"token"}


def test_the_page_says_that_weights_are_random(page):
    assert (
        "Tokens: 1,000 training sequences and 1,000 prompts of random token ids; the weights of "
        "lm:gpt2 are random, which at fixed lengths cost the same joules as trained ones; in "
        "lm:mixtral, other weights would route tokens to other experts."
    ) in page.words
    assert "prompts of 512 tokens, 128 output tokens, sdpa attention, dynamic cache" in page.words


def test_charts_have_a_panel_for_each_phase_that_ran(page):
    panels = {name: chart["panels"] for name, chart in page.data["charts"].items()}
    phases = {"train": "Training", "prefill": "Prefill", "decode": "Decoding"}
    for name in ("energy", "batch-size", "power"):
        assert panels[name]["levels"] == phases
    ratio = page.data["charts"]["ratio"]["selectors"][1]
    assert ratio["levels"] == {
        "train-prefill": "Training over prefill", "decode-prefill": "Decoding over prefill",
    }  # fmt: skip


def test_axes_are_named_after_the_unit_of_the_group(page, report):
    charts = page.data["charts"]
    assert "for 1,000 {unit}s (J)" in json.dumps(charts["batch-size"]["specification"])
    drawn = {path.name for path in report.figures}
    assert {"energy-decode.svg", "batch-size-prefill.svg"} <= drawn
    assert "energy-infer.svg" not in drawn


def test_operations_are_those_of_a_token(page):
    rows = [row for row in page.rows("predictors") if row.get("predictor") == "macs"]
    assert {row["x"] for row in rows if row["phase"] == "decode"} == {550 * 2.0, 550 * 0.25}
    assert not [row for row in page.rows("predictors") if row["predictor"] == "macs_per_parameter"]
