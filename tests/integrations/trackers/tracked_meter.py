"""A training with a meter, of which MLflow and W&B have an active run and TensorBoard a directory.

Then the same with a server that does not answer. Prints as JSON what the trackers have.
"""


def main():
    import json
    import os
    import sys
    import time
    import warnings

    import mlflow
    import wandb
    from stored_values import of_mlflow, of_tensorboard, of_wandb

    import joulelab
    from joulelab.integrations.trackers import tracking

    tracking.DEADLINE_S = 200.0  # The machine of the tests may be busy.

    def train(meter):
        for index in range(3):
            with meter.span("epoch", index=index, **({"step": 100} if index == 2 else {})):
                with meter.span("train"):
                    time.sleep(0.15)
                mlflow.log_metric("loss", 1 / (index + 1), step=index)
                wandb.log({"loss": 1 / (index + 1), "epoch": index})
            with meter.span("validate {all}"):
                time.sleep(0.05)

    with mlflow.start_run() as run, wandb.init(project="mine", id="wandb-run") as wandb_run:
        with joulelab.Meter(tracker=["auto", "tensorboard:tb"]) as meter:
            train(meter)
        still_active = mlflow.active_run() is not None and wandb.run is wandb_run
    tracking._page = lambda _: None  # It takes seconds, and was made once.
    ended = joulelab.Meter(tracker="mlflow", directory="ended")
    # This run is not active when the meter opens, nor when it closes.
    with mlflow.start_run() as of_ended, ended.span("epoch", index=0):
        time.sleep(0.05)
    ended.close()

    mine = of_mlflow(run.info.run_id)
    theirs = of_mlflow(of_ended.info.run_id)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    mlflow.set_tracking_uri(os.environ["NO_SERVER"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joulelab.Meter(tracker="mlflow", directory="unreachable").close()
    sys.stdout.write(
        json.dumps(
            {
                "directory": str(meter.directory),
                "still_active": still_active,
                "mlflow": mine,
                "wandb": of_wandb(".", "wandb-run"),
                "tensorboard": of_tensorboard("tb"),
                "ended": theirs,
                "warnings": [
                    str(one.message) for one in caught if "energy of this run" in str(one.message)
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
