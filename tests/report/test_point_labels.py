"""Names of points: computed independently of how they are placed, in numbers and in a browser."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opened_page import Opened

from joulelab.report.charts.axes import Axis
from joulelab.report.charts.chart import LABEL, LABEL_WIDTHS_PX
from joulelab.report.charts.point_labels import LINE_PX, text_px, with_labels

HEIGHT_PX = 300.0
NAMES = ["LeNet", "MobileNetV2", "PreActResNet18", "ResNeXt29_2x64d", "VGG16", "lm:gpt2"]


def box_of(position, point, name):
    """Left, top, right and bottom of a name."""
    dx, dy, _ = position
    width = text_px(name)
    left = dx if dx > 3 else dx - width if dx < -3 else dx - width / 2
    x, y = point
    return x + left, y + dy - LINE_PX / 2, x + left + width, y + dy + LINE_PX / 2


def distance(box, point):
    left, top, right, bottom = box
    x, y = point
    return math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def check(at, names, labels, index, width):
    """Assert what names of a plot of a width must not do; return how many have none."""
    points = [(x * width, y * HEIGHT_PX) for x, y in at]
    boxes = {}
    for i, (point, name, of_row) in enumerate(zip(points, names, labels, strict=True)):
        if of_row[index] is None:
            continue
        box = boxes[i] = box_of(of_row[index], point, name)
        assert box[0] >= -0.1
        assert box[2] <= width + 0.1
        assert box[1] >= -0.1
        assert box[3] <= HEIGHT_PX + 0.1
        others = [distance(box, other) for j, other in enumerate(points) if j != i]
        # the radius of a point is 4.2
        assert all(one >= 4.2 for one in others)
        if not of_row[index][2]:
            touching = [math.dist(point, other) for j, other in enumerate(points) if j != i]
            assert all(distance(box, point) <= one for one in others if min(touching) > 9)
    for (_, one), (_, other) in itertools.combinations(boxes.items(), 2):
        assert not overlap(one, other)
    return len(names) - len(boxes)


def labels_of(at, names):
    table = pd.DataFrame(at, columns=["x", "y"]).assign(model=names, view=0)
    axes = []
    for along in ("x", "y"):
        table, axis = Axis(along, along, "", is_logarithmic=False).framed(table, ["view"])
        axes.append(axis)
    table = with_labels(table, tuple(axes), ["view"])
    across, upright = axes
    fractions = np.column_stack([across.fractions(table), 1 - upright.fractions(table)])
    return fractions, table[LABEL].tolist()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_names_cover_nothing_at_any_width(points, share):
    names = [f"{NAMES[i % len(NAMES)]}{i}" for i in range(len(points))]
    at, labels = labels_of(points, names)
    for index, (least, most) in enumerate(itertools.pairwise(LABEL_WIDTHS_PX)):
        check(at, names, labels, index, least + share * (most - least))


def test_every_name_of_scattered_points_has_room():
    random = np.random.default_rng(7)
    names = [f"{NAMES[i % len(NAMES)]}{i}" for i in range(16)]
    at, labels = labels_of(random.uniform(0, 1, (16, 2)), names)
    for index, width in enumerate(LABEL_WIDTHS_PX[:-1]):
        if width >= 300:
            assert check(at, names, labels, index, width) == 0


def test_equal_points_have_their_own_names():
    at, labels = labels_of([(1.0, 1.0)] * 4 + [(2.0, 2.0), (0.0, 0.0)], NAMES)
    assert check(at, NAMES, labels, 4, LABEL_WIDTHS_PX[4]) == 0


def test_many_points_have_no_names():
    _, labels = labels_of([(i, i) for i in range(61)], ["LeNet"] * 61)
    assert pd.isna(labels).all()


# Boxes on the page: of names, points, and texts of axes, by panel.
BOXES = """
() => [...document.querySelectorAll(".panel")].filter((panel) => panel.offsetParent).map((panel) => {
  const box = (one) => { const { left, top, right, bottom } = one.getBoundingClientRect(); return [left, top, right, bottom]; };
  const all = (selector) => [...panel.querySelectorAll(selector)].filter((one) => getComputedStyle(one).opacity !== "0");
  return {
    figure: panel.closest("figure").id,
    view: box(panel.querySelector(".view")),
    names: all(".role-mark.mark-text text").filter((one) => one.textContent && !one.textContent.startsWith("Spearman")).map((one) => [one.textContent, box(one)]),
    points: all(".role-mark.mark-symbol path").map(box),
    axes: all(".role-axis text").filter((one) => one.textContent).map(box),
    titles: all(".role-axis-title text").map(box),
    listed: all(".role-title text").flatMap((one) => one.children.length ? [...one.children] : [one]).map((one) => one.textContent).join(", "),
  };
})
"""  # noqa: E501
SCATTER = ["utilization", "predictors", "energy-time"]


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_names_on_the_page_of_the_h100(browser, h100_report, width):
    opened = Opened(browser, h100_report.page, width=width)
    panels = [one for one in opened.page.evaluate(BOXES) if one["names"] or one["titles"]]
    checked = 0
    for panel in panels:
        left, _, right, _ = panel["view"]
        for title in panel["titles"]:
            assert title[0] >= left - 1
            assert title[2] <= right + 1
        if panel["figure"].removeprefix("figure-") not in SCATTER:
            continue
        checked += 1
        names = [box for _, box in panel["names"]]
        for one, other in itertools.combinations(names, 2):
            assert not overlap(one, shrunk(other))
        for name, other in itertools.product(names, [*panel["axes"]]):
            assert not overlap(name, shrunk(other))
        for name, point in itertools.product(names, panel["points"]):
            assert not overlap(name, shrunk(point))
        named = [name for name, _ in panel["names"]]
        assert len(set(named)) == len(named)
        assert len(named) + len(listed(panel["listed"])) == 16
    assert checked == 6


def shrunk(box, by=1.0):
    """A box without its outermost pixel, which is antialiased."""
    left, top, right, bottom = box
    return left + by, top + by, right - by, bottom - by


def listed(text):
    return [name for name in text.removeprefix("Not named in the plot: ").split(", ") if name]
