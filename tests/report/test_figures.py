import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from joulelab.analysis.summary import summary
from joulelab.analysis.tables import epoch_rows, run_rows
from joulelab.report import epochs as epoch_figure
from joulelab.report import figures
from joulelab.report.figures import Limit
from joulelab.report.labels import label_points
from joulelab.report.style import COMPONENT_COLOURS, PHASE_COLOURS, NothingToDraw, rendered


@pytest.fixture(scope="module")
def directory(tmp_path_factory, synthetic):
    path = tmp_path_factory.mktemp("figures") / "study"
    synthetic.write_study(path)
    return path


@pytest.fixture(scope="module")
def table(directory):
    return summary(run_rows([directory]))


def widths(axes, colour):
    return [
        bar.get_width() for bar in axes.patches if to_hex(bar.get_facecolor()) == colour.lower()
    ]


def test_duration_bars_are_the_tables_figures(table):
    axes = figures.duration(table).axes[0]
    train = table[table["phase"] == "train"]
    assert widths(axes, PHASE_COLOURS["train"]) == pytest.approx(
        list(1000 * train["duration_s_per_sample"])
    )
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "LeNet",
        "MobileNetV2",
        "VGG16",
        "ResNet18",
    ]
    assert "(s)" in axes.get_xlabel()


def test_power_is_stacked_and_has_the_limit_of_the_first_component(table):
    limits = [Limit("gpu", 350.0, "GPU limit 350 W"), Limit("cpu", 125.0, "CPU TDP 125 W")]
    figure = figures.power(table, limits)
    train = figure.axes[0]
    assert widths(train, COMPONENT_COLOURS["gpu"]) == pytest.approx([300] * 4)
    assert widths(train, COMPONENT_COLOURS["cpu"]) == pytest.approx([50] * 4)
    assert widths(train, COMPONENT_COLOURS["dram"]) == []
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["GPU", "CPU", "idle, all components", "GPU limit 350 W"]


def test_energy_marks_gross_and_net(table):
    train, infer = figures.energy(table).axes
    drawn = {float(x) for line in train.lines for x in line.get_xdata()}
    part = table[table["phase"] == "train"]
    for column in ("gross_j_per_sample", "net_j_per_sample"):
        for value in part[column]:
            assert any(math.isclose(1000 * value, x) for x in drawn)
    assert len(train.collections) == len(infer.collections) == 2
    assert "(J)" in train.get_xlabel()


def test_energy_without_a_baseline_is_gross_alone(table):
    blind = table.assign(**dict.fromkeys(["net_j_per_sample", "net_j_per_sample_low"], math.nan))
    figure = figures.energy(blind)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "gross",
        "95 % interval",
    ]


def test_an_interval_that_reaches_zero_leaves_the_axis_logarithmic(table):
    wide = table.assign(gross_j_per_sample_low=0.0, net_j_per_sample_low=-1.0)
    train = figures.energy(wide).axes[0]
    least = 1000 * wide["net_j_per_sample"].min()
    assert train.get_xscale() == "log"
    assert train.get_xlim()[0] == pytest.approx(least / 3)
    assert figures.macs_per_parameter(wide).axes[0].get_yscale() == "log"


def test_macs_per_parameter_labels_every_model(table):
    for axes in figures.macs_per_parameter(table).axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert sorted(text.get_text() for text in axes.texts) == sorted(table["model"].unique())
        assert axes.get_ylabel().startswith("Energy net of idle")


def test_macs_per_parameter_is_gross_where_a_net_energy_is_not_positive(table):
    odd = table.assign(net_j_per_sample=-1.0)
    assert figures.macs_per_parameter(odd).axes[0].get_ylabel().startswith("Gross energy")


def test_epochs_accumulate_energy(directory):
    figure = epoch_figure.epochs(epoch_rows([directory]))
    lines = {line.get_label(): line for line in figure.axes[2].lines}
    # LeNet: 0.2 * 4 s at 350 W an epoch; the second repeat is 2 % longer
    assert list(lines["LeNet"].get_ydata()) == pytest.approx([282.8, 565.6, 848.4])
    assert list(lines["LeNet"].get_xdata()) == [1, 2, 3]


def test_epochs_of_many_models_have_their_mean(directory):
    rows = epoch_rows([directory])
    many = pd.concat([rows.assign(model=f"{i}", run_id=rows["run_id"] + str(i)) for i in range(12)])
    accuracy = epoch_figure.epochs(many).axes[1]
    assert accuracy.get_legend_handles_labels()[1] == ["each model", "mean over models"]


def test_nothing_to_draw_says_why(table, directory):
    rows = epoch_rows([directory])
    powers = [f"{kind}_power_w" for kind in COMPONENT_COLOURS]
    cases = [
        (lambda: figures.duration(table.assign(duration_s_per_sample=math.nan)), "duration"),
        (lambda: figures.power(table.assign(**dict.fromkeys(powers, math.nan))), "measured"),
        (lambda: figures.energy(table.assign(gross_j_per_sample=math.nan)), "energy"),
        (lambda: figures.macs_per_parameter(table.assign(macs_per_parameter=math.nan)), "MACs"),
        (lambda: figures.macs_per_parameter(table[table["model"] == "LeNet"]), "two models"),
        (lambda: epoch_figure.epochs(rows[rows["epoch"] == 0]), "two whole epochs"),
        (lambda: epoch_figure.epochs(rows.iloc[:0]), "two whole epochs"),
    ]
    for make, word in cases:
        with pytest.raises(NothingToDraw, match=word):
            make()


@pytest.mark.parametrize(
    ("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_same_figure_same_bytes(table, kind, magic):
    first, second = (rendered(figures.duration(table), kind) for _ in range(2))
    assert first == second
    assert first.startswith(magic)


def test_global_state_is_left_alone(table):
    before = dict(mpl.rcParams)
    figures.duration(table)
    assert dict(mpl.rcParams) == before


def test_names_say_what_varies(table):
    both = pd.concat([table, table.assign(batch_size=8, precision="bf16")], ignore_index=True)
    names = list(figures.names(both))
    assert names[0] == "LeNet · batch size 128 · fp32"
    assert names[-1] == "VGG16 · batch size 8 · bf16"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4, unique=True))
def test_labels_stay_inside_the_axes_when_there_is_room(points):
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots()
    axes.set(xlim=(-1, 2), ylim=(-1, 2))
    x, y = np.array(points).T
    label_points(axes, x, y, [f"model {i}" for i in range(len(points))])
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1


def test_labels_of_neighbours_do_not_lie_on_each_other():
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots()
    axes.set(xlim=(-1, 2), ylim=(-1, 2))
    label_points(
        axes, np.array([0.5, 0.5, 0.51]), np.array([0.5, 0.51, 0.5]), ["aaaa", "bbbb", "cc"]
    )
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)
