from __future__ import annotations

import numpy as np
import pytest
import scoring_models
from scoring_models import settings_for

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.search.mixed_outputs import mixed_outputs

pytestmark = pytest.mark.whole

EQUAL = np.array([0.5, 0.5])


def scored(folders, rows, task: str, **keys):
    """Losses with outputs of folders, as the mean of them sees them."""
    settings = settings_for(task, outputs=True, **keys)
    examples = check_examples(rows, settings.kind)
    losses = [
        scoring_models.score(folder, rows, task, outputs=True, tokenizer_folder=folders[0], **keys)
        for folder in folders
    ]
    return losses, examples, settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    save = {
        "decoder": scoring_models.save_llama,
        "encoder": scoring_models.save_bert,
        "modules": scoring_models.save_sentence_transformer,
        "reranker": scoring_models.save_reranker,
        "encoder-decoder": scoring_models.save_t5,
    }
    return lambda kind: [save[kind](root / f"{kind}-{seed}", seed=seed) for seed in (0, 1)]


KINDS = [
    ("decoder", "text-generation", scoring_models.QA),
    ("encoder", "feature-extraction", scoring_models.RANKED),
    ("modules", "sentence-similarity", scoring_models.RANKED),
    ("reranker", "text-ranking", scoring_models.RANKED[:4]),
    ("encoder-decoder", "text2text-generation", scoring_models.QA),
]


@pytest.mark.parametrize(("kind", "task", "rows"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_one_ingredient_alone_has_its_own_losses(kind, task, rows, folders):
    losses, examples, settings = scored(folders(kind), rows, task)
    mixed = mixed_outputs(losses, examples, settings)
    for weights, own in zip(np.eye(2), losses, strict=True):
        assert mixed.losses(weights) == pytest.approx(own.per_example, rel=1e-6, abs=1e-6)
    assert mixed.convex == (kind not in ("encoder", "modules"))


@pytest.mark.parametrize(("kind", "task", "rows"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_the_outputs_give_the_losses_that_are_computed_without_them(kind, task, rows, folders):
    losses, *_ = scored(folders(kind), rows, task)
    plain = scoring_models.score(folders(kind)[0], rows, task)
    assert plain.outputs == {}
    assert losses[0].per_example == pytest.approx(plain.per_example, rel=1e-6, abs=1e-6)
    assert (losses[0].reading, losses[0].tokens) == (plain.reading, plain.tokens)


@pytest.mark.parametrize(("kind", "task", "rows"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_an_anchor_is_a_part_of_every_mix(kind, task, rows, folders):
    losses, examples, settings = scored(folders(kind), rows, task)
    three = [losses[1], *losses]
    anchored = mixed_outputs(three, examples, settings, share=0.25)
    assert anchored.count == 2
    expected = mixed_outputs(three, examples, settings).losses(np.array([0.25, 0.45, 0.3]))
    assert anchored.losses(np.array([0.6, 0.4])) == pytest.approx(expected, abs=1e-9)


def test_the_mean_of_logits_is_exact_where_the_vocabulary_is_kept_whole(folders, monkeypatch):
    """The loss of the geometric mean of both distributions, worked out over the whole vocabulary."""
    monkeypatch.setattr("cocktail_hub.evaluation.outputs.KEPT", 10**6)
    losses, examples, settings = scored(folders("decoder"), scoring_models.QA, "text-generation")
    first, second = (one.outputs for one in losses)
    expected, start = [], 0
    for count in first["counts"]:
        terms = []
        for token in range(start, start + count):
            means = np.zeros(int(first["vocabulary"][0]))
            for one in (first, second):
                means[one["ids"][token]] += one["values"][token] / 2
            terms.append(np.log(np.exp(means).sum()) - means[first["targets"][token]])
        expected.append(np.mean(terms))
        start += count
    monkeypatch.setattr("cocktail_hub.search.mixed_outputs.LIKELIEST", 10**6)
    assert mixed_outputs(losses, examples, settings).losses(EQUAL) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr("cocktail_hub.search.mixed_outputs.LIKELIEST", 128)
    lumped = mixed_outputs(losses, examples, settings).losses(EQUAL)
    assert lumped == pytest.approx(expected, abs=0.05)
    assert (lumped >= np.array(expected) - 1e-9).all()


def test_vectors_are_kept_before_they_are_scaled_to_length_one(folders):
    for kind in ("encoder", "modules"):
        losses, *_ = scored(folders(kind), scoring_models.RANKED, "sentence-similarity")
        outputs = losses[0].outputs
        assert outputs["cosine"]
        assert np.linalg.norm(outputs["passages"], axis=1) != pytest.approx(1, abs=0.01)
        assert outputs["passages"].shape[0] == len(scoring_models.ALL)


def test_vocabularies_of_different_sizes_are_refused(folders):
    losses, examples, settings = scored(folders("decoder"), scoring_models.QA, "text-generation")
    losses[1].outputs["vocabulary"][:] += 8
    with pytest.raises(ScoringError, match="predicts among 379 tokens, 'm' among 387"):
        mixed_outputs(losses, examples, settings)
