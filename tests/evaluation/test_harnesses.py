from __future__ import annotations

import json

import pytest
import torch
from scoring_models import settings_for

from cocktail_hub.errors import MissingExtraError, ScoringError
from cocktail_hub.evaluation import harnesses
from cocktail_hub.evaluation.examples import Examples
from cocktail_hub.evaluation.harnesses import LISTS, lm_eval_columns, load_cls_embedder, mteb_columns, require
from cocktail_hub.evaluation.loading import load_sentence_transformer
from cocktail_hub.evaluation.measure import LoadedRun
from cocktail_hub.evaluation.model import ScoringRun

pytestmark = pytest.mark.whole

HARNESS = pytest.mark.filterwarnings("ignore")
"""Warnings of other people's packages are theirs."""


def run_of(folder, task: str) -> ScoringRun:
    return ScoringRun(
        name="m",
        folder=folder,
        tokenizer_folder=folder,
        examples=Examples(()),
        settings=settings_for(task, batch_size=2),
        device=torch.device("cpu"),
    )


def test_lists_are_those_of_the_paper():
    assert [len(names) for names in LISTS.values()] == [15, 12]
    assert set(LISTS["retrieval15"]) - set(LISTS["retrieval12"]) == {"HotpotQA", "MSMARCO", "QuoraRetrieval"}


def test_a_harness_that_is_not_installed_is_named_with_the_line_that_installs_it():
    with pytest.raises(MissingExtraError, match=r"'no-such' is not installed.\nIt is needed to .*\n.*\[none\]"):
        require("no-such", "none")


@HARNESS
def test_the_vector_of_the_first_token_is_read_whatever_modules_a_folder_has(embedder):
    from transformers import AutoModel, AutoTokenizer

    model = load_cls_embedder(run_of(embedder, "sentence-similarity"))
    inner = AutoModel.from_pretrained(embedder).eval()
    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(embedder)("the cat sat", return_tensors="pt")
        first = inner(**tokens).last_hidden_state[0, 0]
    assert torch.allclose(model.encode("the cat sat", convert_to_tensor=True), first, atol=1e-6)


# -- mteb ------------------------------------------------------------------------------------------------------------


def retrieval(monkeypatch):
    """A task of mteb with data of its own, instead of one that is downloaded."""
    mteb = pytest.importorskip("mteb", reason="needs cocktail-hub[mteb]")
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    task, asked = MockRetrievalTask(), []
    monkeypatch.setattr(mteb, "get_task", lambda name, **more: asked.append((name, more)) or task)
    return task, asked


@HARNESS
def test_every_query_of_a_task_of_mteb_has_its_number(embedder, monkeypatch):
    retrieval(monkeypatch)
    import mteb
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    model = load_sentence_transformer(embedder)
    expected = mteb.evaluate(model, MockRetrievalTask(), cache=None).task_results[0].get_score()
    (found,) = mteb_columns("Mock", model, as_paper=False).items()
    assert found[0] == "nDCG@10:MockRetrievalTask"
    assert sum(found[1]["value"]) / len(found[1]["value"]) == pytest.approx(expected, abs=1e-4)


@HARNESS
@pytest.mark.parametrize(("name", "prompt"), [("SciFact", harnesses.INSTRUCTION), ("ArguAna", None), ("MSMARCO", "")])
def test_the_paper_puts_the_instruction_before_most_queries(embedder, monkeypatch, name, prompt):
    _, asked = retrieval(monkeypatch)
    model = load_sentence_transformer(embedder)
    mteb_columns(name, model, as_paper=True)
    assert asked == [(name, {"eval_splits": ["dev"]} if name == "MSMARCO" else {})]
    assert model.prompts.get("query") == (prompt or (harnesses.INSTRUCTION if name == "MSMARCO" else None))


@HARNESS
def test_tasks_of_mteb_without_a_number_for_each_example_are_refused(embedder, monkeypatch):
    mteb = pytest.importorskip("mteb", reason="needs cocktail-hub[mteb]")
    with pytest.raises(ScoringError, match="mteb has no task 'SciFcat'"):
        mteb_columns("SciFcat", None, as_paper=False)
    from mteb.mocks.mock_tasks.sts import MockSTSTask

    monkeypatch.setattr(mteb, "get_task", lambda name: MockSTSTask())
    with pytest.raises(ScoringError, match="'STS' of mteb gives one number for all of its examples"):
        mteb_columns("STS", None, as_paper=False)


# -- lm-eval ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_task(tmp_path):
    pytest.importorskip("lm_eval", reason="needs cocktail-hub[lm-eval]")
    rows = [{"text": "is it", "options": ["yes", "no"], "right": 1}, {"text": "who", "options": ["a", "b"], "right": 0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: "{{options}}"\n'
        "doc_to_target: right\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    return tmp_path


@HARNESS
def test_every_question_of_a_task_of_lm_eval_has_its_number(llama, own_task):
    run = LoadedRun.of(run_of(llama, "text-generation"), "text-generation")
    found = lm_eval_columns("mine", run, folder=own_task, shots=0)
    assert list(found) == ["acc:mine"]
    assert len(found["acc:mine"]["value"]) == 2
    assert set(found["acc:mine"]["value"]) <= {0.0, 1.0}


@HARNESS
def test_a_task_that_lm_eval_does_not_have_is_refused(llama, own_task):
    run = LoadedRun.of(run_of(llama, "text-generation"), "text-generation")
    with pytest.raises(ScoringError, match=r"lm-eval has no task 'none'\.\n"):
        lm_eval_columns("none", run, folder=own_task, shots=0)
