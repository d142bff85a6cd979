"""Tokens and their energy in real trainings of a language model with Transformers."""

import time

import pytest
from transformers_trainings import QUIET, rows_of

import joulelab

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from joulelab.forecast import loop  # noqa: E402
from joulelab.integrations.transformers import EnergyCallback  # noqa: E402

VOCABULARY, PADDING = 32, 0


def sentences(*lengths):
    """Samples of a language model, each with its number of tokens."""
    samples = ([1 + (i + n) % (VOCABULARY - 1) for i in range(n)] for n in lengths)
    return [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in samples]


def pad(samples):
    """Pad samples to the longest; the first token of each is in no loss."""
    longest = max(len(one["input_ids"]) for one in samples)
    fill = {"input_ids": PADDING, "attention_mask": 0, "labels": -100}
    batch = {
        name: torch.tensor([one[name] + [value] * (longest - len(one[name])) for one in samples])
        for name, value in fill.items()
    }
    batch["labels"][:, 0] = -100
    return batch


@pytest.fixture(scope="module")
def language_model():
    """A language model of 3,000 parameters with random weights."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=1, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.fixture
def train_language_model(tmp_path, language_model):
    def build(train, callback, evaluate=None, collator=pad, **options):
        defaults = {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
        }
        return transformers.Trainer(
            language_model,
            transformers.TrainingArguments(
                output_dir=str(tmp_path), **(QUIET | defaults | options)
            ),
            train_dataset=train,
            eval_dataset=evaluate,
            data_collator=collator,
            callbacks=[callback],
        )

    return build


LENGTHS = (3, 8, 5, 5, 9, 1, 7)
TOKENS, TARGETS = sum(LENGTHS), sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_tokens_of_all_batches_count_without_padding(train_language_model, energy_of, accumulate):
    callback = EnergyCallback(quiet=True)
    trainer = train_language_model(
        sentences(*LENGTHS),
        callback,
        gradient_accumulation_steps=accumulate,
        include_num_input_tokens_seen=True,
    )
    trainer.train()
    epochs = callback.meter.spans_named("epoch")
    n = len(epochs)  # Transformers 4 takes a last step of fewer batches for one of the next epoch.
    rows = rows_of(trainer, "energy_epoch_gross_j")
    for span, row in zip(epochs, rows, strict=True):
        assert row["energy_train_tokens"] == TOKENS
        assert row["energy_train_target_tokens"] == TARGETS
        assert row["energy_train_j_per_token"] == pytest.approx(energy_of(span) / TOKENS, rel=1e-3)
    positions = sum(row["energy_train_tokens"] + row["energy_train_padding_tokens"] for row in rows)
    assert positions == trainer.state.num_input_tokens_seen
    assert [span.attributes["tokens"] for span in epochs] == [TOKENS] * n
    [row] = rows_of(trainer, "energy_fit_gross_j")
    assert row["energy_fit_tokens"] == n * TOKENS
    assert row["energy_fit_j_per_token"] == pytest.approx(row["energy_fit_gross_j"] / (n * TOKENS))
    assert row["energy_fit_j_per_token_low"] <= row["energy_fit_j_per_token"]
    assert row["energy_fit_train_j_per_token"] == pytest.approx(
        energy_of(*epochs) / (n * TOKENS), rel=1e-3
    )
    assert "training_step" not in vars(trainer)


def test_the_energy_of_recent_tokens_is_logged_with_the_loss(
    train_language_model, energy_of, monkeypatch
):
    monkeypatch.setattr(loop, "COST_SHARE", float("inf"))
    asked, energies = [], joulelab.Meter.energies

    def note(meter, spans):
        if [getattr(one, "name", "window") for one in spans[:2]] == ["window", "validate"]:
            asked.append(spans)
        return energies(meter, spans)

    monkeypatch.setattr(joulelab.Meter, "energies", note)
    counts = []

    def count(batch):
        counts.append(int(batch["attention_mask"].sum()))
        return counts[-1]

    callback = EnergyCallback(quiet=True, tokens_in=count)
    trainer = train_language_model(
        sentences(*LENGTHS),
        callback,
        evaluate=sentences(64, 64),
        eval_strategy="steps",
        eval_steps=1,
        logging_strategy="steps",
        logging_steps=2,
        num_train_epochs=1,
    )
    trainer.train()
    trained = [n for n in counts if n != 128]
    rows = rows_of(trainer, "energy_recent_j_per_token")
    assert [row["step"] for row in rows] == [2, 4]
    assert [row["energy_recent_tokens"] for row in rows] == [sum(trained[:2]), sum(trained[2:])]
    steps = callback.meter.spans_named("step")
    (first, *within_first), (second, *within_second) = asked
    assert [*within_first, *within_second] == callback.meter.spans_named("validate")[:3]
    assert first.start_ns < steps[0].start_ns
    assert steps[1].stop_ns < first.stop_ns == second.start_ns < steps[2].start_ns
    assert steps[3].stop_ns < second.stop_ns
    for row, (window, *within) in zip(rows, asked, strict=True):
        [whole] = callback.meter.energies([window])
        true_j = whole.gross_j - energy_of(*within)
        assert row["energy_recent_j_per_token"] == pytest.approx(
            true_j / row["energy_recent_tokens"], rel=1e-3
        )


def test_batches_that_are_skipped_after_resuming_do_not_count(train_language_model, tmp_path):
    data, seen = sentences(*LENGTHS), []

    def count(batch):
        seen.append(int(batch["attention_mask"].sum()))
        return seen[-1]

    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    train_language_model(data, EnergyCallback(quiet=True, tokens_in=count), **options).train()
    callback = EnergyCallback(quiet=True)
    trainer = train_language_model(data, callback, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert sum(seen) == TOKENS
    assert callback.history[0]["energy_train_tokens"] == sum(seen[2:])


@pytest.mark.filterwarnings("ignore:Using `DataCollatorWithFlattening`:UserWarning")
def test_every_token_of_packed_sequences_counts(train_language_model):
    callback = EnergyCallback(quiet=True)
    data = [{"input_ids": one["input_ids"]} for one in sentences(*LENGTHS)]
    trainer = train_language_model(
        data, callback, collator=transformers.DataCollatorWithFlattening(), num_train_epochs=1
    )
    trainer.train()
    [row] = rows_of(trainer, "energy_epoch_gross_j")
    assert row["energy_train_tokens"] == TOKENS
    assert row["energy_train_target_tokens"] == TARGETS, "the first of each sequence has no target"
    assert "energy_train_padding_tokens" not in row, "without a mask, padding is unknown"


def test_tokens_and_energy_of_validation_are_apart_from_those_of_training(
    train_language_model, energy_of
):
    callback = EnergyCallback(quiet=True)
    trainer = train_language_model(
        sentences(*LENGTHS),
        callback,
        evaluate=sentences(4, 6, 2),
        eval_strategy="steps",
        eval_steps=2,
        num_train_epochs=1,
    )
    trainer.train()
    [epoch], validations = (callback.meter.spans_named(one) for one in ("epoch", "validate"))
    [row] = rows_of(trainer, "energy_epoch_gross_j")
    assert len(validations) == 2
    assert row["energy_train_tokens"] == TOKENS
    assert row["energy_validate_tokens"] == 2 * 12
    within_j = energy_of(*(one for one in validations if one.stop_ns < epoch.stop_ns))
    train_j = (energy_of(epoch) - within_j) / TOKENS
    assert row["energy_train_j_per_token"] == pytest.approx(train_j, rel=1e-3)
    validate_j = energy_of(*validations) / (2 * 12)
    assert row["energy_validate_j_per_token"] == pytest.approx(validate_j, rel=1e-3)
    trainer.evaluate()
    row = rows_of(trainer, "energy_validate_gross_j")[-1]
    assert row["energy_validate_tokens"] == 12
    [span] = callback.meter.spans_named("validate")
    assert row["energy_validate_j_per_token"] == pytest.approx(energy_of(span) / 12, rel=1e-3)


def test_every_joule_of_a_training_is_in_one_sum_and_tokens_of_failed_attempts_in_none(
    train_language_model, energy_of, capsys
):
    callback = EnergyCallback()
    trainer = train_language_model(
        sentences(*LENGTHS),
        callback,
        evaluate=sentences(4, 6),
        auto_find_batch_size=True,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        num_train_epochs=1,
    )
    before = trainer.training_step

    def step(model, inputs, *args, **options):
        if len(inputs["labels"]) > 2 and trainer.state.global_step >= 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return before(model, inputs, *args, **options)

    trainer.training_step = step
    start_ns = time.monotonic_ns()
    trainer.train()
    stop_ns = time.monotonic_ns()
    assert trainer.training_step is step
    assert trainer.state.train_batch_size == 2
    meter = callback.meter
    attempts = meter.spans_named("attempt")
    [fit], [finish] = meter.spans_named("fit"), meter.spans_named("finish")
    [row] = rows_of(trainer, "energy_fit_gross_j")
    last = callback.history[-1]
    parts = [f"energy_fit_{name}_gross_j" for name in ("train", "validate", "checkpoint", "failed")]
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(fit), rel=1e-3)
    assert sum(row[name] for name in [*parts, "energy_fit_other_gross_j"]) == pytest.approx(
        row["energy_fit_gross_j"]
    )
    assert row["energy_fit_failed_gross_j"] == pytest.approx(energy_of(*attempts[:-1]), rel=1e-3)
    inner = {
        name: [one for one in meter.spans_named(name) if one.start_ns > attempts[-1].start_ns]
        for name in ("epoch", "validate", "checkpoint")
    }
    [epoch] = inner["epoch"]
    within = [
        one for name in ("validate", "checkpoint") for one in inner[name]
        if one.start_ns < epoch.stop_ns
    ]  # fmt: skip
    expected_j = (
        energy_of(epoch) - energy_of(*within),
        energy_of(*inner["validate"]),
        energy_of(*inner["checkpoint"]),
    )
    for name, true_j in zip(parts, expected_j, strict=False):
        assert row[name] == pytest.approx(true_j, rel=1e-3)
    assert last["energy_finish_gross_j"] == pytest.approx(energy_of(finish), rel=1e-3)
    # What is outside of the two sums is the time of starting to measure and of stopping.
    assert fit.stop_ns <= finish.start_ns
    covered_ns = fit.stop_ns - fit.start_ns + finish.stop_ns - finish.start_ns
    assert start_ns < fit.start_ns
    assert finish.stop_ns < stop_ns
    assert finish.start_ns - fit.stop_ns < 0.01 * covered_ns
    assert row["energy_fit_tokens"] == TOKENS, "those of the failed attempt are in no sum"
    assert row["energy_fit_j_per_token"] == pytest.approx(energy_of(fit) / TOKENS, rel=1e-3)
    lines = capsys.readouterr().err
    assert f" per token, {TOKENS} tokens" in lines
    assert "their tokens do not count" in lines


def test_with_a_function_that_fails_the_training_goes_on(train_language_model):
    callback = EnergyCallback(quiet=True, tokens_in=lambda batch: batch["missing"])
    trainer = train_language_model(sentences(2, 3), callback, num_train_epochs=1)
    with pytest.warns(RuntimeWarning, match="tokens are not counted: KeyError"):
        trainer.train()
    callback = EnergyCallback(quiet=True, tokens_in=lambda batch: 100)
    train_language_model(sentences(2, 3), callback, num_train_epochs=1).train()
    assert callback.history[0]["energy_train_tokens"] == 100
