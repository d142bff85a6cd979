"""Descriptions of the models and the machine of an imported study; the rest stays unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from joulelab.errors import UnknownModelError, UserError, nearest
from joulelab.import_study.run_spans import CHARACTERISTICS, RunSpan
from joulelab.machine import Gpu, Machine
from joulelab.models.registry import build_model, canonical_name, require_torch
from joulelab.storage import file_errors
from joulelab.validation import InvalidData, parse_json

UNNAMED_HOST = "recorded"
_TRUSTED = ("torchvision", "timm")
"""Sources of models that may be built. A name in a table must not run code of its own."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Input and output of the models: channels, height and width, and the number of classes."""

    shape: Sequence[int]
    num_classes: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} and {self.num_classes} classes"


def canonical_names(spans: Iterable[RunSpan], notes: list[str]) -> dict[str, str]:
    """Map each model of the table to its name in the registry, if it has one."""
    names: dict[str, str] = {}
    for model in (span.model for span in spans if span.model):
        try:
            names[model] = canonical_name(model)
        except UserError:
            names[model] = model
    renamed = [f"{old} as {new}" for old, new in names.items() if old != new]
    if renamed:
        notes.append(f"read as models of the registry: {', '.join(renamed)}")
    return names


def characteristics_of(
    spans: Sequence[RunSpan], names: Mapping[str, str], sample: Sample, notes: list[str]
) -> dict[str, dict[str, Any] | None]:
    """Return each model's characteristics, if known; the table's precede the registry's."""
    stated: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
    for span in spans:
        for key, value in span.only(CHARACTERISTICS).items():
            first = stated[names[span.model]].setdefault(key, value)
            if first != value:
                raise UserError(
                    f"{span.label}: {key} of {span.model} is {value}",
                    why=f"earlier it was {first}",
                )
    found: dict[str, dict[str, Any] | None] = {}
    missing: dict[str, list[str]] = {}
    for name, known in stated.items():
        counted: dict[str, Any] = {}
        if not {"parameters", "macs"} <= known.keys():
            try:
                counted = _count(name, sample)
            except UserError as error:
                missing.setdefault(str(error), []).append(name)
        found[name] = _with_derived(counted | known) or None
    if len(found) > sum(map(len, missing.values())):
        notes.append(f"characteristics are for a sample of {sample} (--input, --classes)")
    for why, models in missing.items():
        notes.append(f"characteristics of {', '.join(models)} are unknown: {why}")
    return found


def _count(name: str, sample: Sample) -> dict[str, Any]:
    """Count the parameters and MACs of a model of the registry, if it may be built."""
    try:
        source, colon, _ = canonical_name(name).partition(":")
    except UnknownModelError:
        raise UserError(
            "the registry has no such model",
            hint="give the spans columns parameters and macs to fill them in",
        ) from None
    if colon and source not in _TRUSTED:
        raise UserError("code named in a table is not run")
    require_torch()
    from joulelab.models.characteristics import characterize  # noqa: PLC0415

    model = build_model(name, num_classes=sample.num_classes, in_channels=sample.shape[0])
    return asdict(characterize(model, sample.shape, name=name))


def _with_derived(known: dict[str, Any]) -> dict[str, Any]:
    if {"parameter_bytes", "buffer_bytes"} <= known.keys():
        known.setdefault("size_bytes", known["parameter_bytes"] + known["buffer_bytes"])
    if known.get("parameters") and "macs" in known:
        known["macs_per_parameter"] = known["macs"] / known["parameters"]
    return known


def describe_machine(
    file: Path | None, host: str | None, gpu_name: str | None, gpus: Sequence[str]
) -> Machine:
    """Describe the machine as far as it is known; ``host`` and ``gpu_name`` override the file.

    The file is JSON with keys of :meth:`joulelab.machine.Machine.to_json`, alone or under
    ``machine``, as in ``joulelab doctor --json``. ``gpus`` are components of the log.
    """
    given = {} if file is None else _read_machine(file)
    boards = [dict(board) for board in given.get("gpus") or []]
    if not boards:
        numbers = [name.partition(":")[2] for name in gpus]
        boards = [{"index": int(n) if n.isdigit() else i} for i, n in enumerate(numbers)]
    if gpu_name is not None:
        boards = [{**board, "name": gpu_name} for board in boards or [{}]]
    unknown: dict[str, Any] = dict.fromkeys(one.name for one in fields(Gpu))
    data: dict[str, Any] = dict.fromkeys(one.name for one in fields(Machine))
    data |= {"packages": {}, **given, "host": host or given.get("host") or UNNAMED_HOST}
    data["gpus"] = [
        unknown | {"index": i, "name": "", "uuid": ""} | board for i, board in enumerate(boards)
    ]
    try:
        machine = Machine.from_json(data)
        machine.hardware_configuration()
        assert machine.identity
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file} does not describe a machine", why=f"a value has another type ({error})"
        ) from error
    return machine


def _read_machine(path: Path) -> dict[str, Any]:
    try:
        with file_errors(f"cannot read {path}"):
            data = parse_json(path.read_bytes())
    except InvalidData as error:
        raise UserError(f"{path} is not JSON", why=str(error)) from error
    if isinstance(data, dict) and isinstance(data.get("machine"), dict):
        data = data["machine"]
    if not isinstance(data, dict):
        raise UserError(
            f"{path} does not describe a machine", hint='give JSON such as {"host": "node7"}'
        )
    data.pop("identity", None)
    boards = data.get("gpus") or []
    if not isinstance(boards, list) or not all(isinstance(board, dict) for board in boards):
        raise UserError(f"{path}: gpus is not a list of objects")
    for described, kind in ((data, Machine), *((board, Gpu) for board in boards)):
        known = [one.name for one in fields(kind)]
        for key in described:
            if key not in known:
                raise UserError(f"{path}: unknown key {key!r}", hint=nearest(key, known))
    return data
