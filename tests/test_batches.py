"""Tokens in batches of data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.batches import Tokens, count_tokens

lengths = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@given(lengths, st.integers(0, 3))
def test_tokens_and_padding_add_up_to_the_positions(lengths, padding):
    width = max(lengths) + padding
    mask = np.arange(width) < np.array(lengths)[:, None]
    ids = np.ones(mask.shape, np.int64)
    found = count_tokens(
        {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask, ids, -100)}
    )
    assert found.processed == found.targets == sum(lengths)
    assert found.processed + found.padding == ids.size


@given(lengths, lengths)
def test_batches_within_a_batch_add_up(first, second):
    batches = [{"input_ids": np.ones(sum(one))} for one in (first, second)]
    together = count_tokens({"a": batches[0], "b": (batches[1], 3)})
    assert together.processed == sum(first) + sum(second)
    assert together.processed == Tokens.total(map(count_tokens, batches)).processed


IDS = np.ones((2, 4))


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"position_ids": np.array([[0, 1, 0, 1], [0, 1, 2, 0]])}, 8),
        ({"attention_mask": np.array([[1, 1, 2, 2], [1, 2, 3, 0]])}, 7),
        ({"attention_mask": np.ones((2, 1, 4, 4))}, 8),
        ({"attention_mask": {"full_attention": np.zeros((2, 4))}}, 8),
        ({"attention_mask": None, "labels": np.array([0, 1])}, 8),
    ],
    ids=["packed", "packed with numbers", "pairs of positions", "several masks", "classification"],
)
def test_which_positions_are_tokens(more, tokens):
    assert count_tokens({"input_ids": IDS} | more).processed == tokens


@pytest.mark.parametrize(
    "batch", [None, 3, "text", ["a", "b"], {"x": IDS}, {"input_ids": [[1, 2]]}]
)
def test_tokens_of_other_batches_are_unknown(batch):
    assert math.isnan(count_tokens(batch).processed)
    counted = count_tokens({"input_ids": IDS})
    assert math.isnan(Tokens.total([counted, count_tokens(batch)]).processed)


def test_tokens_on_a_device_are_counted_there():
    torch = pytest.importorskip("torch")
    batch = {"input_ids": torch.ones(2, 4), "attention_mask": torch.ones(2, 4)}
    found = Tokens.total([count_tokens(batch)] * 3)
    assert isinstance(found.processed, torch.Tensor)
    assert found.attributes() == {"tokens": 24.0, "padding_tokens": 0.0}
