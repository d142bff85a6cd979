"""Models by name: those of the paper, language models, torchvision, timm, transformers, and others.

======================= ===========================================================================
``ResNet18``            a model of the paper; case, ``-``, ``_``, ``.`` and spaces do not matter
``torchvision:NAME``    :func:`torchvision.models.get_model`, without weights
``timm:NAME``           ``timm.create_model``, without weights
``lm:NAME``             a published language model, with random weights, for example ``lm:gpt2``;
                        see :func:`joulelab.models.language_models.published_names`
``hf:CONFIG``           a configuration of Hugging Face's transformers: the path of a config.json
                        or of its directory, or a model type, for example ``bert``. A language model
                        gets the weights that the directory has as safetensors
``package.module:NAME`` any class or function that returns an ``nn.Module``
======================= ===========================================================================

Building never uses the network: all other weights are freshly initialised. (A user's factory may
do what it likes.) Names can be listed and checked without importing torch.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from joulelab.errors import UnknownModelError, UserError, nearest, optional_packages
from joulelab.format import join_words
from joulelab.models.language_models import (
    TOKENS,
    LanguageConfig,
    published_configuration,
    published_name,
)

if TYPE_CHECKING:
    from torch import nn

_PAPER_MODELS = {
    "SimpleDLA": ("residual_models:simple_dla", "DLA"),
    "DPN26": ("residual_models:dpn26", "DPN"),
    "DenseNet121": ("branched_models:densenet121", "DenseNet"),
    "EfficientNetB0": ("depthwise_models:efficientnet_b0", "EfficientNet"),
    "GoogLeNet": ("branched_models:googlenet",),
    "LeNet": ("sequential_models:lenet", "LeNet5"),
    "MobileNet": ("depthwise_models:mobilenet", "MobileNetV1"),
    "MobileNetV2": ("depthwise_models:mobilenet_v2",),
    "PNASNetB": ("branched_models:pnasnet_b", "PNASNet"),
    "PreActResNet18": ("residual_models:preact_resnet18", "PreActResNet"),
    "RegNetX_200MF": ("residual_models:regnet_x_200mf", "RegNet"),
    "ResNet18": ("residual_models:resnet18", "ResNet"),
    "ResNeXt29_2x64d": ("residual_models:resnext29_2x64d", "ResNeXt", "ResNeXt29"),
    "SENet18": ("residual_models:senet18", "SENet"),
    "ShuffleNetV2": ("depthwise_models:shufflenet_v2", "ShuffleNetV2_1x", "ShuffleNetV2_1.0"),
    "VGG16": ("sequential_models:vgg16", "VGG"),
}
ZOO = _PAPER_MODELS | {
    "PNASNetA": ("branched_models:pnasnet_a",),
    "ShuffleNetV2_0.5": ("depthwise_models:shufflenet_v2_half", "ShuffleNetV2_0.5x"),
    "VGG19": ("sequential_models:vgg19",),
}
"""Module and function under :mod:`joulelab.models`, and aliases, of each model in the zoo: those of
the paper and their variants."""

PAPER_INPUT = (3, 32, 32)
"""Shape of one sample of the models in the zoo: an image of CIFAR-10."""
PREFIXES = ("lm", "torchvision", "timm", "hf")
OTHER_FORMS = ("lm:NAME", "torchvision:NAME", "timm:NAME", "hf:CONFIG", "package.module:factory")
"""Forms of names other than those of the zoo."""


def zoo_names() -> list[str]:
    """Return the 16 models of the paper, in its order.

    Example:
        >>> len(zoo_names()), zoo_names()[0]
        (16, 'SimpleDLA')
    """
    return list(_PAPER_MODELS)


def _normalise(name: str) -> str:
    return re.sub("[-_. ]", "", name.lower())


_BY_NORMALISED_NAME = {
    _normalise(alias): name for name, (_, *aliases) in ZOO.items() for alias in (name, *aliases)
}


def canonical_name(name: str) -> str:
    """Return the canonical spelling of a model's name.

    Names of the zoo and of language models are looked up. Of other names only the form is checked,
    because more would need imports; :func:`build_model` checks the rest.

    Raises:
        UnknownModelError: The zoo has no such model, or a part of a name with a colon is empty.

    Example:
        >>> canonical_name("resnet-18"), canonical_name("PNASNet"), canonical_name("timm: vit_tiny")
        ('ResNet18', 'PNASNetB', 'timm:vit_tiny')
    """
    forms = join_words(OTHER_FORMS, "or")
    source, colon, rest = (part.strip() for part in name.partition(":"))
    if colon:
        if not source or not rest:
            raise UnknownModelError(
                f"no model {name!r}", why="a part is empty", hint=f"write {forms}"
            )
        source = source.lower() if source.lower() in PREFIXES else source
        return f"{source}:{published_name(rest) if source == 'lm' else rest}"
    found = _BY_NORMALISED_NAME.get(_normalise(name))
    if found is None:
        raise UnknownModelError(f"no model {name!r}", hint=f"{nearest(name, ZOO)} (or {forms})")
    return found


def parse_input_shape(text: str) -> tuple[int, ...]:
    """Parse the shape of one sample, written like ``3x32x32``, or ``128`` for tokens.

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


def default_input_shape(name: str) -> tuple[int, ...]:
    """Return the shape of one sample that a model is made for, as far as its source states it.

    It is 3x32x32 for the zoo, what the weights of torchvision and timm were trained on, the image
    size of a vision configuration of transformers, and at most 128 tokens for one of text.
    Factories do not state it: 3x32x32 is assumed.

    Raises:
        UnknownModelError: There is no such model.
        UserError: A configuration of transformers states neither an image size nor a vocabulary.
    """
    source, colon, rest = canonical_name(name).partition(":")
    if not colon or source not in PREFIXES:
        return PAPER_INPUT
    if source == "lm":
        return (TOKENS,)
    require_torch()
    from joulelab.models import model_sources  # noqa: PLC0415 - imports torch

    return model_sources.input_shape(source, rest)


def language_config(name: str) -> LanguageConfig | None:
    """Return the sizes of a language model; ``None`` for a model that does not generate text.

    Neither torch nor transformers is needed for ``lm:`` names.

    Raises:
        UnknownModelError: There is no such model.
        UserError: The configuration of a language model lacks a size.

    Example:
        >>> language_config("lm:gpt2").layers, language_config("ResNet18")
        (12, None)
    """
    source, colon, rest = canonical_name(name).partition(":")
    if source == "lm":
        return LanguageConfig.from_configuration(published_configuration(rest))
    if not colon or source != "hf":
        return None
    require_torch()
    from joulelab.models import transformers_models  # noqa: PLC0415 - imports torch

    return transformers_models.language_config(rest)


def has_random_weights(name: str) -> bool:
    """Report whether a model is built with random weights; only ``hf:FOLDER`` may have others.

    Raises:
        UserError: The folder has weights only as pickles.
    """
    source, _, rest = canonical_name(name).partition(":")
    if language_config(name) is None or source != "hf":
        return True
    from joulelab.models import transformers_models  # noqa: PLC0415 - imports torch

    return not transformers_models.has_local_weights(rest)


def check_factory(name: str) -> None:
    """Import the user's function that builds a model, if the name is one of ``module:function``.

    Raises:
        UnknownModelError: The module has no such function.
        UserError: The module cannot be imported.
    """
    module, _, attribute = canonical_name(name).partition(":")
    if attribute and module not in PREFIXES:
        require_torch()
        from joulelab.models.model_sources import find_factory  # noqa: PLC0415 - imports torch

        find_factory(module, attribute)


def require_torch() -> None:
    """Raise a UserError that names the extra to install if PyTorch is missing."""
    with optional_packages("cannot build models", "study"):
        import torch  # noqa: F401, PLC0415 - names are listed and checked without torch


def build_model(
    name: str, *, num_classes: int = 10, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Build a freshly initialised model, on PyTorch's default device, in training mode.

    Args:
        name: Name of the model, in one of the forms of this module.
        num_classes: Scores per image; >= 1. Ignored by imported factories that do not accept it.
        in_channels: Channels of the images; >= 1. Ignored by imported factories that do not
            accept it.
        **options: Passed to the model's constructor. Those of a language model are ``dtype`` (the
            weights', for example ``"bfloat16"``; default: that of its configuration), ``device``
            and ``attention`` (``"sdpa"``, ``"eager"``, ...).

    Returns:
        The model. Those of the zoo map ``(N, in_channels, H, W)`` to ``(N, num_classes)``;
        language models map token ids ``(N, tokens)`` to an object with ``logits``
        ``(N, tokens, vocabulary)``.

    Raises:
        UnknownModelError: There is no such model.
        UserError: The model cannot be built with these options, or importing it failed.

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
    from joulelab.models import factories, model_sources  # noqa: PLC0415 - import torch

    if ":" in canonical:
        return model_sources.build(canonical, num_classes, in_channels, options)
    module, _, function = ZOO[canonical][0].partition(":")
    factory = getattr(importlib.import_module(f"joulelab.models.{module}"), function)
    return factories.call_factory(
        canonical, factory, num_classes=num_classes, in_channels=in_channels, **options
    )
