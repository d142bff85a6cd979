"""The plan of a study: a TOML file, checked, with every default written out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from joulelab.errors import UnknownModelError
from joulelab.models.registry import canonical_name, zoo_names

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Optimizer = Literal["sgd", "adam", "adamw"]
InputPath = Literal["device", "loader"]
Attention = Literal["eager", "sdpa", "flash"]
Cache = Literal["dynamic", "static", "none"]
Phase = Literal["train", "infer", "prefill", "decode"]
DataName = Literal["digits", "cifar10", "fashion-mnist", "synthetic", "tokens"]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]
StudyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

TOKENS = "tokens"
"""The data set of language models: sequences of random token ids."""


@dataclass(frozen=True)
class _Kind:
    """A kind of models: the sources of models that are only of this kind, and what only it has."""

    name: str
    sources: tuple[str, ...]
    phases: tuple[str, ...]
    factors: tuple[str, ...]
    training: Mapping[str, Any]  # keys of [train], and the values that leave them out


_LANGUAGE = _Kind(
    name="language models",
    sources=("lm",),
    phases=("train", "prefill", "decode"),
    factors=("prompt_tokens", "output_tokens", "attention", "cache"),
    training={"gradient_accumulation_steps": None},
)
_IMAGES = _Kind(
    name="models of images",
    sources=("", "torchvision", "timm"),  # the empty one is the zoo
    phases=("train", "infer"),
    factors=("memory_format", "input_path"),
    training={"augment": False, "validate": False},
)

_LANGUAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "data": {"train_count": 256, "test_count": 256},
    "factors": {
        "batch_size": [8],
        "optimizer": ["adamw"],
        "prompt_tokens": [512],
        "output_tokens": [128],
        "attention": ["sdpa"],
        "cache": ["dynamic"],
        "memory_format": None,
        "input_path": None,
    },
    "train": {**_IMAGES.training, "gradient_accumulation_steps": 1},
}
"""Defaults of plans of language models, where they differ from those of image models."""


def _distinct(values: list[Any]) -> list[Any]:
    seen: list[tuple[type, Any]] = []
    for value in values:
        if (type(value), value) in seen:
            raise PydanticCustomError("duplicate", "{value} is given twice", {"value": repr(value)})
        seen.append((type(value), value))
    return values


class Table(BaseModel):
    """A table of a plan; unknown keys and values of other types are refused."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class DataPlan(Table):
    """The data set; see :func:`joulelab.workloads.datasets.load_dataset`."""

    # Which one. ``digits`` ships with scikit-learn and needs no network; ``tokens`` is for language
    # models.
    name: DataName = "digits"
    root: str = ""  # Directory of a local copy; empty: the usual locations.
    download: bool = False  # Whether it may be downloaded.
    image_size: PositiveInt = 32  # Images are resized to a square of this side, in pixels.
    # Training images of ``synthetic``, or training sequences of ``tokens``.
    train_count: Annotated[int, Field(gt=0, le=10_000_000)] = 50_000
    # Test images of ``synthetic``, or prompts of ``tokens``.
    test_count: Annotated[int, Field(gt=0, le=10_000_000)] = 10_000
    num_classes: Annotated[int, Field(ge=2, le=1000)] = 10  # Classes of ``synthetic``.
    # Whether the classes of ``synthetic`` can be learned.
    structure: Literal["learnable", "random"] = "learnable"
    # Processes that load data for ``input_path = "loader"``.
    loader_workers: Annotated[int, Field(ge=0)] = 2


class FactorsPlan(Table):
    """The levels of each factor, a list or a single value; cells are their product with the models.

    The factors are those of :data:`joulelab.runs.FACTORS`; the data set has a table of its own.
    A factor without levels does not apply.
    """

    batch_size: list[PositiveInt] = Field(default=[128], min_length=1)
    precision: list[Precision] = Field(default=["fp32"], min_length=1)
    # Of images, like ``input_path``.
    memory_format: Annotated[list[MemoryFormat] | None, Field(min_length=1)] = ["contiguous"]
    compile: list[bool] = Field(default=[False], min_length=1)
    optimizer: list[Optimizer] = Field(default=["sgd"], min_length=1)
    input_path: Annotated[list[InputPath] | None, Field(min_length=1)] = ["device"]
    device: list[Device] = Field(default=["auto"], min_length=1)
    # Of language models, like the following ones: tokens of a prompt, and of a sequence in
    # training.
    prompt_tokens: list[PositiveInt] | None = Field(default=None, min_length=1)
    # Tokens that decoding adds to a prompt.
    output_tokens: list[PositiveInt] | None = Field(default=None, min_length=1)
    # Implementation of attention.
    attention: list[Attention] | None = Field(default=None, min_length=1)
    # Kind of cache that prefill fills and decoding reads.
    cache: list[Cache] | None = Field(default=None, min_length=1)
    # Power limits, W: of the GPU, or of the processors' packages for cells on the CPU. It is set
    # for the time of a cell. ``None``: limits stay as they are.
    power_limit_w: list[PositiveFloat] | None = Field(default=None, min_length=1)
    # Highest clocks of the GPU, MHz; likewise.
    clock_mhz: list[PositiveFloat] | None = Field(default=None, min_length=1)

    @field_validator("*", mode="before")
    @classmethod
    def _make_list(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, list) else [value]

    @field_validator("*")
    @classmethod
    def _refuse_duplicates(cls, value: list[Any] | None) -> list[Any] | None:
        return None if value is None else _distinct(value)

    def levels(self) -> dict[str, list[Any]]:
        """Return the levels of each factor that the plan sets."""
        levels: dict[str, list[Any]] = self.model_dump(exclude_none=True)
        return levels


def _with_one_length(table: Any, lengths: tuple[str, ...], default: int) -> Any:
    """Refuse several lengths; give the first its default if there is none, nor a time."""
    if not isinstance(table, dict):
        return table
    given = [name for name in lengths if table.get(name) is not None]
    if len(given) > 1:
        raise PydanticCustomError(
            "lengths", "{given} are both given; keep one", {"given": " and ".join(given)}
        )
    is_bound = table.get("seconds") is not None
    return table if given or is_bound else {lengths[0]: default} | table


class TrainPlan(Table):
    """Training. The defaults are the paper's (section V), except for the length."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    # Length in passes over the training set; 1 if no length is given.
    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None  # Length in optimiser steps.
    # Longest time in seconds; the current step is finished. It may bound another length or be the
    # only one.
    seconds: Seconds | None = None
    # Steps before the measured ones, discarded and undone.
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    learning_rate: Annotated[float, Field(gt=0)] = 0.001  # Learning rate of the optimiser.
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Momentum of SGD.
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # Weight decay of the optimiser.
    # Batches per step of the optimiser, of language models (1).
    gradient_accumulation_steps: PositiveInt | None = None
    augment: bool = True  # Random crop and flip, of images.
    # ``validate`` in the file: measure test accuracy after each epoch, of models of images.
    validate_epochs: Annotated[bool, Field(alias="validate")] = True
    # Stop training as soon as the energy of ``epochs`` epochs can be forecast to this relative
    # uncertainty, for example 0.02; the forecast is recorded.
    within: Annotated[float, Field(gt=0, lt=1)] | None = None
    least_epochs: PositiveInt | None = None  # With ``within``: train at least this long; default 3.
    # With ``within``: train at most this long; default ``epochs``.
    most_epochs: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_forecast(self) -> Self:
        if self.within is not None and self.epochs is None:
            raise PydanticCustomError("lengths", "within forecasts epochs; give their number")
        if self.within is None and (self.least_epochs or self.most_epochs):
            raise PydanticCustomError(
                "lengths", "least_epochs and most_epochs bound a forecast; give within"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _check_length(cls, table: Any) -> Any:
        return _with_one_length(table, ("epochs", "steps"), 1)


class InferPlan(Table):
    """Inference over the test set; also prefill and decoding of a language model."""

    # Length in passes over the test set; 5 if no length is given, so that both phases process
    # 50,000 images of CIFAR-10 (section V of the paper).
    passes: PositiveInt | None = None
    steps: PositiveInt | None = None  # Length in batches.
    # Longest time in seconds; the current batch is finished. As in training.
    seconds: Seconds | None = None
    warmup_steps: Annotated[int, Field(ge=0)] = 5  # Batches before the measured ones, discarded.

    @model_validator(mode="before")
    @classmethod
    def _check_length(cls, table: Any) -> Any:
        return _with_one_length(table, ("passes", "steps"), 5)


def _time_limit(text: str) -> str:
    if re.fullmatch(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}", text) is None:
        example = 'write it as for sbatch, for example "4:00:00"'
        raise PydanticCustomError("time", "{example}", {"example": example})
    return text


class FleetPlan(Table):
    """Where a study runs that an engine spreads over hosts. It does not change what is measured."""

    # Most hosts at the same time. Up to ``repeats`` hosts, each block runs on one of them; more
    # divide blocks. Default: one per block, or all for a single block.
    nodes: PositiveInt | None = None
    # Whether a cell has a host for itself. Without it, jobs of others may run next to it, and what
    # they use is attributed to them.
    exclusive: bool = True
    # Python interpreter on the hosts of Slurm; default: the one that runs the study.
    python: str | None = None
    partition: str | None = None  # Partition of Slurm, like the following ones: ``--partition``.
    account: str | None = None  # ``--account``.
    # ``--time``, of the job of a block, for example ``"4:00:00"``.
    time: Annotated[str, AfterValidator(_time_limit)] | None = None
    gres: str | None = None  # ``--gres``, for example ``"gpu:1"``.
    # More options of ``sbatch``, for example ``{constraint = "a100"}``.
    sbatch: dict[str, str | int | bool] = {}
    address: str = "auto"  # Address of a Ray cluster; ``auto``: the running one.
    # Resources of Ray that a cell needs of its host, for example ``{GPU = 1.0}``.
    resources: dict[str, Annotated[float, Field(ge=0)]] = {}


def is_bounded(length: TrainPlan | InferPlan) -> bool:
    """Report whether the seconds of a phase only bound another length."""
    others = {"epochs", "passes", "steps"} & type(length).model_fields.keys()
    return length.seconds is not None and any(getattr(length, name) for name in others)


def _expand_models(models: Any) -> Any:
    if not isinstance(models, list):
        return models
    return [name for entry in models for name in (zoo_names() if entry == "paper" else [entry])]


def _known_model(name: str) -> str:
    try:
        canonical: str = canonical_name(name)
    except UnknownModelError as error:
        raise PydanticCustomError("model", "{text}", {"text": str(error)}) from None
    return canonical


def _source(model: Any) -> str:
    """Return what stands before the colon of a model's name."""
    source, colon, _ = str(model).partition(":")
    return source.strip().lower() if colon else ""


def _misfit(text: str) -> PydanticCustomError:
    return PydanticCustomError("kind", "{text}", {"text": text})


def _in_order(phases: list[Phase]) -> list[Phase]:
    ordered = sorted(phases, key=list(get_args(Phase)).index)
    if phases != ordered:
        text = ", ".join(f'"{phase}"' for phase in ordered)
        why = "a model is trained before inference, and a prompt read before an answer is written"
        raise PydanticCustomError("phases", "{why}: write [{text}]", {"why": why, "text": text})
    return phases


class Plan(Table):
    """The plan of a study."""

    name: StudyName  # Name of the study, and of its default directory.
    # Canonical names; ``paper`` stands for the paper's sixteen models.
    models: Annotated[
        list[Annotated[str, AfterValidator(_known_model)]],
        Field(min_length=1),
        BeforeValidator(_expand_models),
        AfterValidator(_distinct),
    ]
    # What each cell does, in order.
    phases: Annotated[
        list[Phase], Field(min_length=1), AfterValidator(_distinct), AfterValidator(_in_order)
    ] = ["train", "infer"]
    repeats: PositiveInt = 1  # Blocks; each runs every cell once.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # Models of repeat r start from seed + r.
    # T_m, the seconds of idle before and after each block; 0 for no baseline.
    idle_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    # A cell that reports nothing for this long fails.
    hang_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    # Names for :func:`joulelab.sensors.discovery.discover`; empty: all.
    sensors: Annotated[list[str], AfterValidator(_distinct)] = []
    data: DataPlan = DataPlan()  # The data set.
    factors: FactorsPlan = FactorsPlan()  # The levels of each factor.
    train: TrainPlan = TrainPlan()  # How to train.
    infer: InferPlan = InferPlan()  # How to infer.
    fleet: FleetPlan = FleetPlan()  # Where to run it; not a part of what is measured.

    @model_validator(mode="before")
    @classmethod
    def _fill_language_defaults(cls, document: Any) -> Any:
        """Give a plan of language models the defaults of such plans."""
        if not isinstance(document, dict):
            return document
        data, models = document.get("data", {}), document.get("models")
        if not isinstance(data, dict) or not isinstance(models, list):
            return document
        if any(_source(model) in _LANGUAGE.sources for model in models):
            data = {"name": TOKENS} | data
        if data.get("name") != TOKENS:
            return document
        filled: dict[str, Any] = {"phases": list(_LANGUAGE.phases)} | document | {"data": data}
        for table, defaults in _LANGUAGE_DEFAULTS.items():
            given: Any = filled.get(table, {})
            if isinstance(given, dict):
                filled[table] = defaults | given
        return filled

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        """Refuse what does not apply to the kind of models of the plan."""
        kind, other = (_LANGUAGE, _IMAGES) if self.is_language else (_IMAGES, _LANGUAGE)
        for model in self.models:
            if _source(model) in other.sources:
                raise _misfit(
                    f"{model} is one of the {other.name}, and data.name = {self.data.name!r} is "
                    f"for {kind.name}: a plan has models of one kind"
                )
        wrong = [f"factors.{name}" for name in other.factors if getattr(self.factors, name)]
        training = self.train.model_dump()
        wrong += [f"train.{name}" for name, out in other.training.items() if training[name] != out]
        if wrong:
            raise _misfit(f"{wrong[0]} does not apply to {kind.name}")
        for phase in self.phases:
            if phase not in kind.phases:
                raise _misfit(
                    f"phases: {phase} does not apply to {kind.name}; choose from "
                    + ", ".join(kind.phases)
                )
        if "fp16" in self.factors.precision and {*self.phases} - {"prefill", "decode"}:
            raise _misfit("factors.precision: fp16 is for prefill and decode alone; choose bf16")
        return self

    @property
    def is_language(self) -> bool:
        """Whether the models are language models; else they are models of images."""
        return self.data.name == TOKENS

    @property
    def varying_factors(self) -> list[str]:
        """The factors that have several levels."""
        return [name for name, levels in self.factors.levels().items() if len(levels) > 1]

    @property
    def cells(self) -> int:
        """Number of runs, without idle runs."""
        levels = self.factors.levels().values()
        return len(self.models) * math.prod(map(len, levels)) * self.repeats

    def to_dict(self) -> dict[str, Any]:
        """Return every key of what is measured; :meth:`model_validate` reads them back."""
        return self.model_dump(exclude_none=True, exclude={"fleet"})

    def to_toml(self) -> str:
        """Return the plan as TOML with all defaults; reading it back gives an equal plan."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def replaced(self, **changes: Any) -> Self:
        """Return the same plan with some top-level keys changed."""
        return type(self).model_validate({**self.to_dict(), "fleet": self.fleet, **changes})
