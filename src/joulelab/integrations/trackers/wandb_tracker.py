"""Log runs to Weights & Biases: history, summary, configuration and an artifact."""

from __future__ import annotations

import importlib
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from joulelab.integrations.trackers.tracked_run import EPOCHS, TrackedRun

RUN_ID = "WANDB_RUN_ID"
EPOCH, STEP = f"{EPOCHS}epoch", f"{EPOCHS}step"
X_AXES = ("trainer/global_step", "train/global_step")
"""What Lightning and Transformers show the loss over."""
_HEADER_BYTES, _CHECKSUM_BYTES, _PIECE_BYTES, _BLOCK_BYTES = 7, 4, 7, 32768
_LAST_PIECES = (1, 4)  # Whole records, and the last piece of others.


class WandbTracker:
    """Logs to the active run, to the one that a command began, or to a new one.

    Args:
        logged_to: Returns the run of a framework's logger.
    """

    name, package = "Weights & Biases", "wandb"

    def __init__(self, logged_to: Callable[[], Any] | None = None) -> None:
        self._logged_to = logged_to
        self._run: Any = None

    def attach(self) -> bool:
        """Note the active run."""
        if self._run is None:
            active = getattr(sys.modules.get("wandb"), "run", None)
            self._run = active if self._logged_to is None else self._logged_to()
        return self._run is not None

    def environment(self, run_id: str) -> dict[str, str]:
        """Choose the id of the run that a command begins, unless the user has."""
        return {RUN_ID: os.environ.get(RUN_ID) or run_id}

    def log(self, tracked: TrackedRun) -> None:
        """Log a finished run."""
        import wandb  # noqa: PLC0415

        if self._run is not None:
            _log(self._run, tracked)
            return
        run_id = os.environ.get(RUN_ID) or tracked.id
        settings = wandb.Settings(silent=True, console="off")
        begun = _begun(run_id) or {"name": tracked.name}
        try:
            with wandb.init(id=run_id, resume="allow", settings=settings, **begun) as run:
                _log(run, tracked)
        finally:
            wandb.teardown()  # Its process would outlive a program that skips Python's shutdown.


def _log(run: Any, tracked: TrackedRun) -> None:
    import wandb  # noqa: PLC0415

    steps = next((one for one in X_AXES if run.summary.get(one) is not None), STEP)
    run.define_metric(f"{EPOCHS}*", step_metric=steps)
    for row in tracked.rows:
        run.log({**row.metrics, EPOCH: row.epoch, STEP: row.step, steps: row.step})
    run.summary.update(tracked.totals)
    run.config.update(dict(tracked.labels), allow_val_change=True)
    artifact = wandb.Artifact(f"joulelab-{tracked.id}", type="joulelab-run")
    with tempfile.TemporaryDirectory(prefix="joulelab-") as folder:
        for path in tracked.write_files(Path(folder)):
            artifact.add_file(str(path), policy="mutable")
        run.log_artifact(artifact)


def _begun(run_id: str) -> dict[str, Any]:
    """Find the project and the owner of the run that a command began under this id."""
    folder = Path(os.environ.get("WANDB_DIR") or ".", "wandb")
    # The file of an online run is in run-TIME-ID, that of another one in offline-run-TIME-ID.
    for path in sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb")):
        for record in read_records(path):
            if record.HasField("run"):
                found = {"project": record.run.project, "entity": record.run.entity}
                return {name: value for name, value in found.items() if value}
    return {}


def read_records(path: Path) -> Iterator[Any]:
    """Read the file into which W&B writes a run first: a header, and a log in LevelDB's format.

    Pieces of records follow each other in blocks, each after a checksum, its length and its kind
    (https://github.com/google/leveldb/blob/main/doc/log_format.md).
    """
    make_record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    data = path.read_bytes()
    at, content = _HEADER_BYTES, b""
    while at + _PIECE_BYTES <= len(data):
        left_in_block = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left_in_block < _PIECE_BYTES:
            at += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", data, at + _CHECKSUM_BYTES)
        at += _PIECE_BYTES
        content += data[at : at + length]
        at += length
        if kind in _LAST_PIECES:
            yield make_record.FromString(content)
            content = b""
