"""The machine that others recorded on. What is not said of it stays unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from joulelab.errors import UserError, nearest
from joulelab.machine import Gpu, Machine

UNNAMED = "recorded"
"""The host's name where nobody gave one."""
_DERIVED = {"identity"}


def recorded_machine(
    file: Path | None, host: str | None, gpu_name: str | None, gpus: Sequence[str]
) -> Machine:
    """The machine as far as it is known.

    Args:
        file: JSON with some or all of the keys of :meth:`joulelab.machine.Machine.to_json`, alone
            or under ``machine``, as ``joulelab doctor --json`` and ``run.json`` have it.
        host: Its name; before the file's.
        gpu_name: The model of its GPUs; before the file's.
        gpus: The log's components that are GPUs, as ``["gpu:0"]``.

    Raises:
        UserError: The file cannot be read, or has something else in it.
    """
    given = {} if file is None else _read(file)
    boards = [dict(board) for board in given.get("gpus") or []]
    if not boards:
        boards = [{"index": _index(name, i)} for i, name in enumerate(gpus)]
    if gpu_name is not None:
        boards = [{**board, "name": gpu_name} for board in boards or [{}]]
    unknown: dict[str, Any] = {one.name: None for one in fields(Machine)}
    data = unknown | {"packages": {}} | given
    data["host"] = host or given.get("host") or UNNAMED
    data["gpus"] = [_gpu(board, i) for i, board in enumerate(boards)]
    try:
        machine = Machine.from_json(data)
        machine.hardware_configuration()
        assert machine.identity
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file} describes no machine", why=f"a value is of another kind ({error})"
        ) from error
    return machine


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}", why=(error.strerror or "").lower()) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON", why=str(error)) from error
    if isinstance(data, dict) and isinstance(data.get("machine"), dict):
        data = data["machine"]
    if not isinstance(data, dict):
        raise UserError(f"{path} describes no machine", hint='give JSON as {"host": "node7"}')
    _refuse_unknown(path, data, [one.name for one in fields(Machine)])
    boards = data.get("gpus") or []
    if not isinstance(boards, list) or not all(isinstance(board, dict) for board in boards):
        raise UserError(f"{path}: gpus is no list of objects")
    for board in boards:
        _refuse_unknown(path, board, [one.name for one in fields(Gpu)])
    return {key: value for key, value in data.items() if key not in _DERIVED}


def _refuse_unknown(path: Path, data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key not in known and key not in _DERIVED:
            raise UserError(f"{path}: unknown key {key!r}", hint=nearest(key, known))


def _gpu(board: Mapping[str, Any], place: int) -> dict[str, Any]:
    unknown: dict[str, Any] = {one.name: None for one in fields(Gpu)}
    return unknown | {"index": place, "name": "", "uuid": ""} | dict(board)


def _index(component: str, place: int) -> int:
    """The number in ``gpu:3``; its place where it is called otherwise."""
    _, _, number = component.partition(":")
    return int(number) if number.isdigit() else place
