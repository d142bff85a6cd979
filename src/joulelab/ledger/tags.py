"""To which project and phase a job or a study belongs, said afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulelab.errors import UserError, nearest
from joulelab.run.options import PHASES
from joulelab.runs.job import FINISHED_FILE, STARTED_FILE, is_job, write_record
from joulelab.storage import write_whole, writing

STUDY_FILE = "ledger.json"
"""Beside a study's plan; jobs say it in their own record."""

SCHEMA = "joulelab-ledger-1"


def tag(path: Path, *, project: str | None, phase: str | None, tags: Mapping[str, str]) -> None:
    """Says to which project and phase a job or a study belongs; its measurements stay as they are.

    Args:
        path: The directory of either.
        project: ``None`` leaves it.
        phase: One of :data:`joulelab.run.options.PHASES`; ``None`` leaves it.
        tags: Added to a job's; a study has none.

    Raises:
        UserError: There is no job or study, no such phase, the job is still running, or the
            record cannot be written.
    """
    if phase is not None and phase not in PHASES:
        raise UserError(f"no phase {phase!r}", hint=nearest(phase, PHASES))
    changed = {
        name: value for name, value in (("project", project), ("phase", phase)) if value is not None
    }
    if is_job(path):
        _tag_job(path, changed, tags)
    elif (path / "plan.toml").is_file():
        if tags:
            raise UserError(f"{path} is a study", why="only a job takes tags beside these")
        _tag_study(path, changed)
    else:
        raise UserError(f"{path} is no job and no study", hint="give the directory of one")


def study_tags(directory: Path) -> tuple[str | None, str | None]:
    """Project and phase of a study; ``None`` where nobody said.

    Raises:
        UserError: What was said is damaged.
    """
    path = directory / STUDY_FILE
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise UserError(f"{path} has schema {data['schema']!r}", why=f"{SCHEMA} can be read")
        return data.get("project"), data.get("phase")
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged", why=str(error), hint="remove it, and tag the study again"
        ) from error


def _tag_job(directory: Path, changed: Mapping[str, str], tags: Mapping[str, str]) -> None:
    records = [directory / name for name in (FINISHED_FILE, STARTED_FILE)]
    found = {path: json.loads(path.read_bytes()) for path in records if path.exists()}
    if records[0] not in found and _alive(found[records[1]]):
        raise UserError(
            f"{directory} is still running",
            why="its record is written at its end",
            hint="tag it then, or give --project and --phase to joulelab run",
        )
    for path, data in found.items():
        write_record(path, data | dict(changed) | {"tags": data["tags"] | dict(tags)})


def _tag_study(directory: Path, changed: Mapping[str, str]) -> None:
    project, phase = study_tags(directory)
    data = {"schema": SCHEMA, "project": project, "phase": phase} | dict(changed)
    path = directory / STUDY_FILE
    with writing(path):
        write_whole(path, json.dumps(data, indent=1).encode() + b"\n")


def _alive(data: Mapping[str, Any]) -> bool:
    """Whether the command of a job that has not finished goes on, as far as this host can tell."""
    if data["host"] != os.uname().nodename or not data.get("pid"):
        return False
    try:
        os.kill(data["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
