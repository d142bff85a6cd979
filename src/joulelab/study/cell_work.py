"""The work of a study's cells: what differs between models of images and language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch

from joulelab.errors import UserError
from joulelab.models.characteristics import Characteristics, characterize
from joulelab.models.registry import build_model, has_random_weights, language_config
from joulelab.models.token_work import count_token_work
from joulelab.study.plan import Plan
from joulelab.workloads import classification, language
from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.phases import InferSettings, PhaseResult, PhaseSettings, TrainSettings
from joulelab.workloads.torch_runtime import build_seeded

Json = dict[str, Any]
Factors = Mapping[str, Any]

_COMMON_FACTORS = ("batch_size", "precision", "compile", "device")
_COUNTED_FACTORS = (
    "model", "prompt_tokens", "output_tokens", "cache", "attention", "precision", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """A phase of a cell, ready to run."""

    settings: PhaseSettings  # Its settings.
    # Runs it with settings, an observer, and options of the workload.
    run: Callable[..., PhaseResult]
    macs_per_token: float | None = None  # Multiply-accumulates of a token, if it processes tokens.


@dataclass(frozen=True)
class CellWork:
    """The model of a cell, described, and its phases by name, in order."""

    characteristics: Json
    phases: Mapping[str, Phase]


class Work(Protocol):
    """The work of all cells of a plan."""

    def describe(self) -> Json:
        """Describe the data."""

    def of_cell(self, factors: Factors, seed: int) -> CellWork:
        """Build the model of a cell, whose device is resolved, and its phases.

        Raises:
            JoulelabError: The cell cannot be run like this.
        """


def work_of(plan: Plan) -> Work:
    """Return the work of a plan's cells, with its data loaded.

    Raises:
        DatasetError: The data set is missing.
    """
    return LanguageWork(plan) if plan.is_language else ImageWork(plan)


class ImageWork:
    """Train and infer classifiers of images."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        options = plan.data
        self._data = load_dataset(
            options.name,
            root=options.root or None,
            download=options.download,
            image_size=options.image_size,
            synthetic=SyntheticOptions(
                train_count=options.train_count,
                test_count=options.test_count,
                num_classes=options.num_classes,
                structure=options.structure,
                seed=plan.seed,
            ),
        )

    def describe(self) -> Json:
        """Implement :class:`Work`."""
        data = self._data
        described = {name: getattr(data, name) for name in ("name", "origin", "real")}
        return described | {
            "train_count": len(data.train_images),
            "test_count": len(data.test_images),
            "num_classes": data.num_classes,
            "image_shape": list(data.image_shape),
        }

    def of_cell(self, factors: Factors, seed: int) -> CellWork:
        """Implement :class:`Work`."""
        plan, data = self._plan, self._data
        model = build_seeded(
            lambda: build_model(
                factors["model"], num_classes=data.num_classes, in_channels=data.image_shape[0]
            ),
            seed,
        )
        names = (*_COMMON_FACTORS, "memory_format", "input_path")
        common = {name: factors[name] for name in names}
        common["loader_workers"] = plan.data.loader_workers
        phases: dict[str, Phase] = {}
        for phase in plan.phases:
            if phase == "train":
                options = _training(plan, factors, seed) | {
                    "augment": plan.train.augment,
                    "validate": plan.train.validate_epochs,
                }
                train = partial(classification.train, model, data)
                phases[phase] = Phase(TrainSettings(**common, **options), train)
            else:
                settings = InferSettings(**common, **plan.infer.model_dump())
                phases[phase] = Phase(settings, partial(classification.infer, model, data))
        return CellWork(asdict(characterize(model, data.image_shape)), phases)


class LanguageWork:
    """Train language models, and prefill and decode with them.

    Raises:
        UserError: A model of the plan generates no text, or its weights cannot be loaded.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._configs = {name: language_config(name) for name in plan.models}
        self._counted: dict[tuple[Any, ...], tuple[Characteristics, dict[str, float]]] = {}
        for name, config in self._configs.items():
            if config is None and name.startswith("hf:"):
                raise UserError(
                    f"{name} is no language model",
                    why="its architecture does not generate text",
                    hint="leave out data.name = 'tokens' for a model of images",
                )

    def describe(self) -> Json:
        """Implement :class:`Work`."""
        data = self._plan.data
        mixtures = [name for name, one in self._configs.items() if one and one.experts]
        return {
            "name": data.name,
            "origin": "random token ids",
            "real": False,
            "train_count": data.train_count,
            "test_count": data.test_count,
            "random_weights": [name for name in self._plan.models if has_random_weights(name)],
            "mixtures": mixtures,
        }

    def of_cell(self, factors: Factors, seed: int) -> CellWork:
        """Implement :class:`Work`."""
        plan, name, prompt_tokens = self._plan, factors["model"], factors["prompt_tokens"]
        output_tokens, cache = factors["output_tokens"], factors["cache"]
        options: Json = {"attention": language.ATTENTION[factors["attention"]]}
        config = self._configs[name]
        if config is not None:
            decoded = output_tokens if "decode" in plan.phases else 0
            config.require_length(prompt_tokens + decoded, name)
            trained = "train" in plan.phases
            options["dtype"] = torch.float32 if trained else language.DTYPES[factors["precision"]]
        # Billions of random weights are created faster where they are needed.
        model = build_seeded(lambda: build_model(name, **options), seed, factors["device"])
        described, macs = self._count(model, factors)
        common = {factor: factors[factor] for factor in _COMMON_FACTORS}
        phases: dict[str, Phase] = {}
        if "train" in plan.phases:
            training = language.LanguageTrainSettings(
                **common,
                **_training(plan, factors, seed),
                sequences=plan.data.train_count,
                sequence_tokens=prompt_tokens,
                gradient_accumulation_steps=plan.train.gradient_accumulation_steps or 1,
            )
            phases["train"] = Phase(training, partial(language.train, model), macs["train"])
        generating = [phase for phase in plan.phases if phase != "train"]
        if generating:
            settings = language.GenerateSettings(
                **common,
                **plan.infer.model_dump(),
                sequences=plan.data.test_count,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                cache=cache,
                seed=seed,
            )
            for phase in generating:
                run = partial(language.generate, phase, model)
                phases[phase] = Phase(settings, run, macs[phase])
        return CellWork(asdict(described), phases)

    def _count(
        self, model: torch.nn.Module, factors: Factors
    ) -> tuple[Characteristics, dict[str, float]]:
        """Describe a model, and count the operations of a token in each phase.

        Cells that differ in nothing that matters for it share this: it takes seconds.
        """
        key = tuple(factors[name] for name in _COUNTED_FACTORS)
        if key not in self._counted:
            tokens = factors["prompt_tokens"]
            described = characterize(model, (tokens,), name=factors["model"])
            macs: dict[str, float] = {
                phase: described.macs / tokens
                if phase == "train"
                else _macs_per_token(model, phase, factors)
                for phase in self._plan.phases
            }
            self._counted[key] = described, macs
        return self._counted[key]


def _macs_per_token(model: torch.nn.Module, phase: str, factors: Factors) -> float:
    """Count the operations of a token in prefill, or in decoding at the mean context."""
    prompt_tokens, name = factors["prompt_tokens"], factors["model"]
    if phase == "prefill":
        return count_token_work(model, prompt_tokens, name=name).prefill_macs_per_token
    middle = count_token_work(model, prompt_tokens + factors["output_tokens"] // 2, name=name)
    # Without a cache, each token is computed from the whole sequence.
    return float(middle.prefill_macs if factors["cache"] == "none" else middle.decode_macs)


def _training(plan: Plan, factors: Factors, seed: int) -> Json:
    """Return the settings of training that all kinds of models share."""
    names = ("epochs", "steps", "seconds", "warmup_steps", "learning_rate", "momentum",
             "weight_decay")  # fmt: skip
    options = {name: getattr(plan.train, name) for name in names}
    if plan.train.most_epochs is not None and plan.train.epochs is not None:
        options["epochs"] = min(plan.train.epochs, plan.train.most_epochs)
    return options | {"optimizer": factors["optimizer"], "seed": seed}
