"""The nesting rule: which components are added to a total, and which enclose others.

Meters nest: a plug feeds a node, whose module has a processor and a GPU, each with a sensor of its
own. Their energies must not be added. The rule, from what the channels of a recording contain:

1. The *innermost measured* parts are the total, and with them every estimate that lies in no meter
   of the total.
2. A meter that contains a measured part *encloses* it: its energy is next to the total, and the
   difference between the two is that of what has no sensor of its own.
3. A meter of whose contents nothing is measured is *itself* in the total. Estimates of what it
   contains are shown, and not added.

The decision holds for all spans of a recording. A part that is lost on the way is absent from the
total and stays in the difference.

What a component contains is stated by its channels (:attr:`Channel.contains`). A ``node`` contains
all that is in it, whatever it states, and a ``psu`` the same; so does a ``plug`` that states
nothing. ``cpu`` contains every ``cpu:N``. Of two kinds of meters whose contents overlap, the one
further out in :data:`KINDS` contains the other. Two of one kind (``psu:0`` and ``psu:1``) share
what they contain: they enclose it together, and their energies add up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from joulelab.energy.component_energy import ComponentEnergy, sensor_of
from joulelab.format import finite_or_none, join_words, quantity, with_interval
from joulelab.sensors.sensor import Channel, Provenance
from joulelab.uncertain import Interval, normal_interval

KINDS = ("plug", "psu", "node", "soc", "module", "socket", "card")
"""Kinds of components that may contain others, from the outermost to the innermost."""
_WHOLE = ("psu", "node")
MACHINE = ("plug", *_WHOLE)
"""Kinds that usually include the power supply, fans, the board and disks."""
UNMETERED_IN_NODE = "power supply, fans, board, disks"
UNMETERED = {
    **dict.fromkeys(MACHINE, UNMETERED_IN_NODE),
    "module": "memory, regulators, interconnect",
    "card": "memory, regulators, fans",
}
"""What a meter of each kind contains besides its metered parts."""
OTHERS = "what has no meter of its own"
"""The same of other kinds."""
CONTRADICTION = 0.1
"""A meter that measures less than its parts by more than this, beyond its uncertainty (k = 3),
contradicts them: as two sources of one component (:mod:`joulelab.energy.signal.reconciliation`)."""


def kind_of(component: str) -> str:
    """Return ``"gpu"`` for ``"gpu:0"`` and ``"gpu:0@host"``."""
    return component.partition("@")[0].partition(":")[0]


def may_contain(component: str) -> bool:
    """Report whether a component is of a kind that may contain others."""
    return kind_of(component) in KINDS


class Nesting:
    """Which of a recording's components are added, and which enclose or lie within others.

    Args:
        contains: What each component states to contain, as in :attr:`Channel.contains`.
        measured: The components that are not estimated.

    Attributes:
        inside: The components that each one contains, directly or not.
        added: Those that make the total.
        enclosing: Meters next to it.

    Example:
        >>> within = {"node": (), "gpu:0": (), "cpu:0": (), "dram:0": ()}
        >>> nesting = Nesting(within, {"node", "gpu:0"})
        >>> sorted(nesting.added), sorted(nesting.enclosing)
        (['cpu:0', 'dram:0', 'gpu:0'], ['node'])
        >>> sorted(Nesting(within, {"node"}).added)
        ['node']
    """

    def __init__(self, contains: Mapping[str, Collection[str]], measured: Collection[str]) -> None:
        self.inside = _inside(contains)
        innermost = {
            name for name in measured if not any(one in measured for one in self.inside[name])
        }
        hidden = {part for name in innermost for part in self.inside[name]}
        estimates = {name for name in contains if name not in measured and name not in hidden}
        estimates = {name for name in estimates if not self.inside[name]}
        self.added = frozenset(innermost | estimates)
        self.enclosing = frozenset(
            name
            for name in contains
            if self.inside[name] and name not in self.added and name not in hidden
        )

    @classmethod
    def of(cls, channels: Iterable[Channel]) -> Nesting:
        """Decide from the channels of a recording that gave an energy."""
        contains: dict[str, dict[str, None]] = {}
        measured = set()
        for channel in channels:
            contains.setdefault(channel.component, {}).update(dict.fromkeys(channel.contains))
            if channel.provenance is not Provenance.ESTIMATED:
                measured.add(channel.component)
        return cls(contains, measured)

    def role(self, component: str) -> str:
        """Return the field of an energy in which a component is."""
        if component in self.added or component not in self.inside:
            return "components"
        return "enclosing" if component in self.enclosing else "enclosed"

    def describe(self, component: str) -> str:
        """Describe how a component nests, as text; empty if it does not."""
        inside = join_words(sorted(self.inside.get(component, ())))
        if component in self.enclosing:
            return f"around {inside}, not added"
        if component in self.inside and component not in self.added:
            outer = [name for name in self.added if component in self.inside[name]]
            return f"within {join_words(sorted(outer))}, not added"
        return f"contains {inside}" if inside else ""

    def total_notes(self, components: Iterable[str]) -> Iterator[str]:
        """Explain why meters that contain others are themselves in a total."""
        together: dict[frozenset[str], list[str]] = {}
        for name in components:
            if inside := self.inside.get(name):
                together.setdefault(inside, []).append(name)
        for inside, names in together.items():
            is_one = len(names) == 1
            verb, contain = ("is", "it contains") if is_one else ("are", "they contain")
            yield (
                f"{join_words(names)} {verb} in the total: nothing that {contain} is measured "
                f"({join_words(sorted(inside))}: estimated, not added)"
            )


def _inside(contains: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Return all that each component contains, directly or not."""
    found = {
        name: {
            other
            for other in contains
            if other != name and _contains(name, contains[name], other, contains[other])
        }
        for name in contains
    }
    for middle, within in found.items():
        for parts in found.values():
            if middle in parts:
                parts.update(within)
    # Of two that state to contain each other, the outer kind does.
    return {
        name: frozenset(
            one
            for one in parts
            if one != name and (name not in found[one] or (_rank(name), name) < (_rank(one), one))
        )
        for name, parts in found.items()
    }


def _contains(name: str, patterns: Collection[str], other: str, of_other: Collection[str]) -> bool:
    """Report whether one component contains another, by what both state and by their kinds."""
    if name == kind_of(other):
        # All of a kind, of which others are single ones.
        return True
    whole = [one for one in (name, *patterns) if kind_of(one) in _WHOLE]
    if kind_of(name) == "plug" and not patterns:
        whole = [name]
    if any(_rank(one) < _rank(other) for one in whole):
        return True
    if any(_match(pattern, other) for pattern in patterns):
        return True
    is_further_out = _rank(name) < _rank(other)
    return is_further_out and any(_match(mine, its) for mine in patterns for its in of_other)


def _match(first: str, second: str) -> bool:
    """Report whether two names are the same, or one is the kind of the other."""
    return first == second or first == kind_of(second) or kind_of(first) == second


def _rank(component: str) -> int:
    kind = kind_of(component)
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


@dataclass(frozen=True)
class Enclosure:
    """A meter next to the total, or several of one kind that share what they contain.

    Attributes:
        meters: Their energies, by name.
        parts: The energies in the total that they contain, by name.
        lost: What they contain that has no energy in the total.
        inner: The energies of meters next to the total that they contain, by name.
    """

    meters: Mapping[str, ComponentEnergy]
    parts: Mapping[str, ComponentEnergy]
    lost: tuple[str, ...] = ()
    inner: Mapping[str, ComponentEnergy] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The meters, for example ``"psu:0 + psu:1"``."""
        return " + ".join(self.meters)

    @property
    def source(self) -> str:
        """Where the values come from."""
        return ", ".join(dict.fromkeys(sensor_of(one.source) for one in self.meters.values()))

    @property
    def gross_j(self) -> float:
        """Energy of the meters."""
        return math.fsum(one.gross_j for one in self.meters.values())

    @property
    def interval_j(self) -> Interval:
        """95 % interval of ``gross_j``."""
        uncertainty_j = math.hypot(*(one.uncertainty_j for one in self.meters.values()))
        return normal_interval(self.gross_j, uncertainty_j, least=0.0)

    @property
    def difference_j(self) -> float:
        """Energy of the meters minus that of their parts in the total."""
        return self.gross_j - math.fsum(one.gross_j for one in self.parts.values())

    @property
    def difference_interval_j(self) -> Interval:
        """95 % interval of ``difference_j``; the errors of the sensors are independent."""
        every = (*self.meters.values(), *self.parts.values())
        return normal_interval(self.difference_j, math.hypot(*(one.uncertainty_j for one in every)))

    @property
    def unmetered(self) -> str:
        """What the difference is, for example ``"power supply, fans, board, disks"``."""
        kind = kind_of(next(iter(self.meters)))
        return ", ".join((*self.lost, UNMETERED.get(kind, OTHERS)))

    @property
    def difference_text(self) -> str:
        """The difference with its interval and name; empty without parts."""
        if not self.parts:
            return ""
        low_j, high_j = self.difference_interval_j
        if self.difference_j < 0:
            less = with_interval(-self.difference_j, -high_j, -low_j, "J", digits=2)
            return f"{less} less than its parts"
        more = with_interval(self.difference_j, low_j, high_j, "J", digits=2)
        return f"{more} more than its parts: {self.unmetered}"

    def __str__(self) -> str:
        text = f"{self.name} {quantity(self.gross_j, 'J')} ({self.source})"
        return ", ".join(filter(None, (text, self.difference_text)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes ``None``."""
        names = ("gross_j", "interval_j", "difference_j", "difference_interval_j")
        return {
            "meters": [*self.meters],
            "parts": [*self.parts],
            **{name: finite_or_none(getattr(self, name)) for name in names},
            "unmetered": self.unmetered,
        }

    @property
    def contradiction(self) -> str:
        """Explain that the meters measure less than what they contain; empty if they do not.

        That is their measured parts in the total, and meters of each kind around some of them.
        """
        measured = {
            name: one
            for name, one in self.parts.items()
            if one.provenance is not Provenance.ESTIMATED
        }
        kinds: dict[str, dict[str, ComponentEnergy]] = {}
        for name, one in self.inner.items():
            kinds.setdefault(kind_of(name), {})[name] = one
        less = next(filter(self._is_less_than, (measured, *kinds.values())), None)
        if less is None:
            return ""
        return (
            f"{self.name}: {self.source} reports less than {join_words([*less])}, which it "
            "contains: its unit, or the list of what it contains, is wrong"
        )

    def _is_less_than(self, parts: Mapping[str, ComponentEnergy]) -> bool:
        """Report whether parts have more energy than the meters, beyond their uncertainty."""
        measured_j = math.fsum(one.gross_j for one in parts.values())
        every = (*self.meters.values(), *parts.values())
        uncertainty_j = math.hypot(*(one.uncertainty_j for one in every))
        missing_j = measured_j - self.gross_j
        return missing_j > math.hypot(CONTRADICTION * measured_j, 3 * uncertainty_j)


def enclosures(
    components: Mapping[str, ComponentEnergy],
    enclosing: Mapping[str, ComponentEnergy],
    enclosed: Collection[str],
) -> list[Enclosure]:
    """Compare meters with their parts in the total, the innermost first.

    Those of one kind that share parts are compared together.
    """
    found: list[tuple[set[str], list[str]]] = []
    for name, meter in enclosing.items():
        parts, names = {*meter.contains}, [name]
        for other in [*found]:
            if kind_of(other[1][0]) == kind_of(name) and other[0] & parts:
                found.remove(other)
                parts, names = other[0] | parts, [*other[1], *names]
        found.append((parts, names))
    known = {*components, *enclosing, *enclosed}
    return [
        Enclosure(
            {name: enclosing[name] for name in names},
            {name: part for name, part in components.items() if name in parts},
            tuple(sorted(parts - known)),
            {name: one for name, one in enclosing.items() if name in parts and name not in names},
        )
        for parts, names in sorted(found, key=lambda one: -_rank(one[1][0]))
    ]
