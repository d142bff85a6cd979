"""Build models of torchvision, timm, transformers and of any importable factory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from joulelab.errors import UnknownModelError, UserError
from joulelab.models import transformers_models
from joulelab.models.factories import call_factory, import_package, suggest_name

IMAGE_SIZE = 224
"""Height and width of a sample of an image model that does not state them (ImageNet's usual)."""


def build(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """Build a model by a canonical name with a colon; see :mod:`joulelab.models.registry`."""
    source, _, rest = name.partition(":")
    if source == "lm":
        return transformers_models.build_published(rest, options)
    packages = {
        "torchvision": _from_torchvision,
        "timm": _from_timm,
        "hf": transformers_models.build_configured,
    }
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
    return transformers_models.input_shape(name)


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
    models = import_package("torchvision.models", f"torchvision:{name}", hint)
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
    timm = import_package("timm", f"timm:{name}", "run pip install timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    return timm


def _from_factory(
    module: str, attribute: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    name = f"{module}:{attribute}"
    factory = find_factory(module, attribute)
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    accepted = {key: value for key, value in sizes.items() if _accepts(factory, key)}
    return call_factory(name, factory, **accepted, **options)


def find_factory(module: str, attribute: str) -> Any:
    """Import what builds a model.

    Raises:
        UnknownModelError: The module has no such function.
        UserError: The module cannot be imported.
    """
    name = f"{module}:{attribute}"
    factory: Any = import_package(
        module, name, "is the package installed, or its directory in PYTHONPATH?"
    )
    for part in attribute.split("."):
        if not hasattr(factory, part):
            public = [known for known in vars(factory) if not known.startswith("_")]
            raise UnknownModelError(
                f"no model {name!r}",
                why=f"{module} has no {attribute!r}",
                hint=suggest_name("", part, public, ""),
            )
        factory = getattr(factory, part)
    if not callable(factory):
        raise UnknownModelError(
            f"no model {name!r}", why=f"it is a {type(factory).__name__}, which cannot be called"
        )
    return factory


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


def _unknown(package: str, name: str, known: Iterable[str]) -> UnknownModelError:
    hint = suggest_name(f"{package}:", name, known, f"see the models in {package}'s list_models()")
    return UnknownModelError(f"{package} has no model {name!r}", hint=hint)
