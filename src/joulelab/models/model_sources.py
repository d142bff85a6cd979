"""Build models of torchvision, timm, transformers and of any importable factory."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from joulelab.errors import UnknownModelError, UserError

IMAGE_SIZE = 224
"""Height and width of a sample of an image model that does not state them (ImageNet's usual)."""
TOKENS = 128  # Of a sample of a text model, unless it accepts fewer.


def build(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """Build a model by a canonical name with a colon; see :mod:`joulelab.models.registry`."""
    source, _, rest = name.partition(":")
    packages = {"torchvision": _from_torchvision, "timm": _from_timm, "hf": _from_transformers}
    if source in packages:
        return packages[source](rest, num_classes, in_channels, options)
    return _from_factory(source, rest, num_classes, in_channels, options)


def input_shape(source: str, name: str) -> tuple[int, ...]:
    """Return the sample shape of a model; see :func:`joulelab.models.registry.default_input_shape`.

    ``source`` is ``torchvision``, ``timm`` or ``hf``.
    """
    if source == "torchvision":
        models = _torchvision_models(name)
        transforms = next(iter(models.get_model_weights(name.lower())), None)
        sizes = getattr(transforms and transforms.transforms(), "crop_size", (IMAGE_SIZE,))
        return (3, *(sizes * 2)[:2])
    if source == "timm":
        pretrained = _timm(name).get_pretrained_cfg(name)
        return tuple(pretrained.input_size) if pretrained else (3, IMAGE_SIZE, IMAGE_SIZE)
    return _shape_of_configuration(name, _transformers_configuration(name))


def _shape_of_configuration(name: str, config: Any) -> tuple[int, ...]:
    size = getattr(config, "image_size", None)
    if size is not None:
        height_width = (size, size) if isinstance(size, int) else tuple(size)
        return (getattr(config, "num_channels", 3), *height_width)
    if getattr(config, "vocab_size", None):
        return (min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS),)
    raise UserError(
        f"the input of hf:{name} is unknown",
        why="its configuration has neither image_size nor vocab_size",
        hint="state it with --input",
    )


def call_factory(
    name: str, factory: Callable[..., Any], *arguments: Any, **options: Any
) -> nn.Module:
    """Call a factory and map its errors to a UserError."""
    try:
        model = factory(*arguments, **options)
    except Exception as error:
        raise UserError(f"cannot build {name}", why=_describe(error)) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"cannot build {name}", why=f"it gives a {type(model).__name__}, not an nn.Module"
        )
    return model


def _from_torchvision(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    full_name = f"torchvision:{name}"
    models = _torchvision_models(name)
    name = name.lower()
    if in_channels != 3:
        raise UserError(
            f"cannot build {full_name}",
            why=f"models of torchvision accept 3 channels, not {in_channels}",
        )
    settings: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        settings["weights_backbone"] = None
    _refuse_weights(full_name, options)
    return call_factory(full_name, models.get_model, name, **settings, **options)


def _torchvision_models(name: str) -> Any:
    """Import the models of torchvision, and check that there is one of this name."""
    hint = "run pip install 'joulelab[study]'"
    models = _import("torchvision.models", f"torchvision:{name}", hint)
    if name.lower() not in models.list_models():
        raise _unknown("torchvision", name.lower(), models.list_models())
    return models


def _from_timm(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    full_name, timm = f"timm:{name}", _timm(name)
    settings = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    _refuse_weights(full_name, options)
    return call_factory(full_name, timm.create_model, name, **settings, **options)


def _timm(name: str) -> Any:
    """Import timm, and check that it has a model of this name."""
    timm = _import("timm", f"timm:{name}", "run pip install timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    return timm


def _transformers_configuration(name: str) -> Any:
    full_name = f"hf:{name}"
    transformers = _import("transformers", full_name, "run pip install transformers")
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if name not in types and not Path(name).exists():
        raise UnknownModelError(
            f"no configuration {full_name!r}",
            why="it is neither a path nor a model type of transformers",
            hint=_suggest("hf:", name, types, "give the path of a config.json"),
        )
    auto_config = transformers.AutoConfig
    try:
        if Path(name).exists():
            return auto_config.from_pretrained(name, local_files_only=True)
        return auto_config.for_model(name)
    except Exception as error:
        raise UserError(f"cannot build {full_name}", why=_describe(error)) from error


def _from_transformers(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    full_name, config = f"hf:{name}", _transformers_configuration(name)
    transformers = importlib.import_module("transformers")
    architecture = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    if architecture is not None:
        return call_factory(full_name, architecture, config, **options)
    config.num_labels = num_classes
    if hasattr(config, "num_channels"):
        config.num_channels = in_channels
    classifiers = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    auto = transformers.AutoModel
    if type(config) in classifiers:
        auto = transformers.AutoModelForImageClassification
    return call_factory(full_name, auto.from_config, config, **options)


def _from_factory(
    module: str, attribute: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    name = f"{module}:{attribute}"
    factory: Any = _import(
        module, name, "is the package installed, or its directory in PYTHONPATH?"
    )
    for part in attribute.split("."):
        if not hasattr(factory, part):
            public = [known for known in vars(factory) if not known.startswith("_")]
            raise UnknownModelError(
                f"no model {name!r}",
                why=f"{module} has no {attribute!r}",
                hint=_suggest("", part, public, ""),
            )
        factory = getattr(factory, part)
    if not callable(factory):
        raise UnknownModelError(
            f"no model {name!r}", why=f"it is a {type(factory).__name__}, which cannot be called"
        )
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    accepted = {key: value for key, value in sizes.items() if _accepts(factory, key)}
    return call_factory(name, factory, **accepted, **options)


def _refuse_weights(name: str, options: dict[str, Any]) -> None:
    asked = {"weights", "weights_backbone", "pretrained", "pretrained_backbone"} & options.keys()
    if asked:
        raise UserError(
            f"cannot build {name}",
            why=f"{', '.join(sorted(asked))} may download; models are built without weights",
        )


def _accepts(factory: Callable[..., Any], keyword: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # a callable written in C without a signature
        return False
    named = parameters.get(keyword)
    if named is not None:
        return named.kind is not inspect.Parameter.POSITIONAL_ONLY
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _import(module: str, name: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise UnknownModelError(
            f"cannot build {name}",
            why=f"importing {module} failed ({_describe(error)})",
            hint=hint if missing else "",
        ) from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _suggest(prefix: str, name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {prefix}{close[0]}?" if close else otherwise


def _unknown(package: str, name: str, known: Iterable[str]) -> UnknownModelError:
    hint = _suggest(f"{package}:", name, known, f"see the models in {package}'s list_models()")
    return UnknownModelError(f"{package} has no model {name!r}", hint=hint)
