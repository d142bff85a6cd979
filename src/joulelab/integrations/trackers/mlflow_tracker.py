"""Log runs to MLflow: metrics, tags and artifacts of one of its runs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joulelab.integrations.trackers.tracked_run import LABEL, TrackedRun

TAG = f"{LABEL}run_id"
CONTEXT = "MLFLOW_RUN_CONTEXT"
"""MLflow adds this variable's tags to the runs that it begins."""
RUN_ID = "MLFLOW_RUN_ID"
ARTIFACTS = "joulelab"
MOST_METRICS = 1000
"""Metrics in one request, a limit of MLflow's REST API."""
LONGEST_TAG = 5000
"""Characters of a tag's value in MLflow's database."""


class MlflowTracker:
    """Logs to the active run, to the one that a command began, or to a new one.

    Args:
        logged_to: Returns a client and the id of its run, for a framework's logger.
    """

    name, package = "MLflow", "mlflow"

    def __init__(self, logged_to: Callable[[], tuple[Any, str]] | None = None) -> None:
        self._logged_to = logged_to
        self._client: Any = None
        self._run_id: str | None = None
        self._last_id: str | None = None

    def attach(self) -> bool:
        """Note the active run."""
        mlflow = sys.modules.get("mlflow")
        if self._run_id is None and self._logged_to is not None:
            self._client, self._run_id = self._logged_to()
        elif self._run_id is None and mlflow is not None:
            active = mlflow.active_run()
            self._run_id = None if active is None else active.info.run_id
            # Runs are active by thread, and `log` runs on another one.
            fluent: Any = sys.modules.get("mlflow.tracking.fluent")
            last: Any = getattr(fluent, "_last_active_run_id", None)
            self._last_id = last.get() if hasattr(last, "get") else last
        return self._run_id is not None

    def environment(self, run_id: str) -> dict[str, str]:
        """Let MLflow add this run's id to the tags of the runs that a command begins."""
        tags = json.loads(os.environ.get(CONTEXT) or "{}")
        return {CONTEXT: json.dumps({**tags, TAG: run_id})}

    def log(self, tracked: TrackedRun) -> None:
        """Log a finished run."""
        import mlflow  # noqa: PLC0415
        from mlflow.entities import Metric, RunTag  # noqa: PLC0415

        client = self._client or mlflow.MlflowClient()
        run_id = self._run_id or self._find(client, tracked)
        if run_id is None:
            with mlflow.start_run(run_name=tracked.name) as begun:
                run_id = begun.info.run_id
        metrics = [
            Metric(name, value, round(row.ended_unix_s * 1000), row.step)
            for row in tracked.rows
            for name, value in row.metrics.items()
        ]
        ended_ms = round(tracked.ended_unix_s * 1000)
        metrics += [
            Metric(name, value, ended_ms, tracked.last_step)
            for name, value in tracked.totals.items()
        ]
        tags = [RunTag(name, text[:LONGEST_TAG]) for name, text in tracked.labels.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics[first : first + MOST_METRICS], tags=tags)
        with tempfile.TemporaryDirectory(prefix="joulelab-") as folder:
            for path in tracked.write_files(Path(folder)):
                client.log_artifact(run_id, str(path), ARTIFACTS)

    def _find(self, client: Any, tracked: TrackedRun) -> str | None:
        """Find the run that was active during this one, or that its command began first."""
        if self._last_id is not None:
            ended_ms = client.get_run(self._last_id).info.end_time
            if ended_ms is None or ended_ms >= tracked.started_unix_s * 1000:
                return self._last_id
        if RUN_ID in os.environ:
            return os.environ[RUN_ID]
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{TAG}` = '{tracked.id}'")
        outermost = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
        if not outermost:
            return None
        first = min(outermost, key=lambda one: one.info.start_time)
        return str(first.info.run_id)
