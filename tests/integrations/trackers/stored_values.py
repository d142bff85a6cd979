"""Read back what trackers have stored, with their own packages, as JSON for a test."""

import json
from pathlib import Path


def of_mlflow(run_id):
    """Return a run's metrics as lists of steps and values, its tags, and its artifacts."""
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    history = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
    return {
        "metrics": {
            name: sorted((one.step, one.value) for one in values)
            for name, values in history.items()
        },
        "labels": {name: text for name, text in run.data.tags.items() if "joulelab" in name},
        "files": [one.path for one in client.list_artifacts(run_id, "joulelab")],
        "status": run.info.status,
    }


def of_wandb(folder, run_id):
    """Return what the files of an offline run have, in the order in which they were begun."""
    from joulelab.integrations.trackers.wandb_tracker import read_records

    found = {"metrics": {}, "summary": {}, "labels": {}, "files": [], "projects": [], "axes": []}
    for path in sorted(Path(folder).glob(f"wandb/offline-run-*-{run_id}/*.wandb")):
        for record in read_records(path):
            if record.HasField("run"):
                found["projects"].append(record.run.project)
            row = {_name(one): json.loads(one.value_json) for one in record.history.item}
            for name, value in row.items():
                step = row.get("joulelab/step", row["_step"])
                found["metrics"].setdefault(name, []).append((step, value))
            updates = {_name(one): one.value_json for one in record.summary.update}
            found["summary"] |= {name: json.loads(text) for name, text in updates.items()}
            labels = {one.key: one.value_json for one in record.config.update}
            found["labels"] |= {name: json.loads(text) for name, text in labels.items()}
            found["files"] += [one.path for one in record.artifact.manifest.contents]
            if record.HasField("metric") and record.metric.glob_name:
                found["axes"].append((record.metric.glob_name, record.metric.step_metric))
    return found


def _name(item):
    return item.key or "/".join(item.nested_key)


def of_tensorboard(folder):
    """Return the tensors of 64 bits, the scalars, the text and the files next to the events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    names = events.Tags()
    tensors = {
        name: [(one.step, make_ndarray(one.tensor_proto).item()) for one in events.Tensors(name)]
        for name in names["tensors"]
    }
    return {
        "metrics": {
            name.removeprefix("float64/"): values
            for name, values in tensors.items()
            if name.startswith("float64/")
        },
        "scalars": {
            name: [(one.step, one.value) for one in events.Scalars(name)]
            for name in names["scalars"]
        },
        "text": tensors["joulelab"][0][1].decode() if "joulelab" in tensors else "",
        "files": sorted(one.name for one in Path(folder).glob("joulelab/*/*")),
    }
