import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.llm.prompts import (
    Lengths,
    Prompt,
    Tokenizer,
    made_of,
    read_prompts,
    synthetic_prompts,
)


@pytest.mark.parametrize("text", ["0", "-1", "5-2", "x", "1-2-3", ""])
def test_what_is_no_length_is_refused(text):
    with pytest.raises(ValueError, match=r"tokens|invalid"):
        Lengths.parse(text)


@given(
    per_word=st.floats(0.5, 4.0),
    overhead=st.integers(0, 50),
    wanted=st.integers(100, 5000),
)
def test_calibrated_prompts_have_the_tokens_that_were_asked_for(per_word, overhead, wanted):
    def tokens(words):
        return overhead + per_word * words

    tokenizer = Tokenizer.through((8, tokens(8)), (200, tokens(200)))
    assert tokens(tokenizer.words_for(wanted)) == pytest.approx(wanted, abs=0.51 * per_word + 1e-6)


@given(st.integers(0, 2**32))
def test_lengths_of_a_range_stay_in_it_and_prompts_differ(seed):
    prompts = synthetic_prompts(Lengths(20, 30), Lengths(5, 9), Tokenizer(), seed=seed)
    first = list(itertools.islice(prompts, 20))
    assert all(20 <= len(one.text.split()) <= 30 for one in first)
    assert all(5 <= one.output_tokens <= 9 for one in first)
    assert len({one.text for one in first}) == len(first)
    again = synthetic_prompts(Lengths(20, 30), Lengths(5, 9), Tokenizer(), seed=seed)
    for one, other in zip(first, itertools.islice(again, 20), strict=True):
        assert len(one.text.split()) == len(other.text.split())
        assert one.output_tokens == other.output_tokens
        assert one.text != other.text  # A server may still have the last run's in its cache.


def test_prompts_share_only_the_prefix_that_was_asked_for():
    def common(prompts):
        words = [one.text.split() for one in itertools.islice(prompts, 50)]
        return next(i for i, same in enumerate(zip(*words, strict=False)) if len(set(same)) > 1)

    fixed = Lengths(64, 64), Lengths(8, 8), Tokenizer()
    assert common(synthetic_prompts(*fixed)) == 0
    assert common(synthetic_prompts(*fixed, shared_prefix=48)) == 48
    shared = next(synthetic_prompts(*fixed, shared_prefix=48))
    assert len(shared.text.split()) == 64


def test_text_is_of_common_words():
    assert len(made_of(7, random.Random(0)).split()) == 7


def test_file_of_prompts_is_text_or_json(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('What is a joule?\n\n{"prompt": "a\\nb", "output_tokens": 3}\n')
    assert read_prompts(path, Lengths(9, 9)) == [Prompt("What is a joule?", 9), Prompt("a\nb", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no prompts"),
        ('{"text": "a"}', "line 1 .* it has no field prompt"),
        ('hello\n{"prompt": "a", "output_tokens": 0}', "line 2 .* positive whole number"),
        ('{"prompt": "a"', "line 1 of"),
    ],
)
def test_file_without_prompts_is_refused(tmp_path, text, message):
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(path, Lengths(9, 9))


def test_missing_file_of_prompts_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_prompts(tmp_path / "none", Lengths(9, 9))
