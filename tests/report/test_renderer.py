import os
import subprocess
import sys

import pytest
from PIL import Image

from joulelab.errors import StoreError
from joulelab.report import renderer
from joulelab.report.charts import drawings_of, per_model
from joulelab.report.page import write_report
from joulelab.report.renderer import Renderer, processes_for


def test_the_same_charts_give_the_same_bytes_in_any_process(factors):
    energy = [one.specification for one in drawings_of(per_model.energy(factors), 0, 0)]
    duration = [one.specification for one in drawings_of(per_model.duration(factors), 0, 0)]
    with Renderer(renderer.FORMATS, 2) as apart:
        rendered = apart.render([*energy, *duration])
    here = Renderer(renderer.FORMATS, 0).render([*energy, *duration])
    assert rendered == here
    for kind, magic in (("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert all(images[kind].startswith(magic) for images in here)


def test_a_failure_is_one_line():
    with Renderer(("svg",), 1) as one, pytest.raises(StoreError, match="cannot draw the charts: "):
        one.render([{"mark": 1}])


def test_a_name_with_control_characters_is_drawn_escaped():
    names = [{"x": "a\x1b[31m"}, {"x": "b\x00\ufffe"}, {"x": "é, µ"}]
    encoding = {"x": {"field": "x", "type": "nominal"}}
    drawn = renderer.render(
        {"data": {"values": names}, "mark": "point", "encoding": encoding}, renderer.FORMATS
    )
    svg = drawn["svg"].decode()
    assert all(text in svg for text in ("a\\x1b[31m", "b\\x00\\ufffe", "é, µ"))


def test_few_runs_are_not_worth_a_process():
    assert processes_for(8) == 0
    assert 1 <= processes_for(64) <= 4


def test_every_format_and_the_same_bytes_in_another_time_zone_and_locale(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    writer.cell("VGG16", 0)
    report = write_report([writer.directory])
    names = {path.name for path in report.figures}
    for chart in ("energy-train", "energy-infer", "duration", "power-train"):
        assert {f"{chart}.{kind}" for kind in ("svg", "png", "pdf")} <= names
    with Image.open(tmp_path / "study" / "figures" / "energy-train.png") as image:
        assert image.width >= 1000
    script = (
        "import sys; from joulelab.report import page; page.renderer.FORMATS = ('svg',); "
        "page.write_report([sys.argv[1]], sys.argv[2])"
    )
    again = tmp_path / "again.html"
    away = {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}
    away["PYTHONHASHSEED"] = "7"
    subprocess.run(
        [sys.executable, "-c", script, str(writer.directory), str(again)],
        check=True,
        env=os.environ | away,
    )
    assert again.read_bytes() == report.page.read_bytes()
    for path in (*report.figures, *report.results, *report.tables):
        other = tmp_path / path.relative_to(writer.directory)
        if path.suffix not in (".png", ".pdf"):
            assert other.read_bytes() == path.read_bytes(), path.name


def test_a_drawing_is_the_same_after_others():
    axes = {name: {"field": name, "type": "quantitative"} for name in ("x", "y")}
    clipped = {
        "data": {"values": [{"x": 1, "y": 2}]},
        "mark": {"type": "point", "clip": True},
        "encoding": axes,
    }
    first, second = (renderer.render(clipped, ("svg",))["svg"] for _ in range(2))
    assert b'id="clip1"' in first
    assert first == second
