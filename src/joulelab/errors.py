"""Every error that JouleLab raises on purpose.

::

    JoulelabError                 base class; ``exit_code`` 1
    ├── UserError                 the request cannot be fulfilled; ``exit_code`` 2
    │   ├── PlanError             a study plan is invalid
    │   ├── UnknownModelError     the registry has no such model
    │   ├── DatasetError          a data set is missing or unreadable
    │   ├── ControlError          a power limit or clock cannot be read or set
    │   └── StoreError            a file or directory cannot be read or written
    ├── RecorderError             the recorder did not start, or ended early
    ├── TraceError                a trace cannot be read
    ├── BudgetError               a run would exceed its budget of energy or carbon
    └── WorkloadError             training or inference failed; ``kind`` is the reason

Errors of other libraries (NVML, the file system, PyTorch) are mapped to these where they occur.
The message is one line: what failed, why, and how to fix it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class JoulelabError(Exception):
    """Base class of all errors raised on purpose.

    Args:
        what: What failed, without a full stop.
        why: The likely reason; may be empty.
        hint: How to fix it; may be empty.

    Example:
        >>> str(JoulelabError("cannot read /x", why="permission denied", hint="run chmod a+r /x"))
        'cannot read /x: permission denied; run chmod a+r /x'
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        self.what, self.why, self.hint = what, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        text = f"{text}; {self.hint}" if self.hint else text
        return " ".join(text.split())


class UserError(JoulelabError):
    """The request cannot be fulfilled. The command line exits with 2."""

    exit_code = 2


class PlanError(UserError):
    """A study plan is invalid."""


class UnknownModelError(UserError):
    """The registry has no such model."""


class DatasetError(UserError):
    """A data set is missing or unreadable."""


class ControlError(UserError):
    """A power limit or clock cannot be read or set."""


class StoreError(UserError):
    """A file or directory cannot be read or written."""


class RecorderError(JoulelabError):
    """The recorder did not start, or ended early."""


class TraceError(JoulelabError):
    """A trace cannot be read."""


class BudgetError(JoulelabError):
    """A run would exceed its budget of energy or carbon."""


class WorkloadError(JoulelabError):
    """Training or inference failed.

    ``kind`` is ``"out_of_memory"``, ``"non_finite_loss"``, ``"model_failed"`` or
    ``"input_failed"``; the other arguments are those of :class:`JoulelabError`.
    """

    def __init__(self, what: str, *, kind: str, why: str = "", hint: str = "") -> None:
        self.kind = kind
        super().__init__(what, why=why, hint=hint)


@contextmanager
def optional_packages(what: str, extra: str) -> Iterator[None]:
    """Report an import that fails, because a package is optional, with the extra that has it.

    Args:
        what: What needs the package, for example ``"cannot make a report"``.
        extra: An extra of JouleLab, for example ``"study"``.

    Raises:
        UserError: An import failed.

    Example:
        >>> with optional_packages("cannot dance", "study"):
        ...     import no_such_package
        Traceback (most recent call last):
        joulelab.errors.UserError: cannot dance: no_such_package is not installed; run pip install
        'joulelab[study]'
    """
    try:
        yield
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name
        why = f"{error.name} is not installed" if is_missing else str(error)
        raise UserError(what, why=why, hint=_install(extra)) from error


def require_packages(what: str, names: Iterable[str], extra: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        UserError: Some are not, as in :func:`optional_packages`.

    Example:
        >>> require_packages("cannot dance", ["json", "no_such_a", "no_such_b"], "study")
        Traceback (most recent call last):
        joulelab.errors.UserError: cannot dance: no_such_a, no_such_b are not installed; run pip
        install 'joulelab[study]'
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        why = f"{', '.join(missing)} {verb} not installed"
        raise UserError(what, why=why, hint=_install(extra))


def _install(extra: str) -> str:
    return f"run pip install 'joulelab[{extra}]'"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known name, or all of them if none is close.

    Example:
        >>> nearest("ResNet81", ["LeNet", "ResNet18"])
        'did you mean ResNet18?'
        >>> nearest("xyz", ["train", "infer"])
        'choose from train, infer'
    """
    import difflib  # noqa: PLC0415  (most runs have no such error)

    known = list(known)
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_lower[close[0]]}?"
    return f"choose from {', '.join(known)}"
