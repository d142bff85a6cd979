"""What tests of trainings with Transformers share."""

QUIET = {
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}
"""Arguments of a training that saves, logs and shows nothing."""


def rows_of(trainer, name):
    """The rows of a trainer's log that have a value."""
    return [row for row in trainer.state.log_history if name in row]
