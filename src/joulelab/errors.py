"""Every error that JouleLab raises on purpose.

::

    JoulelabError                 base of all; ``exit_code`` 1
    ├── UserError                 the request cannot be met as given; ``exit_code`` 2
    │   ├── PlanError             a study plan is malformed
    │   ├── UnknownModelError     no such model in the registry
    │   ├── DatasetError          a data set is missing or unreadable
    │   └── StoreError            a file, or a directory of runs, cannot be used
    ├── SensorError               a sensor cannot be opened or read
    ├── RecorderError             the recorder did not start, or died
    ├── WorkloadError             training or inference failed; ``kind`` says how
    ├── BudgetError               a run would go over its budget of energy or carbon
    └── TraceError                a trace cannot be read

Foreign errors (NVML, the file system, PyTorch) are mapped to these where they enter.
The message is one line: what happened, the likely reason, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class JoulelabError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What happened, without a full stop.
        why: The likely reason; may be empty.
        hint: What the user can do about it; may be empty.

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
    """The request cannot be met as given. The command line exits with 2."""

    exit_code = 2


class PlanError(UserError):
    """A study plan is malformed."""


class UnknownModelError(UserError):
    """No model of that name is in the registry."""


class DatasetError(UserError):
    """A data set is missing or unreadable."""


class StoreError(UserError):
    """A file, or the directory of a run or a study, cannot be used."""


class SensorError(JoulelabError):
    """A sensor cannot be opened or read."""


class RecorderError(JoulelabError):
    """The recorder did not start, or died."""


class TraceError(JoulelabError):
    """A trace cannot be read."""


class BudgetError(JoulelabError):
    """A run would go over its budget of energy or carbon."""


class WorkloadError(JoulelabError):
    """Training or inference failed.

    Args:
        what: What happened.
        kind: ``"out_of_memory"``, ``"non_finite_loss"``, ``"model_failed"`` or ``"input_failed"``.
        why: The likely reason; may be empty.
        hint: What the user can do about it; may be empty.
    """

    def __init__(self, what: str, *, kind: str, why: str = "", hint: str = "") -> None:
        self.kind = kind
        super().__init__(what, why=why, hint=hint)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known name, or all of them when none is close.

    Example:
        >>> nearest("ResNet81", ["LeNet", "ResNet18"])
        'did you mean ResNet18?'
        >>> nearest("xyz", ["train", "infer"])
        'choose from train, infer'
    """
    import difflib  # noqa: PLC0415

    known = list(known)
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_lower[close[0]]}?"
    return f"choose from {', '.join(known)}"
