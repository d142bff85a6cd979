import pytest

from joulelab.errors import UserError
from joulelab.tune.knobs import parse_knobs


@pytest.mark.parametrize(
    ("texts", "knobs"),
    [
        (["power-limit"], {"power_limit": ()}),
        (["batch-size,precision"], {"batch_size": (), "precision": ()}),
        (["batch-size=8", "precision=fp32,bf16"],
         {"batch_size": (8,), "precision": ("fp32", "bf16")}),
        (["memory-format=contiguous,channels_last,clock"],
         {"memory_format": ("contiguous", "channels_last"), "clock": ()}),
        (["compile=false,true"], {"compile": (False, True)}),
    ],
)  # fmt: skip
def test_knobs_and_levels(texts, knobs):
    assert parse_knobs(texts) == knobs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize=8", "no knob 'batchsize'; did you mean batch-size"),
        ("power-limit,32", "no knob '32'"),
        ("clock,power-limit,clock", "clock is given twice"),
        ("batch-size=8,,16", "a level is empty"),
        ("batch-size=8,8", "batch-size has the level 8 twice"),
        ("", "no knob ''"),
    ],
)
def test_what_is_wrong_is_stated(text, message):
    with pytest.raises(UserError, match=message):
        parse_knobs([text])
