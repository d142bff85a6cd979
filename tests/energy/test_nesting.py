"""The nesting rule: what is added, what encloses, and that nothing counts twice."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.nesting import KINDS, Nesting

PARTS = ("cpu", "gpu", "dram")
GRACE = ("gpu:0", "cpu:0", "dram:0")


@pytest.mark.parametrize(
    ("contains", "measured", "added", "enclosing"),
    [
        # A node whose GPU is measured and whose processor is estimated.
        ({"node": PARTS, "gpu:0": (), "cpu:0": ()}, "node gpu:0", "gpu:0 cpu:0", "node"),
        # A node, or a plug, around estimates alone.
        ({"node": PARTS, "cpu:0": (), "dram:0": ()}, "node", "node", ""),
        ({"plug:desk": (), "cpu:0": (), "dram:0": ()}, "plug:desk", "plug:desk", ""),
        # A chain.
        (
            {"plug:a": ("node",), "node": PARTS, "module:0": GRACE, "gpu:0": (), "cpu:0": ()},
            "plug:a node module:0 gpu:0 cpu:0",
            "gpu:0 cpu:0",
            "plug:a node module:0",
        ),
        (
            {"plug:a": ("node",), "node": PARTS, "module:0": GRACE, "cpu:0": (), "dram:0": ()},
            "plug:a node module:0",
            "module:0",
            "plug:a node",
        ),
        # Two modules, of which one has a measured part.
        (
            {"module:0": ("gpu:0", "cpu:0"), "module:1": ("gpu:1", "cpu:1"), "gpu:0": (),
             "cpu:0": (), "cpu:1": ()},
            "module:0 module:1 gpu:0",
            "gpu:0 cpu:0 module:1",
            "module:0",
        ),
        # Two power supplies share the machine.
        ({"psu:0": (), "psu:1": (), "cpu:0": ()}, "psu:0 psu:1", "psu:0 psu:1", ""),
        ({"psu:0": (), "psu:1": (), "cpu:0": ()}, "psu:0 psu:1 cpu:0", "cpu:0", "psu:0 psu:1"),
        ({"psu:0": (), "psu:1": (), "node": (), "cpu:0": ()}, "psu:0 psu:1 node", "node",
         "psu:0 psu:1"),
        # A platform and a card overlap in the GPU; the rest of the platform is estimated.
        (
            {"soc": PARTS, "card:0": ("gpu:0",), "cpu:0": ()},
            "soc card:0",
            "card:0 cpu:0",
            "soc",
        ),
        # A card and its package.
        ({"card:0": ("gpu:0",), "gpu:0": ()}, "card:0 gpu:0", "gpu:0", "card:0"),
        # One card has no package of its own.
        (
            {"card:0": ("gpu:0",), "card:1": ("gpu:1",), "gpu:0": ()},
            "card:0 card:1 gpu:0",
            "gpu:0 card:1",
            "card:0",
        ),
        # A plug of an external GPU alone.
        (
            {"plug:gpu": ("gpu:1",), "gpu:0": (), "gpu:1": (), "cpu:0": ()},
            "plug:gpu gpu:0",
            "plug:gpu gpu:0 cpu:0",
            "",
        ),
        # A processor that is estimated as a whole, within one of two modules.
        ({"module:0": ("cpu:0",), "cpu": ()}, "module:0", "module:0", ""),
        # A node contains what it does not state.
        ({"node": ("cpu",), "soc": (), "fan:1": ()}, "node soc fan:1", "soc fan:1", "node"),
        # A plug of a node without a meter of its own.
        ({"plug:a": ("node",), "gpu:0": (), "cpu:0": ()}, "plug:a gpu:0", "gpu:0 cpu:0", "plug:a"),
        # Two that state to contain each other.
        ({"plug:a": ("plug:b",), "plug:b": ("plug:a",)}, "plug:a plug:b", "plug:b", "plug:a"),
        # An estimate of the whole machine next to estimates of its parts.
        ({"node": PARTS, "cpu:0": ()}, "", "cpu:0", "node"),
        # A node that states to contain its power supplies: what comes in is further out.
        ({"node": (*PARTS, "psu"), "psu:0": PARTS, "cpu:0": ()}, "node psu:0", "node", "psu:0"),
        # All processors, and some of them.
        ({"cpu": (), "cpu:0": (), "cpu:1": ()}, "cpu cpu:0 cpu:1", "cpu:0 cpu:1", "cpu"),
        ({"cpu": (), "cpu:0": ()}, "cpu", "cpu", ""),
        # Nothing nests.
        ({"gpu:0": (), "gpu:1": (), "cpu:0": ()}, "gpu:0 gpu:1", "gpu:0 gpu:1 cpu:0", ""),
    ],
)  # fmt: skip
def test_what_is_added(contains, measured, added, enclosing):
    nesting = Nesting(contains, set(measured.split()))
    assert nesting.added == set(added.split())
    assert nesting.enclosing == set(enclosing.split())


@st.composite
def machines(draw):
    """A tree of meters: what each contains, the power of the leaves, and what is measured."""
    contains, leaves = {}, {}
    numbers = Counter()

    def name(kind):
        numbers[kind] += 1
        return f"{kind}:{numbers[kind] - 1}"

    def grow(depth):
        if depth == len(KINDS) or draw(st.booleans()):
            leaf = name(draw(st.sampled_from(PARTS)))
            contains[leaf] = set()
            leaves[leaf] = draw(st.integers(1, 1000))
            return {leaf}
        meter = name(KINDS[depth])
        inner = draw(st.lists(st.just(draw(st.integers(depth + 1, len(KINDS)))), max_size=3))
        within = set().union(*(grow(one) for one in inner))
        contains[meter] = within
        return {meter, *within}

    for _ in range(draw(st.integers(1, 3))):
        grow(draw(st.integers(3, len(KINDS))))
    if draw(st.booleans()):
        contains["node"] = {*contains}
        if draw(st.booleans()):
            contains["plug:wall"] = {*contains}
    measured = {one for one in contains if draw(st.booleans())}
    return contains, leaves, measured


@given(machines())
def test_no_part_counts_twice_and_a_measured_one_always_counts(machine):
    contains, leaves, measured = machine
    nesting = Nesting(contains, measured)
    counted = Counter(
        leaf for one in nesting.added for leaf in {one, *contains[one]} if leaf in leaves
    )
    assert set(counted.values()) <= {1}
    for leaf in leaves:
        assert counted[leaf] == 1 or not contains
    assert {leaf for leaf in leaves if leaf in measured} <= nesting.added


@given(machines())
def test_without_its_enclosing_meters_a_machine_has_the_same_total(machine):
    contains, _, measured = machine
    nesting = Nesting(contains, measured)
    for meter in nesting.enclosing:
        left = {one: parts - {meter} for one, parts in contains.items() if one != meter}
        assert Nesting(left, measured - {meter}).added == nesting.added


@given(machines(), st.randoms())
def test_the_order_of_the_channels_does_not_matter(machine, random):
    contains, _, measured = machine
    names = [*contains]
    random.shuffle(names)
    shuffled = Nesting({name: contains[name] for name in names}, measured)
    assert shuffled.added == Nesting(contains, measured).added
