"""The Lightning callback in real trainings of a second or less."""

import contextlib
import csv
import importlib
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import joulelab

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")

from joulelab.forecast import loop  # noqa: E402
from joulelab.integrations.lightning import EnergyCallback  # noqa: E402

pytestmark = [
    # Lightning's warnings about this machine and about these small trainings.
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
]

for name in ("lightning.pytorch", "pytorch_lightning"):
    logging.getLogger(name).setLevel(logging.ERROR)

SAMPLES, BATCH = 20, 4


class Tiny(pl.LightningModule):
    """A linear layer; ``at`` is called at each step of training with its index."""

    def __init__(self, at=None):
        super().__init__()
        self.layer, self.at = torch.nn.Linear(8, 2), at

    def _loss(self, batch):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.layer(x), y)

    def training_step(self, batch, batch_idx):
        if self.at is not None:
            self.at(self.trainer)
        loss = self._loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch, batch_idx):
        self._loss(batch)

    def predict_step(self, batch, batch_idx):
        return self.layer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def data():
    samples = torch.utils.data.TensorDataset(
        torch.randn(SAMPLES, 8), torch.randint(0, 2, (SAMPLES,))
    )
    return torch.utils.data.DataLoader(samples, batch_size=BATCH)


@pytest.fixture
def trainer_with(tmp_path):
    def build(*callbacks, **options):
        defaults = {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 2,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(callbacks=list(callbacks), **(defaults | options))

    return build


def test_a_fit_has_epochs_steps_validations_and_checkpoints(trainer_with, spans_of, tmp_path):
    callback = EnergyCallback()
    trainer = trainer_with(
        callback,
        num_sanity_val_steps=1,
        enable_checkpointing=True,
        logger=pl.loggers.CSVLogger(tmp_path),
    )
    trainer.fit(Tiny(), data(), data())
    epoch = ["epoch", *[["step"]] * 5, ["validate"]]
    assert spans_of(callback.meter) == [
        ["fit", ["sanity_check"], epoch, ["checkpoint"], epoch, ["checkpoint"]]
    ]
    assert "save_checkpoint" not in vars(trainer)


def test_a_step_contains_all_the_batches_that_it_accumulates(trainer_with, spans_of):
    callback = EnergyCallback()
    trainer_with(callback, accumulate_grad_batches=2, max_epochs=1).fit(Tiny(), data())
    assert spans_of(callback.meter) == [["fit", ["epoch", *[["step"]] * 3]]]
    indices = [span.attributes["index"] for span in callback.meter.spans_named("step")]
    assert indices == [0, 1, 2]


def test_a_validation_in_the_middle_of_a_step_is_not_part_of_it(trainer_with, spans_of):
    callback = EnergyCallback()
    trainer_with(callback, accumulate_grad_batches=5, val_check_interval=2, max_epochs=1).fit(
        Tiny(), data(), data()
    )
    step, validate = ["step"], ["validate"]
    assert spans_of(callback.meter) == [["fit", ["epoch", step, validate, step, validate, step]]]


def test_a_fit_can_end_in_the_middle_of_an_epoch(trainer_with, spans_of):
    callback = EnergyCallback()
    trainer_with(callback, max_steps=7, max_epochs=-1).fit(Tiny(), data())
    assert spans_of(callback.meter) == [
        ["fit", ["epoch", *[["step"]] * 5], ["epoch", *[["step"]] * 2]]
    ]


def test_energy_is_logged_with_the_loss(trainer_with, tmp_path, energy_of, energy_until):
    callback = EnergyCallback()
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer_with(callback, logger=logger).fit(Tiny(), data(), data())
    with Path(logger.log_dir, "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    losses = {row["step"]: row["epoch"] for row in rows if row["loss"]}
    energies = {row["step"]: row for row in rows if row["energy/epoch_gross_j"]}
    assert {step: row["epoch"] for step, row in energies.items()} == losses
    epochs = callback.meter.spans_named("epoch")
    validations = callback.meter.spans_named("validate")
    for epoch, within, row in zip(epochs, validations, energies.values(), strict=True):
        train_j = energy_of(epoch) - energy_of(within)
        expected = {
            "epoch_gross_j": energy_of(epoch),
            "validate_gross_j": energy_of(within),
            "train_j_per_sample": train_j / SAMPLES,
            "mean_power_w": energy_of(epoch) / epoch.duration_s,
        }
        for name, value in expected.items():
            assert float(row[f"energy/{name}"]) == pytest.approx(value, rel=1e-3)
    [fit] = callback.meter.spans_named("fit")
    for epoch, row in zip(epochs, energies.values(), strict=True):
        total_j = energy_until(fit, epoch)
        assert float(row["energy/total_gross_j"]) == pytest.approx(total_j, rel=1e-3)
    [row] = [row for row in rows if row["energy/fit_gross_j"]]
    assert float(row["energy/fit_gross_j"]) == pytest.approx(energy_of(fit), rel=1e-3)


def test_an_epoch_is_logged_at_its_end_if_that_costs_little(trainer_with, monkeypatch):
    monkeypatch.setattr(loop, "COST_SHARE", float("inf"))
    callback, seen = EnergyCallback(), []
    model = Tiny(at=lambda _: seen.append(len(callback.history)))
    trainer_with(callback, max_epochs=3).fit(model, data())
    assert seen == [0] * 5 + [1] * 5 + [2] * 5
    assert "energy/forecast_gross_j" in callback.history[0]


def test_the_energy_of_the_fit_is_in_lightnings_log(trainer_with, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        trainer_with(EnergyCallback(), max_epochs=1).fit(Tiny(), data())
    [line] = [line for line in caplog.messages if line.startswith("energy of the fit: ")]
    first, second, *_ = line.splitlines()
    assert first.endswith(" 150 W")
    assert second.split()[0] == "gpu:0"


def test_a_trainer_of_the_package_pytorch_lightning(spans_of, tmp_path):
    other = pytest.importorskip("pytorch_lightning")

    class OtherTiny(other.LightningModule):
        training_step, configure_optimizers = Tiny.training_step, Tiny.configure_optimizers
        _loss, at = Tiny._loss, None

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 2)

    from joulelab.integrations.pytorch_lightning import EnergyCallback as OtherCallback

    callback = OtherCallback()
    other.Trainer(
        accelerator="cpu",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[callback],
        default_root_dir=tmp_path,
    ).fit(OtherTiny(), data())
    assert spans_of(callback.meter) == [["fit", ["epoch", *[["step"]] * 5], ["checkpoint"]]]


def test_validation_test_and_prediction_on_their_own(trainer_with, spans_of):
    callback = EnergyCallback()
    trainer = trainer_with(callback)
    trainer.validate(Tiny(), data(), verbose=False)
    assert spans_of(callback.meter) == [["validate"]]
    trainer.test(Tiny(), data(), verbose=False)
    assert spans_of(callback.meter) == [["test"]]
    trainer.predict(Tiny(), data())
    assert spans_of(callback.meter) == [["predict"]]
    names = [next(iter(row)) for row in callback.history]
    assert names == ["energy/validate_gross_j", "energy/test_gross_j", "energy/predict_gross_j"]


def test_several_fits_with_one_callback_and_a_given_meter(trainer_with, spans_of):
    with joulelab.Meter() as meter:
        callback = EnergyCallback(meter)
        for _ in range(2):
            trainer_with(callback, max_epochs=1).fit(Tiny(), data())
        with meter.span("after"):
            pass
    fit = ["fit", ["epoch", *[["step"]] * 5]]
    assert spans_of(meter) == [fit, fit, ["after"]]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_spans_and_meter_end_with_an_error(trainer_with, spans_of, error):
    def fail(trainer):
        if trainer.global_step == 7:
            raise error("now")

    callback = EnergyCallback()
    # Lightning turns an interrupt into SystemExit, earlier versions into the end of the fit.
    with pytest.raises((error, SystemExit)):
        trainer_with(callback).fit(Tiny(at=fail), data())
    assert spans_of(callback.meter) == [
        ["fit", ["epoch", *[["step"]] * 5], ["epoch", *[["step"]] * 3]]
    ]
    assert "energy/fit_gross_j" in callback.history[-1]
    assert callback.meter.energy("fit").gross_j > 0
    trainer_with(callback, max_epochs=1).fit(Tiny(), data())
    assert spans_of(callback.meter) == [["fit", ["epoch", *[["step"]] * 5]]]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_start", "on_fit_start"])
def test_an_error_in_another_callback_ends_the_fit(trainer_with, spans_of, check_sums, hook):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    callback = EnergyCallback()
    failing = type("Failing", (pl.Callback,), {hook: fail})()
    with pytest.raises(torch.OutOfMemoryError):
        trainer_with(callback, failing).fit(Tiny(), data(), data())
    assert len(callback.meter.spans_named("fit")) == 1
    spans_of(callback.meter)
    check_sums(callback.meter)


def test_a_fit_of_no_epochs_has_a_total(trainer_with, energy_of):
    callback = EnergyCallback()
    trainer_with(callback, max_epochs=0).fit(Tiny(), data())
    [row] = callback.history
    assert row["energy/fit_gross_j"] == pytest.approx(energy_of(*callback.meter.spans_named("fit")))
    assert row["energy/fit_other_gross_j"] == row["energy/fit_gross_j"]


def test_a_callback_that_a_trainer_has_twice_counts_once(trainer_with, spans_of, check_sums):
    callback = EnergyCallback()
    trainer = trainer_with(callback, callback)
    trainer.fit(Tiny(), data())
    assert spans_of(callback.meter) == [["fit", *[["epoch", *[["step"]] * 5]] * 2]]
    check_sums(callback.meter)
    assert sum("energy/epoch_gross_j" in row for row in callback.history) == 2
    assert sum("energy/fit_gross_j" in row for row in callback.history) == 1


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "hook", ["on_train_start", "training_step", "on_validation_epoch_end", "on_train_epoch_end"]
)
def test_what_other_trainers_do_within_a_fit_is_part_of_it(
    trainer_with, spans_of, check_sums, energy_of, hook, fails
):
    callback, inner = EnergyCallback(), []

    def train(model, *batch):
        failing = Tiny(at=lambda _: 1 / 0 if fails else None)
        inner.append(trainer_with(callback, max_epochs=1))
        with contextlib.suppress(ZeroDivisionError):
            inner[-1].fit(failing, data(), data())
            inner[-1].test(failing, data(), verbose=False)
        return getattr(Tiny, hook)(model, *batch)

    model = type("Outer", (Tiny,), {hook: train})()
    trainer_with(callback).fit(model, data(), data())
    epoch = ["epoch", *[["step"]] * 5, ["validate"]]
    assert spans_of(callback.meter) == [["fit", epoch, epoch]]
    check_sums(callback.meter)
    *epochs, row = callback.history
    assert [one["epoch"] for one in epochs] == [0, 1]
    fits = callback.meter.spans_named("fit")
    assert row["energy/fit_gross_j"] == pytest.approx(energy_of(*fits), rel=1e-3)
    inner[0].fit_loop.epoch_progress.reset()
    inner[0].fit(Tiny(), data(), data())
    assert spans_of(callback.meter) == [["fit", epoch]]


def test_an_early_stop_ends_the_fit(trainer_with, spans_of, check_sums):
    callback = EnergyCallback()
    stop = pl.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    trainer_with(callback, stop, max_epochs=9).fit(Tiny(), data(), data())
    epoch = ["epoch", *[["step"]] * 5, ["validate"]]
    assert spans_of(callback.meter) == [["fit", epoch, epoch]]
    check_sums(callback.meter)


def test_a_fit_includes_the_search_for_a_batch_size(trainer_with, tmp_path, energy_of, monkeypatch):
    class Model(Tiny):
        batch_size, trials = 2, 0

        def training_step(self, batch, batch_idx):
            if len(batch[0]) > 4:
                type(self).trials += 1
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(batch, batch_idx)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(data().dataset, batch_size=self.batch_size)

        val_dataloader = train_dataloader

    monkeypatch.chdir(tmp_path)
    callback = EnergyCallback()
    finder = pl.callbacks.BatchSizeFinder(steps_per_trial=1)
    trainer_with(callback, finder, max_epochs=1).fit(Model())
    assert Model.trials == 1
    [fit], [epoch] = (callback.meter.spans_named(name) for name in ("fit", "epoch"))
    assert callback.history[-1]["energy/fit_gross_j"] == pytest.approx(energy_of(fit), rel=1e-3)
    assert epoch.start_ns - fit.start_ns > epoch.stop_ns - epoch.start_ns, (
        "the search is in the fit"
    )


def test_a_resumed_training_continues_its_numbering(trainer_with, spans_of, tmp_path):
    checkpoint = tmp_path / "in-the-second-epoch.ckpt"

    def save(trainer):
        if trainer.global_step == 7:
            trainer.save_checkpoint(checkpoint)

    trainer_with().fit(Tiny(at=save), data())
    callback = EnergyCallback()
    trainer_with(callback).fit(Tiny(), data(), ckpt_path=checkpoint)
    epochs = callback.meter.spans_named("epoch")
    assert [span.attributes["index"] for span in epochs] == [1]
    assert callback.history[0]["epoch"] == 1


def test_steps_are_optional_and_samples_can_be_counted_by_a_function(trainer_with, spans_of):
    callback = EnergyCallback(steps=False, samples_in=lambda batch: 1000)
    trainer_with(callback, max_epochs=1).fit(Tiny(), data())
    assert spans_of(callback.meter) == [["fit", ["epoch"]]]
    row = callback.history[0]
    assert row["energy/train_j_per_sample"] == pytest.approx(row["energy/epoch_gross_j"] / 5000)


def token_batches(*lengths):
    """Batches of one sequence each, with a position of padding."""
    ones = ([1] * n for n in lengths)
    return [{"input_ids": torch.ones(1, len(one) + 1), "attention_mask": torch.tensor([[*one, 0]])}
            for one in ones]  # fmt: skip


class Language(Tiny):
    """Takes what it needs out of its batches, which the callback must have counted before."""

    def _loss(self, batch):
        inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
        return self.layer(inputs.pop("input_ids").sum() * torch.ones(8)).square().mean()

    def training_step(self, batch, batch_idx):
        return self._loss(batch)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_tokens_of_training_and_validation_count_apart(trainer_with, energy_of):
    callback = EnergyCallback()
    trainer = trainer_with(
        callback,
        max_epochs=1,
        accumulate_grad_batches=2,
        val_check_interval=2,
        num_sanity_val_steps=1,
    )

    def loader(*lengths):
        return torch.utils.data.DataLoader(token_batches(*lengths), batch_size=None)

    trainer.fit(Language(), loader(3, 4, 8), loader(2, 5))
    epoch, fit = callback.history
    [span], validations = (callback.meter.spans_named(one) for one in ("epoch", "validate"))
    assert epoch["energy/train_tokens"] == fit["energy/fit_tokens"] == 15
    assert epoch["energy/train_padding_tokens"] == 3
    assert epoch["energy/validate_tokens"] == 7 * len(validations)
    train_j = energy_of(span) - energy_of(*validations)
    assert epoch["energy/train_j_per_token"] == pytest.approx(train_j / 15, rel=1e-3)
    assert fit["energy/fit_train_gross_j"] == pytest.approx(train_j, rel=1e-3)
    assert fit["energy/fit_j_per_token"] == pytest.approx(fit["energy/fit_gross_j"] / 15)
    parts = ("train", "validate", "other")
    assert sum(fit[f"energy/fit_{name}_gross_j"] for name in parts) == pytest.approx(
        fit["energy/fit_gross_j"]
    )
    trainer.validate(Language(), loader(2, 5), verbose=False)
    assert callback.history[-1]["energy/validate_tokens"] == 7


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_the_energy_of_recent_tokens_is_logged_as_often_as_others(trainer_with, monkeypatch):
    monkeypatch.setattr(loop, "COST_SHARE", float("inf"))
    callback = EnergyCallback()
    trainer = trainer_with(callback, max_epochs=2, log_every_n_steps=2)
    trainer.fit(Language(), torch.utils.data.DataLoader(token_batches(3, 4, 8, 2), batch_size=None))
    rows = [row for row in callback.history if "energy/recent_tokens" in row]
    assert [row["step"] for row in rows] == [1, 3, 5, 7]
    assert [row["energy/recent_tokens"] for row in rows] == [7, 10, 7, 10]
    assert all(row["energy/recent_j_per_token"] > 0 for row in rows)


def test_the_user_counts_tokens_of_other_batches(trainer_with):
    callback = EnergyCallback(tokens_in=lambda batch: 100)
    trainer_with(callback, max_epochs=1).fit(Tiny(), data())
    assert callback.history[0]["energy/train_tokens"] == 500


TWO_PROCESSES = """
import json, os, sys
import lightning.pytorch as pl
import torch
from joulelab.integrations.lightning import EnergyCallback


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch.pop("x")).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(rank):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": "0"}
    ids = torch.ones(8, dtype=torch.long)
    data = [
        {"x": torch.randn(8), "input_ids": ids, "attention_mask": (torch.arange(8) <= n % 8).long()}
        for n in range(20)
    ]
    callback = EnergyCallback()
    pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[callback],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Model(), torch.utils.data.DataLoader(data, batch_size=4))
    with open(f"rank{rank}.json", "w") as file:
        json.dump({
            "recorder": callback.meter.recorder_pid,
            "spans": [span.name for span in callback.meter.spans],
            "history": callback.history,
            "tokens": callback.meter.spans_named("epoch")[0].attributes["tokens"],
        }, file)


# Both processes share one import of PyTorch.
for rank in ("0", "1"):
    if not os.fork():
        train(rank)
        sys.stdout.flush()
        os._exit(0)
for _ in range(2):
    assert os.wait()[1] == 0
"""


@pytest.mark.usefixtures("own_recorder")
def test_of_two_processes_the_first_logs_for_both(tmp_path):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    job = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES],
        cwd=tmp_path, env=os.environ | job, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["spans"] == second["spans"] == ["fit", "epoch", *["step"] * 3]
    assert second["history"] == []
    row = first["history"][0]
    assert row["energy/train_j_per_sample"] == pytest.approx(row["energy/epoch_gross_j"] / SAMPLES)
    assert first["recorder"] == second["recorder"]
    tokens = sum(n % 8 + 1 for n in range(SAMPLES))
    assert first["tokens"] != second["tokens"]
    assert first["tokens"] + second["tokens"] == row["energy/train_tokens"] == tokens
    assert row["energy/train_j_per_token"] == pytest.approx(row["energy/epoch_gross_j"] / tokens)


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, monkeypatch):
    module = importlib.import_module("joulelab.integrations.lightning")
    monkeypatch.delitem(vars(module), "EnergyCallback", raising=False)
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in [*names, f"joulelab.integrations.{package}"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    message = f"^the package {package} is not installed; run pip install [^\\n]*$"
    with pytest.raises(ImportError, match=message):
        _ = importlib.import_module(f"joulelab.integrations.{package}").EnergyCallback


def test_a_fit_is_tuned_from_its_first_epoch_until_it_ends(trainer_with, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)
    trainer_with(callback).fit(Tiny(), data())
    assert tuning.meter is callback.meter
    assert tuning.asked[:3] == ["start quiet", *["begin an epoch in ['fit']"] * 2]
    assert tuning.asked[3].startswith("close in")


def test_the_tuning_of_a_fit_that_fails_ends_with_it(trainer_with, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)

    def fail(trainer):
        if trainer.global_step == 3:
            raise KeyError

    with pytest.raises(KeyError):
        trainer_with(callback).fit(Tiny(at=fail), data())
    assert tuning.asked[-1].startswith("close in")
