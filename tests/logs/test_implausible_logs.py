"""A column that no component can draw is refused in one line."""

import pytest

from joulelab.errors import UserError
from joulelab.logs.power_log import LogOptions, read_logs


def log(tmp_path, power, header="timestamp,index,power.draw [W]", rows=60):
    lines = [f"2026/11/28 12:{i // 60:02}:{i % 60:02}.000,0,{power}" for i in range(rows)]
    path = tmp_path / "smi.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("power", "reason"),
    [
        ("20000 W", "more than a GPU can draw.*its unit is probably wrong"),
        ("20000.00", "more than a GPU can draw.*its unit is probably wrong"),
        ("4294967.29 W", "has a value of 4,295 kW: no computer draws that"),
    ],
)
def test_a_gpu_at_20_kw_is_refused_with_its_reason(tmp_path, power, reason):
    with pytest.raises(UserError, match=reason) as caught:
        read_logs([log(tmp_path, power)])
    assert "--power-unit" in str(caught.value)


def test_its_right_unit_is_read(tmp_path):
    path = log(tmp_path, "300000", header="timestamp,index,power.draw")
    found = read_logs([path], LogOptions(power_unit="mW"))
    assert found.trace.series[0].value[0] == 300.0


def test_negative_power_is_refused(tmp_path):
    with pytest.raises(UserError, match="60 negative values, down to -120 W"):
        read_logs([log(tmp_path, "-120.5 W")])


def test_a_rack_of_which_nothing_is_known_may_draw_as_much(tmp_path):
    path = tmp_path / "rack.csv"
    path.write_text("time_s,power_w\n" + "".join(f"{i},20000\n" for i in range(60)))
    assert len(read_logs([path]).trace.channels) == 1
