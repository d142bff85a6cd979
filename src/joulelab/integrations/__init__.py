"""Energy in training frameworks and notebooks, one module each, imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = ("flower", "keras", "lightning", "notebook", "pytorch_lightning", "transformers")


def __getattr__(name: str) -> ModuleType:
    """Import a framework's module, which needs that framework."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_MODULES)
