"""The page of a run: the record's values, a job of several processes, and in a real browser."""

import html
import json
import math
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from opened_page import SIZES, Opened, serious_faults
from ranks import torchrun
from recordings import BEGIN_S, GPU, Recording
from run_records import MACHINE

from joulelab import Meter
from joulelab.carbon.site import local_costs
from joulelab.energy.baseline import Baseline, IdlePoint, Load
from joulelab.energy.energy import Energy
from joulelab.format import duration, money, percent, quantity, with_interval
from joulelab.recording.trace import RECORD
from joulelab.recording.trace_format import CHECK, pack_header, span_lines
from joulelab.report import run_figures
from joulelab.report.recorded_run import open_recorded
from joulelab.report.run_page import facts, write_run_page
from joulelab.runs.hosts import gather
from joulelab.runs.record import read_record, read_run, write_record
from joulelab.sensors.simulated import SimulatedMachine

HOSTILE = "</script><img src=http://example.com/x>"


def train(meter):
    with meter.span("load"):
        time.sleep(0.05)
    for index in range(3):
        with meter.span("epoch", index=index):
            for _ in range(4):
                with meter.span("step"):
                    with meter.span("forward"):
                        time.sleep(0.005)
                    with meter.span("backward"):
                        time.sleep(0.012)
            with meter.span(HOSTILE):
                time.sleep(0.02)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A program with a meter, on a machine whose idle power is known."""
    directory = tmp_path_factory.mktemp("runs") / "training"
    machine = SimulatedMachine.default()
    power_w = {"gpu:0": 100.0, "cpu:0": 30.0, "dram:0": 5.0}
    idle = IdlePoint(
        time_s=0.0,
        duration_s=10.0,
        power_w=power_w,
        uncertainty_w=dict.fromkeys(power_w, 1.0),
        source={one.component: one.channel().source for one in machine.sources},
    )
    with Meter(machine, directory=directory, baseline=Baseline((idle,))) as meter:
        train(meter)
    return directory


@pytest.fixture(scope="module")
def page(directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_INTENSITY", "360")
        patch.setenv("JOULELAB_PRICE", "0.3")
        patch.setenv("JOULELAB_CURRENCY", "EUR")
        return write_run_page(directory)


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text().split("<script")[0]))


def test_every_value_is_that_of_the_record(directory, page):
    text = text_of(page)
    energy = json.loads((directory / "run.json").read_text())["energy"]
    gross_j = sum(part["gross_j"] for part in energy["components"].values())
    assert quantity(gross_j, "J") in text
    assert quantity(gross_j / 3.6e6 * 360, "g") in text
    assert money(gross_j / 3.6e6 * 0.3, "EUR") in text
    for part in energy["components"].values():
        assert quantity(part["net_j"], "J") in text
    spans = read_run(directory).spans
    assert len(spans) == 6
    for span in spans:
        for value in (quantity(span.gross_j, "J"), quantity(span.net_j, "J"),
                      duration(span.duration_s), f"{span.count:,}"):  # fmt: skip
            assert value in text, span.name


@pytest.mark.parametrize(("gross_j", "text"), [(999.0, ""), (2882.0, "0.801 Wh")])
def test_watt_hours_follow_the_joules_from_a_kilojoule_on(directory, gross_j, text):
    run = read_run(directory)
    part = replace(run.energy.components["gpu:0"], gross_j=gross_j, idle_j=math.nan)
    energy = Energy(duration_s=10.0, components={"gpu:0": part})
    [fact, *_] = facts(replace(run, energy=energy), local_costs(energy))
    assert fact.details[0] == text


def test_a_killed_run_without_a_reading_has_a_page_of_its_spans(tmp_path):
    recording = Recording(tmp_path, gauges=())
    recording.span("load", 0.0, 3.0)
    recording.writer.close()
    assert open_recorded(tmp_path).duration_s == pytest.approx(3.0)
    assert "No energy was measured." in text_of(write_run_page(tmp_path))


def test_the_page_answers(directory, page):
    text = text_of(page)
    run = read_run(directory)
    nodes = [node for one in open_recorded(directory).summary.tree for _, node in one.walk()]
    first, second = sorted(nodes, key=lambda one: -one.self_j)[:2]
    share = percent(first.self_j / run.energy.gross_j)
    assert f"Span {first.name!r} costs most: {quantity(first.self_j, 'J')} (" in text
    assert f"{share} of the run, in {first.total.count} spans; {second.name!r} follows" in text
    idle = percent(run.energy.idle_j / run.energy.gross_j)
    assert f"Idle power is {idle} of the energy" in text
    assert "3 epochs took " in text
    assert "SIMULATED" in text
    assert "nan" not in text
    assert "<img" not in page.read_text().split("<script")[0]


def test_tables_are_sorted_by_the_values_of_show(directory, page, printed):
    out = printed("show", directory, "--json")
    shown = json.loads(out)
    text = page.read_text()
    rows = re.findall(r'<th scope="row" class="depth-\d">([^<]+)</th>(.*?)</tr>', text)
    orders = {
        html.unescape(name): re.findall(r'data-order="([^"]*)"', cells) for name, cells in rows
    }

    def nodes(tree):
        for one in tree:
            yield one
            yield from nodes(one["children"])

    found = {one["name"]: one for one in nodes(shown["span_tree"])}
    assert orders.keys() == found.keys()
    for name, (gross, share, own, net, count, *_) in orders.items():
        gross_j = sum(part["gross_j"] for part in shown["energy"]["components"].values())
        assert float(share) == pytest.approx(float(gross) / gross_j, rel=1e-8)
        assert float(net) == pytest.approx(found[name]["net_j"], rel=1e-8)
        assert float(gross) == pytest.approx(found[name]["gross_j"], rel=1e-8)
        assert float(own) == pytest.approx(found[name]["self_j"], rel=1e-8)
        assert int(count) == found[name]["count"]
    epochs = text.split('aria-label="Table of epochs"')[1].split("</table>")[0]
    energies = re.findall(r'</th><td class="nowrap" data-order="([^"]*)"', epochs)
    assert len(energies) == len(shown["epochs"]) == 3


def test_a_forecast_is_compared_with_what_came(tmp_path):
    with Meter(MACHINE, directory=tmp_path / "run") as meter:
        for _ in meter.epochs(range(6), within=1e-9, quiet=True):
            time.sleep(0.05)
    events = open_recorded(tmp_path / "run").recordings[0].trace.events
    first = next(one for one in events if one["event"] == "forecast")
    text = text_of(write_run_page(tmp_path / "run"))
    forecast = with_interval(first["gross_j"], first["gross_low_j"], first["gross_high_j"], "J")
    came = next(one for one in read_run(tmp_path / "run").spans if one.name == "epoch")
    assert f"of 6 was {forecast} and {duration(first['duration_s'])}; it took " in text
    assert f"it took {quantity(came.gross_j, 'J')} and {duration(came.duration_s)}." in text


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A rank of two, whose other one left no recording."""
    directory = tmp_path_factory.mktemp("jobs") / "job"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory.with_name("runtime")))
        for name, value in torchrun(0, 2, "job").items():
            patch.setenv(name, value)
        with Meter(SimulatedMachine.default(), directory=directory) as meter:
            train(meter)
    return directory


def test_a_job_of_several_processes_is_one_run(job):
    text = text_of(write_run_page(job))
    recorded = open_recorded(job)
    total = gather(job).total
    assert recorded.run.energy.gross_j == total.gross_j
    assert quantity(total.gross_j, "J") in text
    assert "No recording of rank 1 (of 2)." in text
    assert "(1 host, 1 rank)" in text
    assert f"GPU 0 on {recorded.recordings[0].host}" in text
    assert [one.energy.gross_j for one in recorded.summary.epochs] == [
        gather(job).energy("epoch", index=index).gross_j for index in range(3)
    ]


def test_the_spans_of_two_hosts_are_added_up(job, tmp_path):
    """A copy of a recording as that of another host."""
    for host in ("one", "two"):
        shutil.copytree(next(job.glob("*/0")), tmp_path / host / "0")
        trace = tmp_path / host / "0" / "trace.bin"
        header, _, rest = trace.read_bytes().partition(b"\n")
        values = json.loads(header) | {"host": host}
        del values["schema"], values["crc32"]
        trace.write_bytes(pack_header(values) + rest)
    recorded = open_recorded(tmp_path)
    assert recorded.run.host == "one, two"
    single = {one.name: one for one in open_recorded(job).summary.tree}
    for both in recorded.summary.tree:
        one = single[both.name]
        assert both.total.gross_j == pytest.approx(2 * one.total.gross_j)
        assert both.self_j == pytest.approx(2 * one.self_j)
        assert both.self_s == pytest.approx(one.self_s)
        assert both.total.count == 2 * one.total.count
        assert [child.name for child in both.children] == [child.name for child in one.children]
    text = text_of(write_run_page(tmp_path))
    assert "(2 hosts, 1 rank)" in text
    assert "GPU 0 on two" in text


def test_runs_that_are_not_one_job_are_refused(directory, job, refused):
    assert "no launcher such as torchrun started together" in refused("report", directory.parent)
    assert "no saved run of that name" in refused("report", "no-such-run")


def test_the_command_writes_a_page(directory, tmp_path, printed):
    output = printed("report", directory, "--out", tmp_path / "my.html", "--json")
    assert json.loads(output) == {"page": str(tmp_path / "my.html"), "figures": [], "tables": []}
    assert (tmp_path / "my.html").exists()


def test_without_readings_the_record_remains(directory, tmp_path):
    (tmp_path / "run.json").write_bytes((directory / "run.json").read_bytes())
    page = write_run_page(tmp_path)
    text = text_of(page)
    assert "Power over time and spans cannot be shown: there is no trace" in text
    assert quantity(read_run(directory).energy.gross_j, "J") in text
    assert "backward" in text


def write_large(directory, readings, spans):
    """Write a recording with this number of readings, 10 ms apart, and of steps in 50 epochs."""
    recording = Recording(directory, (GPU,), ())
    rng = np.random.default_rng(1)
    records = np.zeros(readings, RECORD)
    length_ns = readings * 10_000_000
    records["t_ns"] = round(BEGIN_S * 1e9) + np.arange(readings) * 10_000_000
    records["value"] = 300 + rng.normal(0, 20, readings)
    records["value"][readings // 3] = 999.0
    words = records.view("<u4").reshape(-1, 6)
    records["check"] = np.bitwise_xor.reduce(words, axis=1) ^ CHECK
    recording.writer.readings([records.tobytes()])
    per_epoch, step_ns = spans // 50, length_ns // spans
    rows = []
    for epoch in range(50):
        begin_ns = round(BEGIN_S * 1e9) + epoch * per_epoch * step_ns
        key = epoch * (per_epoch + 1)
        rows.append(
            (key, None, 0, "epoch", {"index": epoch}, begin_ns, begin_ns + per_epoch * step_ns)
        )
        for i in range(per_epoch):
            at = begin_ns + i * step_ns
            rows.append((key + i + 1, key, 0, "step", {}, at, at + int(0.9 * step_ns)))
    recording.writer.events(b"".join(span_lines("spans", rows)))
    recording.stop()
    return directory


@pytest.fixture(scope="module")
def large_page(tmp_path_factory):
    return write_run_page(write_large(tmp_path_factory.mktemp("large"), 200_000, 20_000))


def test_a_large_run_is_a_small_page(large_page):
    assert large_page.stat().st_size < 2_000_000
    text = text_of(large_page)
    assert "Of 200,000 readings, " in text
    assert "Spans narrower than a pixel are drawn as one." in text
    data = json.loads(large_page.read_text().split('id="page-data">')[1].split("</script>")[0])
    columns = data["figures"]["power"]["columns"]
    assert max(columns["power_w"]) == 999.0
    assert len(columns["t_s"]) <= 4 * run_figures.BUCKETS
    assert len(data["figures"]["spans"]["columns"]["t_s"]) <= run_figures.MOST_BARS


@pytest.fixture(scope="module", params=["page", "large_page"])
def opened(request, browser):
    with Opened(browser, request.getfixturevalue(request.param), "phone", "dark") as one:
        yield one


@pytest.mark.parametrize("size", SIZES)
def test_figures_are_drawn_without_a_message_or_a_request(opened, size):
    if size == "desktop":
        opened.resize(size)
    opened.check_quiet()
    for name in ("power", "spans", "icicle", "epochs"):
        assert opened.page.locator(f"#figure-{name} .role-mark path").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, scheme):
    opened.page.emulate_media(color_scheme=scheme)
    assert serious_faults(opened.page) == []


def ticks_of(opened, name):
    """Return the times at the ticks of a figure's axis."""
    texts = opened.page.locator(f"#figure-{name} .role-axis-label").first.locator("text")
    return [float(text.replace(",", "")) for text in texts.all_text_contents() if text]


def test_power_and_spans_zoom_together(opened):
    whole = ticks_of(opened, "power")
    opened.page.get_by_role("button", name="Zoom in").click()
    opened.drawn()
    near = ticks_of(opened, "power")
    assert whole[0] < near[0] < near[-1] < whole[-1]
    assert ticks_of(opened, "spans") == near
    opened.page.get_by_role("button", name="Whole run").click()
    opened.drawn()
    assert ticks_of(opened, "power") == whole


def test_a_drag_zooms(opened):
    box = opened.page.locator("#figure-power .view").bounding_box()
    whole = ticks_of(opened, "power")
    opened.page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 100)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 100)
    opened.page.mouse.up()
    opened.drawn()
    near = ticks_of(opened, "power")
    assert whole[0] < near[0] <= near[-1] < whole[-1]


def test_figures_and_their_data_are_saved(browser, page, tmp_path):
    beginnings = {"csv": b"epoch,gross", "svg": b"<svg", "png": b"\x89PNG"}
    with Opened(browser, page) as one:
        figure = one.page.locator("figure", has=one.page.locator("#figure-epochs"))
        for kind, begins in beginnings.items():
            path = one.download(figure.locator(f"[data-download={kind}]"), tmp_path)
            assert path.name == f"epochs.{kind}"
            assert path.read_bytes().startswith(begins)
        assert one.messages == []


def test_without_scripts_there_are_pictures(browser, page):
    with Opened(browser, page, scripts=False) as one:
        assert one.page.locator(".view svg").count() == 4
        assert not one.page.locator(".zoom").is_visible()


def test_net_energy_is_drawn_on_request(browser, page):
    with Opened(browser, page) as one:
        title = one.page.locator("#figure-icicle .view")
        before = title.inner_html()
        one.choose("Net of idle")
        assert title.inner_html() != before


def test_a_banner_states_that_idle_power_was_measured_on_a_busy_machine(synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet"])
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    cell, idle = (tmp_path / "s" / "runs" / name for name in ("r0-lenet", "r0-idle-before"))
    assert "busy machine" not in text_of(write_run_page(cell))
    point = IdlePoint(
        time_s=1005.0,
        duration_s=10.0,
        power_w={"gpu:0": 100.0, "cpu:0": 20.0},
        uncertainty_w={"gpu:0": 1.0, "cpu:0": 9.0},
        source=synthetic.SOURCE,
        load={"cpu": Load(0.5, "make (pid 7)")},
        busy_w={"cpu:0": 38.0},
    )
    write_record(idle, read_record(idle) | {"baseline": Baseline((point,)).to_json()})
    page = write_run_page(cell)
    banners = re.findall(r'<p class="warning">(.*?)</p>', page.read_text())
    (banner,) = (text for text in banners if "busy" in text)
    assert banner.startswith("Idle power was measured on a busy machine")
    assert "50 % of the CPU used by make (pid 7)" in banner
    assert text_of(page).lower().count("on a busy machine") == 1, "the notes do not repeat it"
