"""Call the factories of other packages, and map their errors to JouleLab's."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from joulelab.errors import UnknownModelError, UserError


def call_factory(
    name: str, factory: Callable[..., Any], *arguments: Any, **options: Any
) -> nn.Module:
    """Call a factory and map its errors to a UserError."""
    try:
        model = factory(*arguments, **options)
    except Exception as error:
        raise UserError(f"cannot build {name}", why=describe_error(error)) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"cannot build {name}", why=f"it gives a {type(model).__name__}, not an nn.Module"
        )
    return model


def import_package(module: str, name: str, hint: str) -> Any:
    """Import a module that a model needs; ``hint`` says how to install it."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise UnknownModelError(
            f"cannot build {name}",
            why=f"importing {module} failed ({describe_error(error)})",
            hint=hint if missing else "",
        ) from error


def describe_error(error: Exception) -> str:
    """Describe an error of another package by its type and message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def suggest_name(prefix: str, name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint with the known name that is closest, if one is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {prefix}{close[0]}?" if close else otherwise
