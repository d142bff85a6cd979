"""Trainings by Lightning and Transformers whose loggers log to trackers; prints what these have."""


def main():
    import json
    import logging
    import os
    import sys
    from pathlib import Path

    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
    from stored_values import of_mlflow, of_tensorboard
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from joulelab.integrations.lightning import EnergyCallback
    from joulelab.integrations.trackers import tracking
    from joulelab.integrations.transformers import EnergyCallback as TransformersCallback

    tracking._page = lambda _: None  # It takes seconds.
    tracking.DEADLINE_S = 200.0  # The machine of the tests may be busy.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def training_step(self, batch, _):
            loss = self.layer(batch[0]).square().mean()
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(12, 4))
    loggers = [
        MLFlowLogger("lightning", tracking_uri=os.environ["MLFLOW_TRACKING_URI"]),
        TensorBoardLogger(".", name=None, version="lightning"),
    ]
    callback = EnergyCallback(quiet=True)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=loggers, callbacks=[callback],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Model(), torch.utils.data.DataLoader(data, batch_size=4))
    import mlflow

    of_lightning = {
        "directory": str(callback.meter.directory),
        "mlflow": of_mlflow(loggers[0].run_id),
        "tensorboard": of_tensorboard("lightning"),
    }

    mlflow.set_experiment("transformers")
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    data = [{"input_ids": torch.arange(8), "labels": torch.tensor(n % 2)} for n in range(24)]
    arguments = TrainingArguments(
        "out", num_train_epochs=2, per_device_train_batch_size=8, logging_strategy="epoch",
        report_to=["mlflow", "tensorboard"], use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    callback = TransformersCallback(quiet=True)
    trainer = Trainer(
        BertForSequenceClassification(config), arguments, train_dataset=data, callbacks=[callback]
    )
    trainer.train()
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("transformers").experiment_id])
    [events] = {path.parent for path in Path("out").rglob("*.joulelab")}
    sys.stdout.write(
        json.dumps(
            {
                "lightning": of_lightning,
                "transformers": {
                    "directory": str(callback.meter.directory),
                    "mlflow": of_mlflow(run.info.run_id),
                    "tensorboard": of_tensorboard(events),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
