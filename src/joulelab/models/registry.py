"""Models by name: the zoo, torchvision, timm, transformers, and anything that can be imported.

======================= ====================================================================
``ResNet18``            a model of the zoo; case, ``-``, ``_``, ``.`` and spaces do not matter
``torchvision:NAME``    :func:`torchvision.models.get_model`, without weights
``timm:NAME``           ``timm.create_model``, without weights
``hf:CONFIG``           a configuration of Hugging Face's transformers: the path of a config.json
                        or of its directory, or a type of model, as ``bert``
``package.module:NAME`` any class or function that gives an ``nn.Module``
======================= ====================================================================

Building never touches the network: weights are always freshly initialised. (What a factory of the
user's does is the user's affair.) Names can be listed and checked without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulelab.errors import UnknownModelError, UserError, nearest

if TYPE_CHECKING:
    from torch import nn

_PAPER = {
    "SimpleDLA": "dla:simple_dla",
    "DPN26": "dpn:dpn26",
    "DenseNet121": "densenet:densenet121",
    "EfficientNetB0": "efficientnet:efficientnet_b0",
    "GoogLeNet": "googlenet:googlenet",
    "LeNet": "lenet:lenet",
    "MobileNet": "mobilenet:mobilenet",
    "MobileNetV2": "mobilenet:mobilenet_v2",
    "PNASNetB": "pnasnet:pnasnet_b",
    "PreActResNet18": "resnet:preact_resnet18",
    "RegNetX_200MF": "grouped:regnet_x_200mf",
    "ResNet18": "resnet:resnet18",
    "ResNeXt29_2x64d": "grouped:resnext29_2x64d",
    "SENet18": "resnet:senet18",
    "ShuffleNetV2": "shufflenet:shufflenet_v2",
    "VGG16": "vgg:vgg16",
}
_VARIANTS = {
    "PNASNetA": "pnasnet:pnasnet_a",
    "ShuffleNetV2_0.5": "shufflenet:shufflenet_v2_half",
    "VGG19": "vgg:vgg19",
}
_BUILDERS = _PAPER | _VARIANTS
"""Canonical name to module and function under :mod:`joulelab.models`."""

_ALIASES = {
    "DLA": "SimpleDLA",
    "DPN": "DPN26",
    "DenseNet": "DenseNet121",
    "EfficientNet": "EfficientNetB0",
    "LeNet5": "LeNet",
    "MobileNetV1": "MobileNet",
    "PNASNet": "PNASNetB",
    "PreActResNet": "PreActResNet18",
    "RegNet": "RegNetX_200MF",
    "ResNet": "ResNet18",
    "ResNeXt": "ResNeXt29_2x64d",
    "ResNeXt29": "ResNeXt29_2x64d",
    "SENet": "SENet18",
    "ShuffleNetV2_1x": "ShuffleNetV2",
    "ShuffleNetV2_1.0": "ShuffleNetV2",
    "ShuffleNetV2_0.5x": "ShuffleNetV2_0.5",
    "VGG": "VGG16",
}

OTHER_FORMS = ("torchvision:NAME", "timm:NAME", "hf:CONFIG", "package.module:factory")
"""The forms of names beside those of the zoo."""


def zoo_names() -> list[str]:
    """The 16 models of the paper, in its order.

    Example:
        >>> len(zoo_names()), zoo_names()[0]
        (16, 'SimpleDLA')
    """
    return list(_PAPER)


def registered_names() -> list[str]:
    """Every name of the zoo: the paper's 16, then their variants."""
    return list(_BUILDERS)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "-_. ")


_BY_PLAIN_NAME = {_plain(name): name for name in _BUILDERS} | {
    _plain(alias): name for alias, name in _ALIASES.items()
}


def canonical_name(name: str) -> str:
    """The one spelling of a model's name.

    Names of the zoo are looked up. Of the others only the form is checked, for the rest would need
    imports; :func:`build_model` checks it.

    Args:
        name: As the user wrote it.

    Raises:
        UnknownModelError: The zoo has no such model, or a name with a colon has an empty part.

    Example:
        >>> canonical_name("resnet-18"), canonical_name("PNASNet"), canonical_name("timm: vit_tiny")
        ('ResNet18', 'PNASNetB', 'timm:vit_tiny')
    """
    source, colon, rest = (part.strip() for part in name.partition(":"))
    if colon:
        if not source or not rest:
            raise UnknownModelError(
                f"no model {name!r}", why="a part is empty", hint=f"write {_or(OTHER_FORMS)}"
            )
        prefix = source.lower()
        return f"{prefix if prefix in _SOURCES else source}:{rest}"
    found = _BY_PLAIN_NAME.get(_plain(name))
    if found is None:
        raise UnknownModelError(
            f"no model {name!r}",
            hint=f"{nearest(name, _BUILDERS)} (or {_or(OTHER_FORMS)})",
        )
    return found


def parse_input_shape(text: str) -> tuple[int, ...]:
    """Parse the shape of one sample.

    Raises:
        UserError: It is not written like ``3x32x32``, or ``128`` for tokens.

    Example:
        >>> parse_input_shape("3x224x224"), parse_input_shape("128")
        ((3, 224, 224), (128,))
    """
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){0,3}", text, re.ASCII):
        raise UserError(
            f"{text!r} is not the shape of a sample",
            hint="write CHANNELSxHEIGHTxWIDTH, for example 3x32x32, or the number of tokens",
        )
    return tuple(map(int, text.split("x")))


def require_torch() -> None:
    """Does nothing where PyTorch is installed.

    Raises:
        UserError: It is not, and there are no models without it.
    """
    try:
        import torch  # noqa: F401, PLC0415 - names are listed and checked without torch
    except ModuleNotFoundError as error:
        raise UserError(
            "models need PyTorch", why=str(error), hint="run pip install 'joulelab[study]'"
        ) from error


def build_model(
    name: str, *, num_classes: int = 10, in_channels: int = 3, **options: Any
) -> nn.Module:
    """A freshly initialised model, on PyTorch's default device, in training mode.

    Args:
        name: See the top of this module.
        num_classes: Scores that the model gives for each image; >= 1. An imported factory that
            does not take it decides for itself.
        in_channels: Channels of the images; >= 1. An imported factory that does not take it
            decides for itself.
        **options: Handed to the model's constructor as they are.

    Returns:
        The model. Those of the zoo map ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    Raises:
        UnknownModelError: There is no such model.
        UserError: The model cannot be built as asked, or its package cannot be imported.

    Example:
        >>> sum(p.numel() for p in build_model("lenet", num_classes=10).parameters())
        62006
    """
    if num_classes < 1 or in_channels < 1:
        raise UserError(
            f"cannot build {name!r}",
            why=f"num_classes={num_classes} and in_channels={in_channels} must be 1 or more",
        )
    canonical = canonical_name(name)
    require_torch()
    source, colon, rest = canonical.partition(":")
    if not colon:
        return _from_zoo(canonical, num_classes, in_channels, options)
    build = _SOURCES.get(source)
    if build is not None:
        return build(rest, num_classes, in_channels, options)
    return _from_factory(source, rest, num_classes, in_channels, options)


def _from_zoo(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    module, _, function = _BUILDERS[name].partition(":")
    factory = getattr(importlib.import_module(f"joulelab.models.{module}"), function)
    return _call(name, factory, num_classes=num_classes, in_channels=in_channels, **options)


def _from_torchvision(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    full_name = f"torchvision:{name}"
    models = _import("torchvision.models", full_name, "run pip install 'joulelab[study]'")
    name = name.lower()
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    if in_channels != 3:
        raise UserError(
            f"cannot build {full_name}",
            why=f"torchvision's models take 3 channels, not {in_channels}",
        )
    settings: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        settings["weights_backbone"] = None
    _refuse_weights(full_name, options)
    return _call(full_name, models.get_model, name, **settings, **options)


def _from_timm(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    full_name = f"timm:{name}"
    timm = _import("timm", full_name, "run pip install timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    settings = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    _refuse_weights(full_name, options)
    return _call(full_name, timm.create_model, name, **settings, **options)


def _from_transformers(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    full_name = f"hf:{name}"
    transformers = _import("transformers", full_name, "run pip install transformers")
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if Path(name).exists():
        read = transformers.AutoConfig.from_pretrained
        config = _configuration(full_name, read, name, local_files_only=True)
    elif name in types:
        config = _configuration(full_name, transformers.AutoConfig.for_model, name)
    else:
        close = _closest(name, types)
        raise UnknownModelError(
            f"no configuration {full_name!r}",
            why="it is neither a path nor a type of model that transformers has",
            hint=f"did you mean hf:{close}?" if close else "give the path of a config.json",
        )
    named = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    if named is not None:
        return _call(full_name, named, config, **options)
    config.num_labels = num_classes
    if hasattr(config, "num_channels"):
        config.num_channels = in_channels
    classifiers = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    auto = transformers.AutoModel
    if type(config) in classifiers:
        auto = transformers.AutoModelForImageClassification
    return _call(full_name, auto.from_config, config, **options)


def _configuration(name: str, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return read(*arguments, **options)
    except Exception as error:
        raise UserError(f"cannot build {name}", why=_describe(error)) from error


def _refuse_weights(name: str, options: dict[str, Any]) -> None:
    asked = {"weights", "weights_backbone", "pretrained", "pretrained_backbone"} & options.keys()
    if asked:
        raise UserError(
            f"cannot build {name}",
            why=f"{', '.join(sorted(asked))} may download; models are built without weights",
        )


_SOURCES: dict[str, Callable[[str, int, int, dict[str, Any]], nn.Module]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "hf": _from_transformers,
}


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
            close = _closest(part, public)
            raise UnknownModelError(
                f"no model {name!r}",
                why=f"{module} has no {attribute!r}",
                hint=f"did you mean {close}?" if close else "",
            )
        factory = getattr(factory, part)
    if not callable(factory):
        raise UnknownModelError(
            f"no model {name!r}", why=f"it is a {type(factory).__name__}, which cannot be called"
        )
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    taken = {key: value for key, value in sizes.items() if _takes(factory, key)}
    return _call(name, factory, **taken, **options)


def _takes(factory: Callable[..., Any], keyword: str) -> bool:
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


def _call(name: str, factory: Callable[..., Any], *arguments: Any, **options: Any) -> nn.Module:
    from torch import nn  # noqa: PLC0415

    try:
        model = factory(*arguments, **options)
    except Exception as error:
        raise UserError(f"cannot build {name}", why=_describe(error)) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"cannot build {name}", why=f"it gives a {type(model).__name__}, not an nn.Module"
        )
    return model


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _closest(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def _unknown(package: str, name: str, known: Iterable[str]) -> UnknownModelError:
    close = _closest(name, known)
    return UnknownModelError(
        f"{package} has no model {name!r}",
        hint=f"did you mean {package}:{close}?"
        if close
        else f"{package}'s list_models() lists what it has",
    )


def _or(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
