"""How a workload tells the world what it is doing. Workloads know no meter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Observer(Protocol):
    """Told of every phase, epoch and step. :class:`joulelab.Meter` is one."""

    def begin(self, name: str, /, **attributes: Any) -> Any:
        """Something starts now. What is returned is handed to :meth:`end`."""
        ...

    def end(self, span: Any) -> None:
        """What :meth:`begin` announced is over."""
        ...


class Silent:
    """An observer that does nothing."""

    def begin(self, name: str, /, **attributes: Any) -> None:
        """Does nothing."""

    def end(self, span: Any) -> None:
        """Does nothing."""


@contextmanager
def announced(observer: Observer, name: str, **attributes: Any) -> Iterator[None]:
    """Announces the block to the observer; its end too when the block raises."""
    span = observer.begin(name, **attributes)
    try:
        yield
    finally:
        observer.end(span)
