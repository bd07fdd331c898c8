import math

import pandas as pd
import pytest

from rank_increase.evidence.claim import (
    RELATIONS,
    TABLES,
    Claim,
    claims_frame,
    declared_claims,
    evaluate,
    number,
    study_settings,
)
from rank_increase.registry import RegistryError
from rank_increase.tables import SCHEMAS

STUDY = {
    "study": "demo",
    "toy": {"activation_weight": 0.1, "max_time": 100.0},
    "assumptions": {"plateaus": {"follow": 5.0}},
}


def claim(name="a", value=1.0, relation="<", threshold=2.0, **fields):
    texts = {"source": "Figure 1", "statement": "x | y", "measure": "m", "data": "d", "n": "3 runs", "details": "<1>",
             "reason": "because"}  # fmt: skip
    return Claim(id=name, value=value, relation=relation, threshold=threshold, **texts | fields)


@pytest.mark.parametrize(
    ("value", "relation", "threshold", "verdict"),
    [
        (1, "<", 2, "supported"),
        (2, "<", 2, "not supported"),
        (2, "<=", 2, "supported"),
        (2, ">", 2, "not supported"),
        (2, ">=", 2, "supported"),
        (0, "==", 0, "supported"),
        (1, "==", 0, "not supported"),
        (math.inf, "<", 2, "not supported"),
        (math.nan, "<", 2, "not tested"),
    ],
)
def test_a_verdict_follows_from_value_and_threshold(value, relation, threshold, verdict):
    assert claim(value=value, relation=relation, threshold=threshold).verdict == verdict


def test_testing_a_claim_keeps_what_it_says():
    untested = claim().untested("runs")
    assert (untested.verdict, untested.n, untested.details, untested.id) == ("not tested", "none", "runs", "a")
    assert untested.tested(1, "2 runs", "more") == claim(n="2 runs", details="more")


def test_two_claims_may_not_have_the_same_id():
    with pytest.raises(ValueError, match="same id: b$"):
        claims_frame([claim("a"), claim("b"), claim("b")])


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (0.012345, "0.0123"), (math.nan, "-"), (math.inf, "inf"), (1e-9, "1e-09"), (0, "0")]
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


CLAIMS = [claim("good"), claim("bad", value=5.0), claim("open").untested("a run & more")]


def test_claims_fit_their_schema():
    frame = claims_frame(evaluate(declared_claims(), {}, {}, {}))
    assert list(frame) == SCHEMAS["claims"].names
    assert len(frame) == len(declared_claims())


@pytest.mark.parametrize("entry", declared_claims(), ids=lambda entry: entry.name)
def test_a_declaration_is_complete(entry):
    for key in ("source", "statement", "measure", "reason"):
        assert entry.details[key].strip() == entry.details[key] != ""
    assert entry.details["relation"] in RELATIONS
    assert math.isfinite(entry.details["threshold"])
    assert set(entry.details["tables"]) <= TABLES
    assert entry.summary


@pytest.mark.parametrize("entry", declared_claims(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("settings", [{}, study_settings(STUDY)], ids=["no toy model", "demo"])
def test_without_its_table_a_claim_is_not_tested_and_says_so(entry, settings):
    (claim,) = evaluate([entry], {}, settings, {})
    assert (claim.id, claim.verdict, claim.n) == (entry.name, "not tested", "none")
    assert claim.details == f"the table {entry.details['tables'][0]}, which this study does not make"
    texts = [claim.source, claim.statement, claim.measure, claim.reason, claim.data]
    assert not any("{" in text for text in texts)


def test_claims_about_the_toy_model_come_first():
    names = [entry.name for entry in declared_claims()]
    assert [name for name in names if name.startswith("vit.")] == names[-7:]


def test_texts_state_the_numbers_of_the_study():
    claims = {claim.id: claim for claim in evaluate(declared_claims(), {}, study_settings(STUDY), {})}
    assert "slower than 0.01" in claims["assumption_4_4.paper_test"].measure
    assert "less than 0.01 of the fastest" in claims["toy.weight_plateaus"].measure
    assert "At α = 1e-32," in claims["theorem.paper_scale"].statement


def test_settings_follow_the_configuration():
    assert study_settings(STUDY) == {
        "active": pytest.approx(0.01),
        "variants": {},
        "warmups": {},
        "movement": 0.05,
        "speed": pytest.approx(0.01),
    }
    assert study_settings(STUDY | {"assumptions": None})["speed"] == pytest.approx(0.05 / 6.1)
    assert study_settings(STUDY | {"toy": None, "warmups": {"net": 2}}) == {"warmups": {"net": 2}}


COMPLETE = {
    "source": "ours",
    "statement": "{network} is accurate.",
    "measure": "test accuracy above {least}",
    "relation": ">",
    "threshold": 0,
    "reason": "any excess",
    "tables": ["metrics"],
    "each": ["network"],
    "least": 0.5,
}


@pytest.fixture
def extension(tmp_path):
    """Writes a file with a claim of the user's; keywords replace parts of its declaration, None leaves them out."""

    def write(name="mine.accuracy", **changed):
        details = {key: value for key, value in (COMPLETE | changed).items() if value is not None}
        arguments = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in details.items())])
        path = tmp_path / f"claims_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(
            "from rank_increase.evidence.claim import NotTested\n"
            "from rank_increase.options import Share\n"
            "from rank_increase.registry import register\n\n\n"
            f"@register.claim({arguments})\n"
            "def accuracy(metrics, *, least: Share = 0.9):\n"
            "    if len(metrics) < 2:\n"
            "        raise NotTested('two epochs')\n"
            "    return metrics['test_accuracy'].max() - least, '1 run'\n"
        )
        return str(path)

    return write


METRICS = pd.DataFrame({"network": ["a", "a", "b", "b", "c"], "test_accuracy": [0.1, 0.7, 0.2, 0.4, 0.9]})


def test_a_claim_of_an_extension_comes_last_and_is_tested_for_each_network(extension):
    entries = declared_claims([extension()])
    assert [entry.name for entry in entries[:-1]] == [entry.name for entry in declared_claims()]
    *_, first, second, third = evaluate(entries, {"metrics": METRICS}, {}, {"a": "Net A"})
    assert [claim.id for claim in (first, second, third)] == ["mine.accuracy.a", "mine.accuracy.b", "mine.accuracy.c"]
    assert [claim.verdict for claim in (first, second, third)] == ["supported", "not supported", "not tested"]
    assert first.value == pytest.approx(0.2)
    assert (first.statement, first.measure) == ("Net A is accurate.", "test accuracy above 0.5")
    assert (second.statement, second.data) == ("b is accurate.", "metrics")
    assert third.details == "two epochs"


def test_a_parameter_that_is_not_declared_has_its_default_or_that_of_the_study(extension):
    entry = declared_claims([extension(least=None)])[-1]
    tables = {"metrics": METRICS[METRICS["network"] == "a"]}
    (claim,) = evaluate([entry], tables, {}, {})
    assert (claim.measure, claim.value) == ("test accuracy above 0.9", pytest.approx(-0.2))
    (claim,) = evaluate([entry], tables, {"least": 0.6, "unused": 1}, {})
    assert (claim.measure, claim.value) == ("test accuracy above 0.6", pytest.approx(0.1))


@pytest.mark.parametrize(
    ("changed", "mistake"),
    [
        ({"reason": None}, "lacks reason"),
        ({"source": ""}, "lacks source"),
        ({"tables": []}, "lacks tables"),
        ({"relation": "!="}, "has the relation '!='; known are <,"),
        ({"tables": ["accuracies"]}, "asks for the unknown table accuracies"),
        ({"limit": 1}, "has the unknown argument limit"),
    ],
)
def test_a_mistake_in_a_declaration_is_named(extension, changed, mistake):
    path = extension(**changed)
    with pytest.raises(RegistryError, match=f"^{path}: the claim 'mine.accuracy' {mistake}"):
        declared_claims([path])


def test_braces_around_what_is_no_parameter_are_named(extension):
    entry = declared_claims([extension(statement="{network} has {heads} heads")])[-1]
    with pytest.raises(RegistryError, match="a text of the claim 'mine.accuracy' has braces .* 'heads'"):
        evaluate([entry], {"metrics": METRICS}, {}, {})
