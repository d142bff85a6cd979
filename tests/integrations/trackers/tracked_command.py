"""A training that logs its loss to runs that it begins itself."""


def main():
    import time

    import mlflow
    import wandb

    import joulelab

    with mlflow.start_run(), wandb.init(project="mine"), joulelab.Meter() as meter:
        for index in range(2):
            with meter.span("epoch", index=index):
                time.sleep(0.1)
            mlflow.log_metric("loss", 0.5, step=index)
            wandb.log({"loss": 0.5})


if __name__ == "__main__":
    main()
