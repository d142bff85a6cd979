"""Choice of the findings that a reader sees first."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.findings.key_findings import MOST, TOPICS, Certainty, certainty, key_findings
from joulelab.findings.schema import Finding


def finding(name, significant=True, estimate=2.0, low=1.5, high=2.5, **more):
    return Finding(
        id=name,
        question=f"{name}?",
        statement="",
        answer=f"{name}.",
        estimate=estimate,
        low=low,
        high=high,
        significant=significant,
        **more,
    )


def ids(findings, **options):
    found = key_findings(findings, "net", **options)
    return [one.finding.id for one in found.answers], [one.id for one in found.open_questions]


def test_topics_are_in_order_and_other_findings_are_left_out():
    found = [
        finding("knee.train", phase="train"),
        finding("repeats.train.gross"),
        finding("models.train.net", phase="train", quantity="net"),
        finding("models.train.gross", phase="train", quantity="gross"),
        finding("ratio.net", quantity="net"),
        finding("ratio.time", quantity="time"),
        finding("spearman.train.net.macs", detail=True),
    ]
    assert ids(found) == (["models.train.net", "ratio.net", "knee.train"], [])


def test_the_id_that_is_named_first_is_chosen_if_both_are_significant():
    knee = finding("knee.train", phase="train")
    limit = finding("limit.train.power_limit_w", phase="train")
    assert ids([knee, limit])[0] == ["limit.train.power_limit_w"]
    assert ids([knee, replace(limit, significant=False)])[0] == ["knee.train"]


def test_the_largest_significant_effect_of_a_factor_is_chosen():
    found = [
        finding("factor.train.net.precision.bf16", estimate=0.4, low=0.3, high=0.5),
        finding("factor.train.net.compile.True", estimate=1.5, low=1.4, high=1.6),
        finding("factor.train.net.optimizer.adamw", False, estimate=3.0, low=0.9, high=10.0),
    ]
    assert ids(found)[0] == ["factor.train.net.precision.bf16"]
    assert ids(found[1:])[0] == ["factor.train.net.compile.True"]


def test_training_and_the_largest_group_come_first():
    found = [
        finding("models.infer.net", phase="infer", groups=(0,)),
        finding("models.train.net", phase="train", groups=(1,)),
        finding("models.train.net", phase="train", groups=(0,)),
    ]
    (one,) = key_findings(found, "net").answers
    assert (one.finding.phase, one.finding.groups) == ("train", (0,))


def test_significant_answers_come_first_and_unknown_ones_are_asked():
    unknown = finding("predictors.train.net", None, low=math.nan, high=math.nan)
    found = [
        finding("models.train.net", False, low=0.9),
        finding("ratio.net", True),
        unknown,
        finding("ratio.decode-prefill.net", None, low=0.0, high=math.inf),
    ]
    assert ids(found) == (["ratio.net", "models.train.net"], ["predictors.train.net"])
    assert ids([unknown]) == (["predictors.train.net"], [])


def test_a_ratio_within_more_than_a_factor_of_ten_is_not_known():
    assert certainty(finding("ratio.net", False, low=0.1)) is Certainty.UNDETERMINED
    assert certainty(finding("ratio.net", False, low=0.5)) is Certainty.ESTIMATED
    assert certainty(finding("power.train.gpu", None, 300, 1, 600)) is Certainty.ESTIMATED


@pytest.mark.parametrize(
    ("significant", "setting", "text"),
    [
        (True, "", "ratio.net (significant)."),
        (False, "batch size 8", "ratio.net (batch size 8; not significant)."),
        (None, "", "ratio.net."),
    ],
)
def test_an_answer_states_its_setting_and_significance(significant, setting, text):
    (one,) = key_findings([finding("ratio.net", significant, setting=setting)], "net").answers
    assert one.text == text


@pytest.mark.parametrize(
    "answer", ["B does not differ significantly.", "B is not distinguishable."]
)
def test_significance_is_not_stated_twice(answer):
    found = replace(finding("ratio.net"), answer=answer)
    (one,) = key_findings([found], "net").answers
    assert one.text == answer


@given(
    st.lists(
        st.builds(
            finding,
            st.sampled_from([name + "train.net" for topic in TOPICS for name in topic.ids]),
            st.sampled_from([True, False, None]),
            low=st.sampled_from([math.nan, 0.5, 1.5]),
        )
    )
)
def test_there_are_at_most_five_one_a_topic_the_significant_first(found):
    keys = key_findings(found, "net")
    order = [certainty(one.finding) for one in keys.answers]
    assert len(order) <= MOST
    assert order == sorted(order)
    topics = [one.topic for one in keys.answers]
    assert len(set(topics)) == len(topics)
    assert Certainty.UNDETERMINED not in order or len(order) == 1
