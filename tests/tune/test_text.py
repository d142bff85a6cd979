import pytest

from joulelab.tune.result import Estimate, Result
from joulelab.tune.text import changed, device_commands, headline, probes_text, study_command

BASE = {"power_limit": 300, "batch_size": 8}


def result(settings, saving=0.12, slowdown=0.02):
    def estimate(value):
        return Estimate(value, value - 0.01, value + 0.01)

    return Result(settings, BASE, estimate(saving), estimate(slowdown), 7, (), "a reason")


@pytest.mark.parametrize(
    ("saving", "slowdown", "text"),
    [
        (0.12, 0.02, "saves 12.0 % (95 % CI 11.0–13.0 %) of the energy and takes "
                     "2.00 % (95 % CI 1.00–3.00 %) more time."),
        (-0.12, -0.3, "uses 12.0 % (95 % CI 11.0–13.0 %) more energy and takes "
                      "30.0 % (95 % CI 29.0–31.0 %) less time."),
        (0.12, -0.005, "saves 12.0 % (95 % CI 11.0–13.0 %) of the energy and does not change the "
                       "time significantly (95 % CI of the change: -1.50 to 0.50 %)."),
    ],
)  # fmt: skip
def test_the_outcome_in_a_sentence(saving, slowdown, text):
    found = headline(result({"power_limit": 225, "batch_size": 8}, saving, slowdown))
    assert found == f"Power limit 225 W, batch size 8 {text}"


def test_the_baseline_may_be_best():
    found = result(BASE)
    assert headline(found) == "Keep power limit 300 W, batch size 8: a reason."
    assert probes_text(found) == "7 probes"
    assert changed(found) == {}


def test_commands_that_apply_a_choice():
    settings = {"power_limit": 225.0, "clock": 1200, "cpu_power_limit": 80, "compile": True}
    assert list(device_commands(settings, ["gpu:0", "gpu:2"])) == [
        "sudo nvidia-smi -i 0,2 -pl 225",
        "sudo nvidia-smi -i 0,2 -lgc 0,1200",
        "echo 80000000 | sudo tee /sys/class/powercap/intel-rapl:?/constraint_0_power_limit_uw",
    ]
    assert study_command("my plan.toml", settings) == (
        "joulelab study 'my plan.toml' --set factors.compile=true"
    )
    overrides = ["factors.compile=false", "models=['LeNet']"]
    assert study_command("quick", settings, overrides) == (
        """joulelab study quick --set factors.compile=true --set 'models=['"'"'LeNet'"'"']'"""
    )
