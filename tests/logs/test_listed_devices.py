"""A device that a log lists only for some time counts only while it is listed."""

import pytest

from joulelab.logs.power_log import LogOptions, read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows

POWER_W = {0: 300.0, 1: 200.0}


def log(tmp_path, listed_s):
    """A log of two GPUs over 60 s, polled each second, that lists the second one between times."""
    rows = ["time_s,index,power_w"]
    for t_s in range(61):
        rows += [
            f"{t_s},{index},{watts}"
            for index, watts in POWER_W.items()
            if index == 0 or listed_s[0] <= t_s < listed_s[1]
        ]
    path = tmp_path / "power.csv"
    path.write_text("\n".join(rows) + "\n")
    return read_logs([path], LogOptions())


@pytest.mark.parametrize(
    ("listed_s", "span_s", "gpu_1_s"),
    [
        ((0, 30), (20, 50), 10),  # It is lost after 30 s.
        ((0, 45), (20, 50), 25),
        ((30, 61), (10, 40), 10),  # It comes after 30 s.
        ((20, 40), (0, 60), 20),
        ((0, 61), (20, 50), 30),
    ],
)
def test_energy_is_counted_while_the_device_is_listed(tmp_path, listed_s, span_s, gpu_1_s):
    [row] = energy_rows(log(tmp_path, listed_s), [ImportedSpan("span", *span_s)])
    duration_s = span_s[1] - span_s[0]
    expected_j = POWER_W[0] * duration_s + POWER_W[1] * gpu_1_s
    assert row["gross_j"] == pytest.approx(expected_j, rel=0.02)
    assert row["low_j"] < expected_j < row["high_j"]
    assert row["mean_power_w"] == pytest.approx(row["gross_j"] / duration_s)
    assert ("the log has readings for" in (row["reason"] or "")) == (gpu_1_s < duration_s)


def test_a_device_is_absent_where_it_is_not_listed(tmp_path):
    [row] = energy_rows(log(tmp_path, (0, 30)), [ImportedSpan("after", 40, 50)])
    assert list(row["components"]) == ["gpu:0"]
    assert "gpu:1" in row["reason"]
