from __future__ import annotations

import pytest

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.suites import FLAN30, flan_tasks, mmlu_tasks

CHOICE = {"task_name": "arc_c", "query": "Which  is  wet?", "answers": ["1"], "options": ["Fire", "a  sea"]}
WRITTEN = {"task_name": "squad_v1", "query": "Who  ran?", "answers": ["the  dog", "dog"], "options": None}
MMLU = {"query": " Which? ", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "college_biology", "query_id": 7}
HEAD = "The following are multiple choice questions (with answers) about college biology.\n\n"


def test_there_are_the_thirty_tasks_of_the_paper():
    assert len(FLAN30) == 30
    assert [name for name, how in FLAN30.items() if how == "exact match"] == ["natural_questions", "squad_v1"]
    written = ["common_gen", "e2e_nlg", "dart", "aeslc", "gigaword"]
    assert [name for name, how in FLAN30.items() if how == "ROUGE-L"] == written
    assert [name for name, how in FLAN30.items() if how == "F1"] == ["multirc"]


def test_options_stand_a_line_break_and_a_space_after_the_question_and_keep_their_spaces():
    (task,) = flan_tasks([CHOICE] * 2)
    (question, _) = task.questions
    assert (task.name, task.scored, task.max_tokens) == ("arc_c", "accuracy", None)
    assert question.prompt == "Which is wet?\n "
    assert (question.options, question.answers, question.seam) == (("Fire", "a  sea"), ("1",), "")


def test_written_answers_follow_a_line_break():
    (task,) = flan_tasks([WRITTEN] * 2)
    assert task.scored == "exact match"
    assert task.questions[0].prompt == "Who ran?\n"
    assert task.questions[0].answers == ("the dog", "dog")
    assert task.questions[0].options == ()


def test_tasks_come_in_the_order_of_the_paper_and_unknown_ones_are_left_out():
    rows = [WRITTEN, CHOICE, {"task_name": "of others"}] * 2
    assert [task.name for task in flan_tasks(rows)] == ["arc_c", "squad_v1"]
    assert [task.name for task in flan_tasks(rows, ["squad_v1"])] == ["squad_v1"]


def test_a_question_of_mmlu_has_a_head_four_lines_and_letters_as_options():
    (task,) = mmlu_tasks([MMLU] * 2)
    assert (task.name, task.scored, task.max_tokens) == ("college_biology", "accuracy", 2048)
    assert task.questions[0].prompt == f"{HEAD}Which?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    assert task.questions[0].options == (" A", " B", " C", " D")
    assert task.questions[0].answers == ("2",)
    assert task.questions[0].seam == "Answer:"


def test_shots_are_the_first_examples_of_the_subject_as_they_are_written():
    other = {**MMLU, "subject": "virology", "query": "no"}
    examples = [other, {**MMLU, "query": " one ", "answer": 0}, {**MMLU, "query": "two"}, {**MMLU, "query": "three"}]
    (task,) = mmlu_tasks([MMLU] * 2, examples, shots=2)
    lines = "\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    shown = f" one {lines} A\n\ntwo{lines} C\n\n"
    assert task.questions[0].prompt == f"{HEAD}{shown}Which?{lines}"


def test_what_is_asked_and_how_names_a_task():
    (task,) = flan_tasks([CHOICE] * 2)
    assert task.digest == flan_tasks([CHOICE, {**CHOICE, "more": 1}])[0].digest
    assert task.digest != flan_tasks([CHOICE, {**CHOICE, "query": "?"}])[0].digest
    assert mmlu_tasks([MMLU] * 2)[0].digest != mmlu_tasks([MMLU] * 2, [MMLU], shots=1)[0].digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "Row 2 of the task data has `query` None, which is no str."),
        ({"answers": []}, r"Row 2 of the task data has `answers` \[\], which is not a list of texts."),
        ({"answers": ["2"]}, "has the answer '2' to 2 options, of which none may be empty."),
        ({"answers": ["Fire"]}, "has the answer 'Fire' to 2 options"),
        ({"options": ["", "b"]}, "has the answer '1' to 2 options, of which none may be empty."),
        ({"options": None}, "has `options` None, which is no list."),
    ],
)
def test_a_malformed_row_is_named(change, message):
    with pytest.raises(ScoringError, match=message):
        flan_tasks([CHOICE, {**CHOICE, **change}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a"]}, "Row 2 of the task data has 1 choices and the answer 2, not 4 and one of 0 to 3."),
        ({"answer": 4}, "has 4 choices and the answer 4"),
        ({"answer": True}, "has `answer` True, which is no int."),
        ({"subject": 1}, "has `subject` 1, which is no str."),
    ],
)
def test_a_malformed_row_of_mmlu_is_named(change, message):
    with pytest.raises(ScoringError, match=message):
        mmlu_tasks([MMLU, {**MMLU, **change}])


def test_tasks_that_are_not_there_are_said():
    with pytest.raises(ScoringError, match=r"no question of 'squad'.\nA task is .*\nDid you mean 'squad_v1'?"):
        flan_tasks([CHOICE] * 2, ["squad"])
    with pytest.raises(ScoringError, match="no question of any task that is known here"):
        flan_tasks([{"task_name": "of others"}])
    with pytest.raises(ScoringError, match="The task 'arc_c' has one question only"):
        flan_tasks([CHOICE, WRITTEN, WRITTEN])
