"""The callback of Transformers in real trainings of a linear layer."""

import importlib
import math
import sys
import time
from types import MethodType, SimpleNamespace

import pytest
from transformers_trainings import QUIET, rows_of

import joulelab

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from joulelab.forecast import loop  # noqa: E402
from joulelab.integrations.transformers import EnergyCallback, _samples  # noqa: E402

SAMPLES, BATCH = 22, 4


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if index >= SAMPLES:
            raise IndexError
        return {"x": torch.arange(8.0) + index, "labels": torch.tensor(index % 2)}


class Tiny(torch.nn.Module):
    """A linear layer, because the callback sees nothing of the model."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def forward(self, x, labels):
        logits = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def trainer_with(tmp_path):
    def build(*, at=None, **options):
        """A trainer; ``at`` is called at each step with the trainer's state."""

        class Watched(transformers.Trainer):
            def training_step(self, *args, **kwargs):
                if at is not None:
                    at(self.state)
                return super().training_step(*args, **kwargs)

        callbacks = options.pop("callbacks", None)
        defaults = {
            "num_train_epochs": 2,
            "per_device_train_batch_size": BATCH,
            "eval_strategy": "no",
        }
        return Watched(
            Tiny(),
            transformers.TrainingArguments(
                output_dir=str(tmp_path), **(QUIET | defaults | options)
            ),
            train_dataset=Samples(),
            eval_dataset=Samples(),
            callbacks=callbacks,
        )

    return build


@pytest.fixture
def spans_of(spans_of):
    """Spans as nested lists, without what the trainer does after its last log."""
    return lambda meter: [root for root in spans_of(meter) if root != ["finish"]]


@pytest.fixture(params=["given to the trainer", "added with it", "added without it"])
def measured(request, trainer_with):
    """A trainer and its callback, which it has in one of three ways."""

    def build(**options):
        if request.param == "given to the trainer":
            callback = EnergyCallback()
            return trainer_with(callbacks=[callback], **options), callback
        trainer = trainer_with(**options)
        callback = EnergyCallback(trainer if request.param == "added with it" else None)
        trainer.add_callback(callback)
        return trainer, callback

    return build


def test_a_fit_has_epochs_steps_validations_and_checkpoints(measured, spans_of):
    trainer, callback = measured(
        eval_strategy="epoch", save_strategy="steps", save_steps=6, logging_strategy="epoch"
    )
    trainer.train()
    epoch = [["epoch", *[["step"]] * 6, ["checkpoint"]], ["validate"]]
    assert spans_of(callback.meter) == [["fit", *epoch, *epoch]]


def test_a_checkpoint_after_an_epoch_is_not_part_of_it(measured, spans_of):
    trainer, callback = measured(eval_strategy="epoch", save_strategy="epoch")
    trainer.train()
    first = [["epoch", *[["step"]] * 6], ["validate"], ["checkpoint"]]
    assert spans_of(callback.meter)[0][1:4] == first


def test_a_step_contains_all_the_batches_that_it_accumulates(measured, spans_of):
    trainer, callback = measured(gradient_accumulation_steps=4, num_train_epochs=1)
    trainer.train()
    steps = trainer.state.global_step
    assert spans_of(callback.meter) == [["fit", ["epoch", *[["step"]] * steps]]]


def test_validation_and_checkpoints_in_the_middle_of_an_epoch(measured, spans_of):
    trainer, callback = measured(
        eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3, max_steps=8
    )
    trainer.train()
    found = spans_of(callback.meter)
    half = [*[["step"]] * 3, ["validate"], ["checkpoint"]]
    assert found[0][:2] == ["fit", ["epoch", *half, *half]]
    assert found[0][2][:3] == ["epoch", ["step"], ["step"]]


def test_energy_is_logged_with_the_loss_under_its_own_epoch(measured, energy_of):
    trainer, callback = measured(logging_strategy="epoch", eval_strategy="epoch")
    trainer.train()
    losses = [(row["epoch"], row["step"]) for row in rows_of(trainer, "loss")]
    energies = rows_of(trainer, "energy_epoch_gross_j")
    assert [(row["epoch"], row["step"]) for row in energies] == losses == [(1.0, 6), (2.0, 12)]
    for span, row in zip(callback.meter.spans_named("epoch"), energies, strict=True):
        true_j = energy_of(span)
        assert row["energy_epoch_gross_j"] == pytest.approx(true_j, rel=1e-3)
        assert row["energy_train_j_per_sample"] == pytest.approx(true_j / SAMPLES, rel=1e-3)
    validations = callback.meter.spans_named("validate")
    for span, row in zip(validations, energies, strict=True):
        assert row["energy_validate_gross_j"] == pytest.approx(energy_of(span), rel=1e-3)
    [row] = rows_of(trainer, "energy_fit_gross_j")
    [fit] = callback.meter.spans_named("fit")
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(fit), rel=1e-3)


def test_logging_at_the_end_of_an_epoch_hides_no_loss(measured, monkeypatch):
    monkeypatch.setattr(loop, "COST_SHARE", float("inf"))
    trainer, _ = measured(
        logging_strategy="steps", logging_steps=1, num_train_epochs=3, eval_strategy="epoch"
    )
    trainer.train()
    assert [row["step"] for row in rows_of(trainer, "loss")] == list(range(1, 19))
    energies = rows_of(trainer, "energy_epoch_gross_j")
    assert [row["step"] for row in energies] == [6, 12, 18]
    assert "energy_forecast_gross_j" in energies[0]
    order = [
        "epoch" if "energy_epoch_gross_j" in row else "loss"
        for row in trainer.state.log_history
        if "loss" in row or "energy_epoch_gross_j" in row
    ]
    assert order == [*["loss"] * 6, "epoch", *["loss"] * 6, "epoch", *["loss"] * 6, "epoch"]


def test_other_callbacks_receive_the_energies_before_the_end(trainer_with):
    received = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            received.extend((name, state.global_step) for name in logs)

        def on_train_end(self, args, state, control, **_):
            received.append(("the end", state.global_step))

    trainer = trainer_with(callbacks=[Reporter()], logging_strategy="epoch")
    trainer.add_callback(EnergyCallback(trainer))
    trainer.train()
    assert ("energy_epoch_gross_j", 6) in received
    assert ("energy_epoch_gross_j", 12) in received
    assert received.index(("energy_fit_gross_j", 12)) < received.index(("the end", 12))


def test_evaluation_and_prediction_on_their_own(trainer_with, spans_of):
    trainer = trainer_with()
    callback = EnergyCallback(trainer)
    trainer.add_callback(callback)
    trainer.evaluate()
    assert spans_of(callback.meter) == [["validate"]]
    trainer.predict(Samples())
    assert spans_of(callback.meter) == [["predict"]]
    assert rows_of(trainer, "energy_validate_gross_j")
    assert rows_of(trainer, "energy_predict_gross_j")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_spans_and_meter_end_with_an_error(measured, spans_of, error):
    failing = [True]

    def fail(state):
        if failing and state.global_step == 8:
            raise error("now")

    trainer, callback = measured(at=fail)
    with pytest.raises(error), callback:
        trainer.train()
    assert spans_of(callback.meter) == [
        ["fit", ["epoch", *[["step"]] * 6], ["epoch", *[["step"]] * 3]]
    ]
    assert callback.meter.energy("fit").gross_j > 0
    failing.clear()
    trainer.train()
    assert spans_of(callback.meter) == [["fit", *[["epoch", *[["step"]] * 6]] * 2]]


def test_a_fit_that_fails_before_its_first_step_has_a_total(trainer_with, energy_of):
    class Fail(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            raise ValueError("now")

    callback = EnergyCallback()
    trainer = trainer_with(callbacks=[Fail(), callback])
    with pytest.raises(ValueError, match="now"):
        trainer.train()
    [row] = rows_of(trainer, "energy_fit_gross_j")
    fits = callback.meter.spans_named("fit")
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(*fits), rel=1e-3)
    assert row["energy_fit_other_gross_j"] == row["energy_fit_gross_j"]


def test_an_error_needs_no_with_block(trainer_with, spans_of):
    def fail(state):
        if state.global_step == 8:
            raise RuntimeError("now")

    callback = EnergyCallback()
    trainer = trainer_with(at=fail, callbacks=[callback])
    with pytest.raises(RuntimeError):
        trainer.train()
    assert len(spans_of(callback.meter)) == 1
    assert [row["step"] for row in rows_of(trainer, "energy_epoch_gross_j")] == [6]
    assert rows_of(trainer, "energy_fit_gross_j")


def test_the_time_after_an_unnoticed_error_does_not_count(trainer_with):
    failing = [True]

    def fail(state):
        if failing:
            raise RuntimeError("now")

    trainer = trainer_with(at=fail, num_train_epochs=1)
    with joulelab.Meter() as meter:
        trainer.add_callback(EnergyCallback(meter=meter))
        with pytest.raises(RuntimeError):
            trainer.train()
        failed_ns = time.monotonic_ns()
        failing.clear()
        with pytest.warns(RuntimeWarning, match="fit ended without notice"):
            trainer.train()
        first, second = meter.spans_named("fit")
    assert first.stop_ns < failed_ns < second.start_ns


def run_out_of_memory(trainer, batch_size, steps=2):
    """Let a trainer fail after some steps while its batches are larger than a size."""

    def step(self, model, inputs, *args, **options):
        if len(inputs["labels"]) > batch_size and self.state.global_step >= steps:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return type(trainer).training_step(self, model, inputs, *args, **options)

    trainer.training_step = MethodType(step, trainer)


def test_a_fit_includes_the_attempts_that_ran_out_of_memory(
    measured, spans_of, energy_of, energy_until, check_sums, capsys
):
    trainer, callback = measured(
        auto_find_batch_size=True,
        per_device_train_batch_size=7,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
    )
    run_out_of_memory(trainer, 5)
    trainer.train()
    failed = ["attempt", ["epoch", *[["step"]] * 3]]
    epoch = [["epoch", *[["step"]] * 5], ["validate"], ["checkpoint"]]
    assert spans_of(callback.meter) == [["fit", failed, failed, ["attempt", *epoch, *epoch]]]
    check_sums(callback.meter)
    [fit] = callback.meter.spans_named("fit")
    attempts = callback.meter.spans_named("attempt")
    assert [attempt.attributes["index"] for attempt in attempts] == [0, 1, 2]
    [row] = rows_of(trainer, "energy_fit_gross_j")
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(fit), rel=1e-3)
    assert row["energy_fit_failed_attempts"] == 2
    failed_j = energy_of(*attempts[:2])
    assert row["energy_fit_failed_gross_j"] == pytest.approx(failed_j, rel=1e-3)
    for span, logged in zip(
        callback.meter.spans_named("epoch")[2:],
        rows_of(trainer, "energy_epoch_gross_j"),
        strict=True,
    ):
        total_j = energy_until(fit, span)
        assert logged["energy_total_gross_j"] == pytest.approx(total_j, rel=1e-3)
        assert all(math.isfinite(value) for value in logged.values())
    assert "2 attempts failed and used" in capsys.readouterr().err


def test_all_attempts_failed(trainer_with):
    callback = EnergyCallback()
    trainer = trainer_with(
        callbacks=[callback], auto_find_batch_size=True, per_device_train_batch_size=2
    )
    run_out_of_memory(trainer, 0, steps=0)
    with pytest.raises(RuntimeError, match="No executable batch size"):
        trainer.train()
    assert callback.history[-1]["energy_fit_failed_attempts"] == 2


def test_steps_are_those_of_the_optimizer_and_early_stops_end_the_fit(
    measured, spans_of, check_sums
):
    trainer, callback = measured(
        gradient_accumulation_steps=2,
        num_train_epochs=9,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=0.0,
    )
    trainer.add_callback(transformers.EarlyStoppingCallback(1))
    trainer.train()
    epoch = [["epoch", *[["step"]] * 3], ["validate"], ["checkpoint"]]
    assert spans_of(callback.meter) == [["fit", *epoch, *epoch]]
    check_sums(callback.meter)
    assert callback.meter.spans_named("step")[-1].attributes["index"] + 1 == 6
    assert trainer.state.global_step == 6


def test_one_callback_for_several_trainers(trainer_with, spans_of):
    callback = EnergyCallback()
    trainers = [trainer_with(callbacks=[callback], num_train_epochs=1) for _ in range(2)]
    for trainer in (*trainers, trainers[0]):
        trainer.train()
        assert spans_of(callback.meter) == [["fit", ["epoch", *[["step"]] * 6]]]
        assert rows_of(trainer, "energy_fit_gross_j")


def test_a_training_within_another_one_is_part_of_it(trainer_with, spans_of, energy_of):
    callback = EnergyCallback()
    inner = []

    class Train(transformers.TrainerCallback):
        def on_epoch_end(self, *_, **__):
            options = {"num_train_epochs": 1, "eval_strategy": "epoch"}
            inner.append(trainer_with(callbacks=[callback], **options))
            inner[-1].train()

    trainer = trainer_with(callbacks=[callback, Train()])
    trainer.train()
    assert spans_of(callback.meter) == [["fit", *[["epoch", *[["step"]] * 6]] * 2]]
    [row] = rows_of(trainer, "energy_fit_gross_j")
    fits = callback.meter.spans_named("fit")
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(*fits), rel=1e-3)
    assert len(inner) == 2
    assert not any(rows_of(one, "energy_fit_gross_j") for one in inner)


def test_what_other_trainers_evaluate_within_a_training_is_part_of_it(
    trainer_with, spans_of, check_sums, energy_of
):
    callback, others = EnergyCallback(), []

    class Evaluate(transformers.TrainerCallback):
        def on_epoch_end(self, *_, **__):
            others.append(trainer_with(callbacks=[callback]))
            others[-1].evaluate()
            others[-1].predict(Samples())

    trainer = trainer_with(callbacks=[callback, Evaluate()], eval_strategy="epoch")
    trainer.train()
    epoch = [["epoch", *[["step"]] * 6], ["validate"]]
    assert spans_of(callback.meter) == [["fit", *epoch, *epoch]]
    check_sums(callback.meter)
    assert [row["epoch"] for row in rows_of(trainer, "energy_epoch_gross_j")] == [1, 2]
    [row] = rows_of(trainer, "energy_fit_gross_j")
    fits = callback.meter.spans_named("fit")
    assert row["energy_fit_gross_j"] == pytest.approx(energy_of(*fits), rel=1e-3)
    assert not any(rows_of(one, "energy_fit_gross_j") for one in others)


def test_a_callback_that_a_trainer_has_twice_counts_once(measured, spans_of, check_sums):
    trainer, callback = measured()
    trainer.add_callback(callback)
    trainer.train()
    assert spans_of(callback.meter) == [["fit", *[["epoch", *[["step"]] * 6]] * 2]]
    check_sums(callback.meter)
    assert len(rows_of(trainer, "energy_epoch_gross_j")) == 2
    assert len(rows_of(trainer, "energy_fit_gross_j")) == 1


def test_a_resumed_training_continues_its_numbering(measured, trainer_with, tmp_path):
    trainer_with(save_strategy="steps", save_steps=8).train()
    trainer, callback = measured(num_train_epochs=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    epochs = callback.meter.spans_named("epoch")
    assert [span.attributes["index"] for span in epochs] == [1, 2]
    steps = [span.attributes["index"] for span in callback.meter.spans_named("step")]
    assert steps == list(range(8, 18))


def test_several_trainings_with_a_given_meter(trainer_with, spans_of):
    with joulelab.Meter() as meter:
        for _ in range(2):
            trainer_with(callbacks=[EnergyCallback(meter=meter)], num_train_epochs=1).train()
        with meter.span("after"):
            pass
    fit = ["fit", ["epoch", *[["step"]] * 6]]
    assert spans_of(meter) == [fit, fit, ["after"]]


SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_NNODES")


@pytest.mark.parametrize(
    ("received", "samples"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, 500),
        (
            {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "4"},
            250,
        ),
        ({}, math.nan),
    ],
    ids=["torchrun", "slurm", "unknown"],
)
def test_each_of_several_hosts_counts_its_share_of_the_samples(monkeypatch, received, samples):
    for name, value in received.items():
        monkeypatch.setenv(name, value)
    args = SimpleNamespace(world_size=4, gradient_accumulation_steps=2)
    state = SimpleNamespace(train_batch_size=16)
    loader = SimpleNamespace(dataset=range(1000))
    assert _samples(args, state, 10, loader) == pytest.approx(samples, nan_ok=True)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "joulelab.integrations.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"run pip install 'joulelab\[integrations\]'$"):
        importlib.import_module("joulelab.integrations.transformers")


def test_a_fit_is_tuned_from_its_first_epoch_until_it_ends(trainer_with, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)
    trainer_with(callbacks=[callback]).train()
    assert tuning.meter is callback.meter
    assert tuning.asked[:3] == ["start quiet", *["begin an epoch in ['fit']"] * 2]
    assert tuning.asked[3].startswith("close in")


def test_the_tuning_of_a_fit_that_fails_ends_with_it(trainer_with, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)

    def fail(state):
        if state.global_step == 3:
            raise KeyError

    with pytest.raises(KeyError):
        trainer_with(at=fail, callbacks=[callback]).train()
    assert tuning.asked[-1].startswith("close in")


def test_samples_without_tokens_have_no_energy_per_token(trainer_with):
    trainer = trainer_with(callbacks=[EnergyCallback(quiet=True)], num_train_epochs=1)
    trainer.train()
    [row] = rows_of(trainer, "energy_epoch_gross_j")
    assert not [name for name in row if "token" in name]


def test_processes_that_share_a_batch_count_it_once(trainer_with):
    callback = EnergyCallback(quiet=True)
    trainer = trainer_with(callbacks=[callback])
    trainer.accelerator = SimpleNamespace(
        parallelism_config=SimpleNamespace(tp_size=2, cp_size=1, sp_size=1)
    )
    callback._count_steps(trainer)
    assert (callback._spans.processes, callback._spans.replicas) == (1, 0.5)
    callback._restore()
