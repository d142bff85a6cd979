"""Calls of the driver's management library (NVML) through whichever ``pynvml`` Python imports.

nvidia-ml-py and the old package ``pynvml`` both bring a module of that name, and the old one's
directory hides the other's file. It gives bytes for text, takes no ``str``, and lacks newer
functions. Only this module imports it: texts are ``str`` on both sides, and whatever goes wrong is
an :class:`NvmlError`. Constants are numbers of NVML's ABI, since an old binding lacks some.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from ctypes import ArgumentError
from functools import partial
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, TypeVar

from joulelab.format import duration

_import_problem = ""
try:
    with warnings.catch_warnings():
        # The package pynvml warns of itself since version 12, which some turn into an error.
        warnings.simplefilter("ignore")
        import pynvml as _binding
except Exception as error:  # noqa: BLE001  (a package of that name may fail in any way)
    _binding, _import_problem = None, f"{type(error).__name__}: {error}"

SUCCESS = 0
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13

MIG_ENABLED = 1
VIRTUALIZATION_VGPU = 2
SAMPLES_TOTAL_POWER = 0
TEMPERATURE_GPU = 0
CLOCK_GRAPHICS = 0
CLOCK_SM = 1
CLOCK_MEMORY = 2
FIELD_POWER_INSTANT = 186
SCOPE_MODULE = 1
"""Power of the module that a GPU is soldered on, a superchip's processor and memory included."""

ANSWER_S = 25.0
"""A driver that has not answered by then hangs. To start takes it seconds for each GPU if nothing
keeps it loaded (nvidia-persistenced)."""

Answer = TypeVar("Answer")
_DRIVER_ERROR: type[Exception] = getattr(_binding, "NVMLError", OSError)
HIDING_PACKAGE = "pynvml"
UNINSTALL_HINT = f"run `pip uninstall {HIDING_PACKAGE}`"
UPGRADE_HINT = "run `pip install --upgrade nvidia-ml-py`"


class NvmlError(Exception):
    """A call failed.

    Attributes:
        code: What NVML returned, or :data:`FUNCTION_NOT_FOUND` for a binding without the function.
        hint: How to fix it, if that is known.
    """

    def __init__(self, message: str, code: int, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def call(function: str, *arguments: Any) -> Any:
    """Call a function of NVML by its name in C.

    Raises:
        NvmlError: The driver refuses, is too old or missing, or the binding cannot do it.
    """
    try:
        found = getattr(_binding, function)
    except AttributeError as error:
        raise _binding_error(f"it has no {function}") from error
    try:
        value = found(*[one.encode() if isinstance(one, str) else one for one in arguments])
    except _DRIVER_ERROR as error:
        raise _driver_error(error) from error
    except (ArgumentError, AttributeError, TypeError, ValueError) as error:
        raise _binding_error(f"{function}: {type(error).__name__}: {error}") from error
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def field_value(handle: Any, field: int, scope: int = 0) -> int:
    """Return an unsigned field of a GPU. Raises :class:`NvmlError` like :func:`call`."""
    found = call("nvmlDeviceGetFieldValues", handle, [(field, scope) if scope else field])[0]
    if found.nvmlReturn != SUCCESS:
        raise _driver_error(_DRIVER_ERROR(found.nvmlReturn))
    return int(found.value.uiVal)


def within(limit_s: float, ask: Callable[[], Answer]) -> Answer:
    """Return what a function that calls the driver returns, or raise what it raises.

    A driver that hangs cannot be interrupted: its thread is left behind.

    Raises:
        NvmlError: The function has not returned after this time.
    """
    answers: SimpleQueue[Callable[[], Answer]] = SimpleQueue()

    def serve() -> None:
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001  (raised below)
            answers.put(partial(_raise, error))
        else:
            answers.put(lambda: answer)

    threading.Thread(target=serve, name="joulelab-driver", daemon=True).start()
    try:
        found = answers.get(timeout=limit_s)
    except Empty:
        text = f"the driver has not answered for {duration(limit_s)}"
        raise NvmlError(text, TIMEOUT) from None
    return found()


def _raise(error: Exception) -> NoReturn:
    raise error


def _driver_error(error: Any) -> NvmlError:
    text = str(error)
    # Old bindings format the driver's bytes.
    text = text.removeprefix("b'").removesuffix("'").removesuffix(".")
    return NvmlError(text, int(error.value))


def _binding_error(problem: str) -> NvmlError:
    """Explain why the imported binding cannot make a call."""
    if _binding is None:
        text = f"the binding nvidia-ml-py cannot be imported: {_import_problem}"
        return NvmlError(text, FUNCTION_NOT_FOUND, UPGRADE_HINT)
    file = getattr(_binding, "__file__", None) or ""
    if Path(file).name != "__init__.py":
        # nvidia-ml-py is a single file.
        return NvmlError(f"the binding nvidia-ml-py fails: {problem}", FUNCTION_NOT_FOUND)
    try:
        name = f"{HIDING_PACKAGE} {metadata.version(HIDING_PACKAGE)}"
    except metadata.PackageNotFoundError:
        name = str(Path(file).parent)
    return NvmlError(f"{name} hides nvidia-ml-py: {problem}", FUNCTION_NOT_FOUND, UNINSTALL_HINT)
