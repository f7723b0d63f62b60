import json

from scoring_models import settings_for

from cocktail_hub.evaluation.example_files import ExamplesFound
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.search.report import evidence_of, table_of
from cocktail_hub.search.softmax import softmax_weights, weigh

FOUND = ExamplesFound(content=(), source="inline")
SETTINGS = settings_for("text-generation", max_length=8)
TWO = [Losses.of("org/base", [1.0, 2.0], texts=2, truncated=1, tokens=9), Losses.of("org/tuned", [1.0, 4.0], texts=2)]


def test_evidence_is_json_from_which_the_weights_can_be_computed_again():
    evidence = json.loads(json.dumps(evidence_of(weigh(TWO), FOUND, "e" * 64, SETTINGS)))
    losses = [row["loss"] for row in evidence["ingredients"]]
    assert losses == [1.5, 2.5]
    assert softmax_weights(losses, evidence["temperature"]) == tuple(row["weight"] for row in evidence["ingredients"])
    assert evidence["examples"] == {"count": 2, "digest": "e" * 64, "source": "inline"}
    assert evidence["settings"]["max_length"] == 8
    assert evidence["settings"]["task"] == "decoder"
    assert evidence["ingredients"][0]["model"] == "org/base"
    assert evidence["ingredients"][0]["standard_error"] == 0.5
    assert evidence["ingredients"][0]["truncated"] == 1
    assert evidence["ingredients"][0]["per_example"] == [1.0, 2.0]
    assert evidence["rule"] == "softmax"
    assert "auto" not in evidence


def test_evidence_says_when_the_temperature_was_found():
    evidence = evidence_of(weigh(TWO, "auto"), FOUND, "e" * 64, SETTINGS)
    assert evidence["auto"] is True
    assert evidence["temperature"] == evidence["noise"] == 0.5


def test_the_table_is_readable():
    assert table_of(weigh(TWO)) == (
        "ingredient    loss  ± s.e.  weight\n"
        "org/base    1.5000  0.5000   0.550\n"
        "org/tuned   2.5000  1.5000   0.450\n"
        "effective number of ingredients: 1.98 of 2\n"
        "temperature 5 cannot tell these apart: 0.550 / 0.450\n"
        "org/base: 1 of 2 texts were longer than the limit and were cut"
    )


def test_the_table_names_a_temperature_that_was_found():
    assert "temperature: 0.5 nats, from the noise of the losses" in table_of(weigh(TWO, "auto"))


def test_the_table_says_how_little_few_examples_tell():
    few = "2 examples tell this noise only to within 71%: give 20 or more, or a number"
    assert few in table_of(weigh(TWO, "auto")).splitlines()
    assert few not in table_of(weigh(TWO))
    twenty = [Losses.of("a", [1.0, 2.0] * 10), Losses.of("b", [3.0, 3.5] * 10)]
    assert "examples tell" not in table_of(weigh(twenty, "auto"))
    assert "19 examples tell this noise only to within 17%" in table_of(
        weigh([Losses.of(one.name, one.per_example[:19]) for one in twenty], "auto")
    )
