"""Questions about language models, per token, asked of studies whose answers are known."""

import re

import pytest

from joulelab.findings.all import analyze
from joulelab.findings.tables import StudyTables, write_results

SIZES = {"lm:gpt2": 1.0, "lm:gpt2-medium": 3.0, "lm:smollm2-135m": 1.2, "lm:smollm2-360m": 2.7}
"""Models, and how long each takes in multiples of the first."""

# Joules of 1,000 sequences, gross: 450 W for 1.25 s, 300 W for 10 s, 350 W for 4 s.
PREFILL_J, DECODE_J, TRAIN_J = 450 * 1.25 / 512_000, 300 * 10 / 128_000, 350 * 4 / 512_000


@pytest.fixture(scope="module")
def language(tmp_path_factory, synthetic):
    """Four models at batch sizes 1 and 8, where a token costs 4 times less; two blocks."""
    directory = tmp_path_factory.mktemp("language") / "study"
    writer = synthetic.Writer(
        directory, models=list(SIZES), repeats=2, factors={"batch_size": [1, 8]}
    )
    for block in range(2):
        writer.idle(block, "before")
        for index, (model, size) in enumerate(SIZES.items()):
            for batch_size, share in ((1, 4.0), (8, 1.0)):
                wobble = 1 + 0.005 * ((3 * index + batch_size + 2 * block) % 4)
                stretch = size * share * wobble
                writer.cell(model, block, stretch=stretch, batch_size=batch_size)
        writer.idle(block, "after")
    return analyze(StudyTables.read([directory]))


@pytest.fixture(scope="module")
def by_id(language):
    """Findings at batch size 8, or over all batch sizes, by id."""
    return {one.id: one for one in language.findings if "size 1" not in one.setting}


def test_energy_per_token_is_in_the_results(language, tmp_path):
    rows = language.tables.runs
    prefill = rows[(rows["phase"] == "prefill") & (rows["batch_size"] == 8)]
    assert (prefill["tokens"] == 2 * 1000 * 512).all()
    first = prefill[prefill["model"] == "lm:gpt2"].iloc[0]
    assert first["gross_j_per_token"] == pytest.approx(PREFILL_J, rel=0.02)
    assert first["gross_j_per_sample"] == pytest.approx(512 * first["gross_j_per_token"])
    assert 0 < first["net_j_per_token"] < first["gross_j_per_token"]
    write_results(language.tables, tmp_path)
    header = (tmp_path / "results.csv").read_text().partition("\n")[0].split(",")
    assert {"tokens", "gross_j_per_token", "macs_per_token", "prompt_tokens", "cache"} <= {*header}


def test_means_per_token_have_intervals(language):
    table = language.tables.summary
    for name in ("gross_j_per_token", "net_j_per_token", "duration_s_per_token"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[name] < table[f"{name}_high"]).all()
    assert (language.tables.measurements["unit"] == "token").all()


def test_decoding_is_compared_with_prefill_per_token(by_id):
    found = by_id["ratio.decode-prefill.gross"]
    assert found.estimate == pytest.approx(DECODE_J / PREFILL_J)
    assert found.low < DECODE_J / PREFILL_J < found.high
    assert found.significant
    assert found.statement.startswith("Per token, decoding uses 21.3 (95 % CI ")
    assert "rule" not in found.statement
    assert "The intervals of 4 of 4 models exclude 1 " in found.statement
    assert found.question == "How many times the gross energy of prefill does decoding use?"


def test_training_is_compared_with_prefill_by_the_rule_of_three(by_id):
    found = by_id["ratio.train-prefill.gross"]
    assert found.estimate == pytest.approx(TRAIN_J / PREFILL_J)
    assert "rule" in found.statement


def test_only_image_models_are_compared_in_inference(by_id):
    assert not {"ratio.gross", "ratio.net", "ratio.time"} & by_id.keys()


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_the_least_energy_per_token(by_id, phase):
    found = by_id[f"models.{phase}.gross"]
    assert "gross energy per token" in found.question
    assert "ake lm:gpt2: it uses the least gross energy per token in " in found.statement
    assert found.significant


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_a_token_is_cheaper_in_a_larger_batch(by_id, phase):
    found = by_id[f"batch.{phase}.gross"]
    assert found.estimate == 8
    assert found.significant
    assert re.search(r"saves 7[45](\.\d+)? %", found.statement)
    assert "of the gross energy per token" in found.statement


def test_operations_per_token_are_those_of_the_phase(language):
    table = language.tables.measurements
    eight = table[(table["batch_size"] == 8) & (table["model"] == "lm:gpt2")]
    macs = eight.set_index("phase")["macs"]
    assert macs["decode"] / macs["prefill"] == pytest.approx(550 / 500, rel=0.01)


def test_no_statement_is_per_sample(language):
    assert language.findings
    assert not [one.id for one in language.findings if "per sample" in one.question + one.statement]


def test_ranks_of_prefill_and_decoding_are_compared(by_id):
    found = by_id["phases.spearman.decode-prefill.gross"]
    assert found.question == (
        "Do decoding and prefill rank models the same way by gross energy per token?"
    )
    assert found.estimate == pytest.approx(1.0)


def test_prompts_of_other_lengths_are_never_averaged(tmp_path, synthetic):
    writer = synthetic.Writer(
        tmp_path / "s", models=["lm:gpt2"], factors={"prompt_tokens": [64, 512]}
    )
    for tokens in (64, 512):
        writer.cell("lm:gpt2", 0, prompt_tokens=tokens)
    tables = StudyTables.read([tmp_path / "s"])
    assert len(tables.summary) == 2 * 3
    assert set(tables.measurements["setting"]) == {"prompt tokens 64", "prompt tokens 512"}


def test_images_and_tokens_are_in_one_report(tmp_path, synthetic):
    synthetic.write_study(tmp_path / "images", models=("LeNet",), repeats=1)
    synthetic.write_study(tmp_path / "language", models=("lm:gpt2",), repeats=1)
    table = StudyTables.read([tmp_path / "images", tmp_path / "language"]).measurements
    units = table.groupby("model")["unit"].unique()
    assert units["LeNet"].tolist() == ["sample"]
    assert units["lm:gpt2"].tolist() == ["token"]
    assert table["gross_j_per_unit"].notna().all()
