"""Build models of Hugging Face's transformers from configurations, without the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from joulelab.errors import UnknownModelError, UserError
from joulelab.format import count
from joulelab.models.characteristics import is_weightless, weightless
from joulelab.models.factories import call_factory, describe_error, import_package, suggest_name
from joulelab.models.language_models import TOKENS, LanguageConfig, published_configuration

_INSTALL = "run pip install 'joulelab[study]'"
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_RANDOM_VALUES = 4_194_301  # drawn once; a prime, so that no two rows of a matrix are equal


def input_shape(name: str) -> tuple[int, ...]:
    """Return the shape of a sample of a configuration: an image, or a number of tokens."""
    config = _configuration(name)
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


def language_config(name: str) -> LanguageConfig | None:
    """Return the sizes of ``hf:NAME``; ``None`` unless it is a model that generates text."""
    config = _configuration(name)
    if _language_class(config) is None:
        return None
    return LanguageConfig.from_configuration(config.get_text_config().to_dict())


def build_published(name: str, options: dict[str, Any]) -> nn.Module:
    """Build ``lm:NAME`` with random weights.

    ``options`` are those of :func:`_build_language_model`.
    """
    full_name = f"lm:{name}"
    transformers = import_package("transformers", full_name, _INSTALL)
    settings = published_configuration(name)
    kind, dtype = settings.pop("model_type"), settings.pop("dtype")
    try:
        config = transformers.AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise UserError(
            f"cannot build {full_name}",
            why=f"transformers {transformers.__version__} has no {kind}",
            hint="run pip install --upgrade transformers",
        ) from error
    architecture = _language_class(config)
    return call_factory(
        full_name, _build_language_model, architecture, config, **({"dtype": dtype} | options)
    )


def build_configured(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    """Build ``hf:NAME``: a language model as ``lm:`` names are, others by their constructor."""
    full_name, config = f"hf:{name}", _configuration(name)
    language_class = _language_class(config)
    if language_class is not None:
        _refuse_quantised(full_name, config)
        folder = Path(name) if has_local_weights(name) else None
        return call_factory(
            full_name, _build_language_model, language_class, config, folder, **options
        )
    transformers = import_package("transformers", full_name, _INSTALL)
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


def has_local_weights(name: str) -> bool:
    """Report whether ``hf:NAME`` is a folder with weights that can be loaded.

    Raises:
        UserError: It has weights only as pickles, which can run code when they are loaded.
    """
    folder = Path(name)
    if any((folder / known).exists() for known in _SAFE_WEIGHTS):
        return True
    pickled = next(folder.glob("pytorch_model*.bin"), None)
    if pickled is not None:
        raise UserError(
            f"cannot load {pickled}",
            why="pickled weights can run any code",
            hint=f"convert them to model.safetensors, or name {folder / 'config.json'} "
            "for random weights",
        )
    return False


def _refuse_quantised(full_name: str, config: Any) -> None:
    stated = getattr(config, "quantization_config", None)
    if stated is not None:
        method = stated.get("quant_method", "") if isinstance(stated, dict) else ""
        raise UserError(
            f"cannot build {full_name}",
            why=f"its weights are quantised ({method})" if method else "its weights are quantised",
            hint="to build it unquantised, remove quantization_config from a copy of config.json",
        )


def _configuration(name: str) -> Any:
    """Read a configuration from a path, or create the default one of a model type."""
    full_name = f"hf:{name}"
    transformers = import_package("transformers", full_name, _INSTALL)
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if name not in types and not Path(name).exists():
        raise UnknownModelError(
            f"no configuration {full_name!r}",
            why="it is neither a path nor a model type of transformers",
            hint=suggest_name("hf:", name, types, "give the path of a config.json"),
        )
    auto_config = transformers.AutoConfig
    try:
        if Path(name).exists():
            return auto_config.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        return auto_config.for_model(name)
    except Exception as error:
        raise UserError(f"cannot build {full_name}", why=describe_error(error)) from error


def _language_class(config: Any) -> Any:
    """Return the class of a model that generates text; ``None`` for other models.

    Without ``architectures``, a type that transformers has with masked tokens too is an encoder.
    """
    import transformers  # noqa: PLC0415 - the configuration has imported it

    generating: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in generating:
        return None
    found = generating[type(config)]
    if config.architectures:
        return found if found.__name__ in config.architectures else None
    encoder = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    return None if encoder or config.is_encoder_decoder else found


def _build_language_model(
    architecture: Any,
    config: Any,
    folder: Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: str | None = None,
) -> nn.Module:
    """Build a language model with weights of their data type on their device.

    Random weights are created there. Those of a folder pass through the CPU in that type.
    """
    dtype = _torch_dtype(dtype) or _stated_dtype(config) or torch.get_default_dtype()
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype)
    if attention is not None:
        config._attn_implementation = attention
    device = torch.get_default_device() if device is None else torch.device(device)
    without_weights = is_weightless()
    if folder is not None and not without_weights:
        return _load(architecture, config, folder, dtype).to(device)
    with _default_dtype(dtype), weightless(), torch.device("cpu"):
        model: nn.Module = architecture(config)
    if not without_weights:
        _create_weights(model, device, getattr(config, "initializer_range", None) or 0.02)
    return model


def _load(architecture: Any, config: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    dtype_name = "dtype" if hasattr(config, "dtype") else "torch_dtype"
    with torch.device("cpu"):
        model, report = architecture.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{dtype_name: dtype},
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"its weights lack {count(len(missing), 'tensor')}, first {missing[0]}")
    loaded: nn.Module = model.train()
    return loaded


def _torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{dtype!r} is not a data type of PyTorch")
    return found


def _stated_dtype(config: Any) -> torch.dtype | None:
    old_name = not hasattr(config, "dtype")  # before transformers 4.56
    return _torch_dtype(getattr(config, "torch_dtype" if old_name else "dtype", None))


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _create_weights(model: nn.Module, device: torch.device, spread: float) -> None:
    """Replace the weights without memory of a model by random ones; move its buffers.

    Matrices are normal with the standard deviation ``spread``, as transformers initialises them;
    biases are zeros and scales of normalisation ones. Drawing billions of values takes minutes on
    a CPU, so the values of all matrices repeat a few millions.
    """
    values = torch.randn(_RANDOM_VALUES, device=device) * spread
    created, position = WeakIdKeyDictionary(), 0  # shared weights stay shared
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
        for name, empty in module._parameters.items():
            if empty is None:
                continue
            if empty not in created:
                tensor = torch.empty(empty.shape, dtype=empty.dtype, device=device)
                if tensor.ndim < 2:
                    tensor.fill_(0.0 if name.endswith("bias") else 1.0)
                else:
                    position = _fill(tensor, values, position)
                created[empty] = nn.Parameter(tensor, requires_grad=empty.requires_grad)
            module._parameters[name] = created[empty]


def _fill(tensor: torch.Tensor, values: torch.Tensor, position: int) -> int:
    """Fill a tensor with values from a position on, over and over; return the next position."""
    flat, period = tensor.view(-1), len(values)
    cycle = values.roll(-position).to(tensor.dtype)
    whole = flat.numel() // period * period
    flat[:whole].view(-1, period).copy_(cycle)
    flat[whole:].copy_(cycle[: flat.numel() - whole])
    return (position + flat.numel()) % period
