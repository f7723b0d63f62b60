from __future__ import annotations

import json
import math
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.errors import CheckpointError, IncompatibleError, RecipeError
from cocktail_hub.merge.options import SEARCH_BYTES
from cocktail_hub.merge.plan import ComponentInput, MergePlan, TensorPlan, plan_merge
from cocktail_hub.recipe import LayerRule
from cocktail_hub.recipe.tensor_rules import PerTensor, TensorRule

F32, BF16, I64 = "F32", "BF16", "I64"


def specs(**tensors: tuple[tuple[int, ...], str]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(shape, dtype) for name, (shape, dtype) in tensors.items()}


def plan(*models: dict[str, TensorSpec], **options: Any) -> MergePlan:
    names = tuple("abcdefgh"[: len(models)])
    options.setdefault("weights", [1 / len(models)] * len(models))
    first_only = frozenset(options.pop("first_only", ()))
    return plan_merge([ComponentInput(specs=models, models=names, first_only=first_only)], **options)


def tensors(made: MergePlan) -> dict[str, TensorPlan]:
    return {tensor.name: tensor for shard in made.shards for tensor in shard.tensors}


ONE = specs(x=((2, 3), BF16), y=((4,), BF16))


def test_a_tensor_is_mixed_from_every_ingredient_with_its_weight() -> None:
    x = tensors(plan(ONE, ONE, weights=[0.7, 0.3]))["x"]
    assert x == TensorPlan(
        name="x", shape=(2, 3), dtype=BF16, rule="sum", models=(0, 1), weights=(0.7, 0.3), dtypes=(BF16, BF16)
    )


def test_an_ingredient_of_weight_zero_is_not_read() -> None:
    made = plan(ONE, ONE, ONE, weights=[0.5, 0.0, 0.5])
    assert tensors(made)["x"].models == (0, 2)
    assert made.input_bytes == 2 * 20


def test_weights_that_miss_one_by_a_slip_are_evened_out() -> None:
    weights = tensors(plan(ONE, ONE, ONE, weights=[0.3333333] * 3))["x"].weights
    assert math.fsum(weights) == 1.0


def test_tensors_come_in_the_order_of_the_first_ingredient() -> None:
    first = specs(b=((1,), BF16), a=((1,), BF16), c=((1,), BF16))
    second = dict(reversed(first.items()))
    assert list(tensors(plan(first, second))) == ["b", "a", "c"]


def test_wider_dtypes_come_first_so_that_each_tensor_is_aligned() -> None:
    first = specs(flag=((3,), "BOOL"), half=((3,), BF16), full=((1,), F32), half2=((1,), BF16), ids=((1,), I64))
    assert list(tensors(plan(first, first))) == ["ids", "full", "half", "half2", "flag"]


def test_the_first_ingredient_decides_the_dtype_tensor_by_tensor() -> None:
    first, second = specs(x=((1,), BF16), n=((1,), F32)), specs(x=((1,), F32), n=((1,), BF16))
    made = tensors(plan(first, second))
    assert (made["x"].dtype, made["n"].dtype) == (BF16, F32)
    assert made["x"].dtypes == (BF16, F32)


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", "BF16"])
def test_a_dtype_can_be_asked_for(dtype: str) -> None:
    first = specs(x=((1,), F32), ids=((2,), I64))
    made = tensors(plan(first, first, dtype=dtype))
    assert (made["x"].dtype, made["ids"].dtype) == (BF16, I64)


@pytest.mark.parametrize("dtype", [None, "auto"])
def test_auto_is_the_first_ingredients_dtype(dtype: str | None) -> None:
    assert tensors(plan(ONE, ONE, dtype=dtype))["x"].dtype == BF16


def test_integers_are_compared_not_mixed() -> None:
    first = specs(ids=((2,), I64))
    assert tensors(plan(first, first, weights=[1.0, 0.0]))["ids"] == TensorPlan(
        name="ids", shape=(2,), dtype=I64, rule="same", models=(0, 1), weights=(), dtypes=(I64, I64)
    )


def test_integers_that_only_some_have_are_written_if_the_first_has_them() -> None:
    ids = specs(ids=((2,), I64))
    assert tensors(plan(ONE | ids, ONE, ONE | ids))["ids"].models == (0, 2)
    assert "ids" not in tensors(plan(ONE, ONE | ids, ONE | ids))


def test_the_first_matching_rule_decides_the_weights() -> None:
    first = specs(**dict.fromkeys(("encoder.layer.0.x", "encoder.layer.7.x", "head"), ((1,), BF16)))
    rules = [
        LayerRule(match="encoder.layer.[0-5].*", weights=(0.9, 0.1)),
        LayerRule(match="encoder.*", weights=(0.0, 1.0)),
        LayerRule(match="hea", weights=(1.0, 0.0)),
    ]
    made = tensors(plan(first, first, layers=rules))
    assert made["encoder.layer.0.x"].weights == (0.9, 0.1)
    assert made["encoder.layer.7.x"].weights == (1.0,)
    assert made["encoder.layer.7.x"].models == (1,)
    assert made["head"].weights == (0.5, 0.5)  # a rule matches whole names


# what does not fit


def test_another_shape_is_refused() -> None:
    with pytest.raises(IncompatibleError) as caught:
        plan(ONE, ONE | specs(x=((2, 4), BF16)))
    assert str(caught.value).startswith("Cannot mix 'b': 'x' has the shape [2, 4], but [2, 3] in 'a'.")
    assert (caught.value.model, caught.value.tensor) == ("b", "x")


@pytest.mark.parametrize(
    ("models", "model"), [((ONE, specs(y=((4,), BF16))), "b"), ((specs(y=((4,), BF16)), ONE), "a")]
)
def test_a_missing_tensor_is_refused(models: Any, model: str) -> None:
    with pytest.raises(IncompatibleError, match=f"Cannot mix '{model}': it has no tensor 'x'") as caught:
        plan(*models)
    assert (caught.value.model, caught.value.tensor) == (model, "x")


def test_a_missing_tensor_of_weight_zero_is_fine() -> None:
    head = specs(head=((3,), BF16))
    rule = LayerRule(match="head", weights=(0.0, 1.0))
    made = tensors(plan(ONE, ONE | head, layers=[rule]))
    assert made["head"].models == (1,)
    assert list(made) == ["x", "y", "head"]


def test_tensors_can_be_taken_from_the_first_ingredient_alone() -> None:
    head = specs(head=((3,), BF16))
    made = tensors(plan(ONE | head, ONE, first_only=["head"]))
    assert (made["head"].models, made["head"].weights) == ((0,), (1.0,))


def test_what_one_component_takes_from_the_first_ingredient_is_mixed_in_another() -> None:
    head = specs(head=((3,), BF16))
    parts = [
        ComponentInput(specs=(ONE | head, ONE), models=("a", "b"), first_only=frozenset({"head"})),
        ComponentInput(folder="2_Dense", specs=(head, head), models=("a", "b")),
    ]
    made = plan_merge(parts, weights=[0.75, 0.25])
    model, dense = ({tensor.name: tensor for tensor in shard.tensors} for shard in made.shards)
    assert (model["head"].models, model["head"].weights) == ((0,), (1.0,))
    assert (dense["head"].models, dense["head"].weights) == ((0, 1), (0.75, 0.25))


def test_tensors_of_the_first_ingredient_alone_do_not_need_the_base() -> None:
    head = specs(head=((3,), BF16))
    for method in ("ties", "task_arithmetic"):
        made = tensors(plan(ONE, ONE | head, ONE, weights=[1.0, 1.0], method=method, first_only=["head"]))
        assert (made["head"].models, made["head"].weights) == ((1,), (1.0,))


def test_integers_of_another_shape_or_dtype_are_refused() -> None:
    ids = specs(ids=((2,), I64))
    with pytest.raises(IncompatibleError, match=re.escape("'ids' has the shape [3], but [2] in 'a'")):
        plan(ids, specs(ids=((3,), I64)))
    with pytest.raises(IncompatibleError, match="'ids' has the dtype I32, but I64 in 'a'"):
        plan(ids, specs(ids=((2,), "I32")))


def test_a_float_here_and_an_integer_there_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="'x' has the dtype I64, but F32 in 'a'"):
        plan(specs(x=((2,), F32)), specs(x=((2,), I64)))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "C64", "F4"])
def test_codes_and_complex_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(CheckpointError, match=f"'x' of 'b' is stored as {dtype}, which cannot be mixed") as caught:
        plan(specs(x=((2,), F32)), specs(x=((2,), dtype)))
    assert caught.value.model == "b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "liner"}, "Unknown `method` 'liner'. Did you mean 'linear'?"),
        ({"weights": [1.0]}, "1 weights for 2 ingredients"),
        ({"weights": [0.5, 0.4]}, "The weights sum to 0.9, not to 1."),
        ({"weights": [math.nan, 1.0]}, "must be finite for this method, got nan"),
        ({"layers": [LayerRule(match="x", weights=(1.0, 1.0))]}, "The weights of 'x' sum to 2, not to 1."),
        ({"layers": [LayerRule(match="x", weights=(1.0,))]}, "1 weights for 2 ingredients"),
        ({"parameters": {"density": 1}}, "Unknown key 'density' in `parameters`."),
        ({"max_shard_size": "5 pounds"}, "`max_shard_size` must be bytes or text such as '5GB', got '5 pounds'"),
        ({"dtype": "int8"}, "`dtype` of a mix cannot be 'int8'"),
    ],
)
def test_bad_arguments_say_what_to_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        plan(ONE, ONE, **options)


# numbers per tensor


def test_weights_and_parameters_are_those_of_the_tensor_and_its_depth() -> None:
    names = [f"h.{i}.mlp" for i in range(3)] + ["h.1.attn", "embed", "norm"]
    given = {name: TensorSpec((2,), F32) for name in names}
    made = plan(
        given,
        given,
        given,
        method="ties",
        weights=[PerTensor((TensorRule(match="attn", value=3.0), TensorRule(value=(0.0, 1.0)))), 1.0],
        parameters={"density": [0.2, 0.4], "lambda": [{"match": "h.*", "value": 2}, {"value": 1}]},
        own_parameters=[{}, {"density": 0.9}],
    )
    found = {name: (t.weights, t.parameters["density"], t.parameters["lambda"]) for name, t in tensors(made).items()}
    assert found == {
        "h.0.mlp": ((1.0,), (0.9,), 2.0),
        "h.1.mlp": ((0.5, 1.0), (0.30000000000000004, 0.9), 2.0),
        "h.2.mlp": ((1.0, 1.0), (0.4, 0.9), 2.0),
        "h.1.attn": ((3.0, 1.0), (0.30000000000000004, 0.9), 2.0),
        "embed": ((1.0,), (0.9,), 1.0),
        "norm": ((1.0, 1.0), (0.4, 0.9), 1.0),
    }


def test_weights_that_must_sum_to_one_do_so_for_every_tensor() -> None:
    rising, falling = (PerTensor((TensorRule(value=value),)) for value in ((0.0, 0.5, 1.0), (1.0, 0.5, 0.0)))
    given = {f"h.{i}.x": TensorSpec((2,), F32) for i in range(5)}
    made = plan(given, given, weights=[rising, falling])
    assert [tensor.weights for tensor in tensors(made).values()] == [
        (1.0,),
        (0.25, 0.75),
        (0.5, 0.5),
        (0.75, 0.25),
        (1.0,),
    ]
    with pytest.raises(RecipeError, match=r"The weights of 'h.1.x' sum to 0.5, not to 1"):
        plan(given, given, weights=[rising, PerTensor((TensorRule(match="h.0.*", value=1.0), TensorRule(value=0.25)))])


def test_weights_that_are_all_zero_are_refused_without_a_base() -> None:
    with pytest.raises(RecipeError, match="All weights of 'x' are 0, and there is no base"):
        plan(ONE, ONE, method="karcher", weights=[0.0, 0.0])
    assert tensors(plan(ONE, ONE, ONE, method="ties", weights=[0.0, 0.0]))["x"].models == (0,)


# methods on task vectors


def test_task_arithmetic_is_planned_as_a_sum_with_the_base_first() -> None:
    made = plan(ONE, ONE, ONE, method="task_arithmetic", weights=[1.0, 0.5], parameters={"lambda": 0.5})
    assert tensors(made)["x"].models == (0, 1, 2)
    assert tensors(made)["x"].weights == (0.25, 0.5, 0.25)
    assert tensors(made)["x"].parameters == {}


def test_task_arithmetic_that_averages_does_not_read_the_base() -> None:
    made = plan(ONE, ONE, ONE, method="task_arithmetic", weights=[0.5, 0.5])
    assert tensors(made)["x"].models == (1, 2)


def test_ties_reads_the_base_first() -> None:
    made = plan(ONE, ONE, ONE, ONE, method="ties", weights=[1.0, 0.0, 2.0])
    assert (tensors(made)["x"].models, tensors(made)["x"].weights) == ((0, 1, 3), (1.0, 2.0))
    assert tensors(made)["x"].rule == "task_vectors"
    words = {"trim": "tensor", "elect": "unweighted", "merge": "mean"}
    assert tensors(made)["x"].parameters == {"density": (0.2, 0.2), "lambda": 1.0, "exact_k": False, **words}


def test_ties_refuses_negative_weights() -> None:
    with pytest.raises(RecipeError, match="must be finite and 0 or more for this method, got -1"):
        plan(ONE, ONE, method="ties", weights=[-1.0])


def test_a_method_with_a_base_takes_names_and_dtypes_from_the_first_ingredient() -> None:
    base, first = specs(a=((1,), F32), b=((1,), F32)), specs(b=((1,), BF16), a=((1,), BF16))
    made = tensors(plan(base, first, method="ties", weights=[1.0]))
    assert list(made) == ["b", "a"]
    assert made["a"].dtype == BF16


def test_weights_that_are_normalized_need_not_sum_to_one() -> None:
    rule = LayerRule(match="y", weights=(1.0, 3.0))
    made = tensors(plan(ONE, ONE, weights=[1.0, 1.0], layers=[rule], normalize=True))
    assert (made["x"].weights, made["y"].weights) == ((0.5, 0.5), (0.25, 0.75))


def test_a_method_whose_base_is_optional_uses_one_that_is_given() -> None:
    assert tensors(plan(ONE, ONE, method="slerp", weights=[0.5, 0.5]))["x"].rule == "models"
    made = tensors(plan(ONE, ONE, ONE, method="slerp", weights=[0.5, 0.5]))["x"]
    assert (made.rule, made.models, made.weights) == ("task_vectors", (0, 1, 2), (0.5, 0.5))


def test_ties_of_one_whole_task_vector_is_a_sum() -> None:
    made = plan(ONE, ONE, method="ties", weights=[0.3], parameters={"density": 1.0})
    assert (tensors(made)["x"].rule, tensors(made)["x"].models) == ("sum", (1,))


def test_tensors_that_are_computed_wider_are_written_as_they_are_stored() -> None:
    wide = {"x": TensorSpec((2,), "F64", stored=BF16)}
    assert tensors(plan(wide, specs(x=((2,), F32))))["x"].dtype == BF16


# files


def test_one_file_has_no_number_and_no_index() -> None:
    made = plan(ONE, ONE)
    assert [shard.path for shard in made.shards] == ["model.safetensors"]
    assert made.components[0].index_path is None


def test_shards_have_final_names_and_an_index() -> None:
    made = plan(ONE, ONE, max_shard_size=12)
    assert [shard.path for shard in made.shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert made.components[0].index_path == "model.safetensors.index.json"
    assert made.index(0) == {
        "metadata": {"total_size": 20},
        "weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"},
    }


def test_components_lie_in_their_folders() -> None:
    parts = [ComponentInput(folder=folder, specs=(ONE, ONE), models=("a", "b")) for folder in ("", "2_Dense")]
    made = plan_merge(parts, weights=[0.5, 0.5], max_shard_size=12)
    assert [shard.path for shard in made.shards][2] == "2_Dense/model-00001-of-00002.safetensors"
    assert made.components[1].index_path == "2_Dense/model.safetensors.index.json"
    assert made.index(1)["weight_map"]["x"] == "model-00001-of-00002.safetensors"
    assert [shard.component for shard in made.shards] == [0, 0, 1, 1]


def test_sizes_are_those_of_the_files() -> None:
    made = plan(ONE, ONE)
    assert made.shards[0].data_bytes == 20
    assert made.output_bytes == len(made.shards[0].header) + 20
    assert made.input_bytes == 40


# the plan as a value


def test_plans_are_values() -> None:
    assert plan(ONE, ONE) == plan(ONE, ONE)
    assert plan(ONE, ONE).digest == plan(ONE, ONE).digest
    assert plan(ONE, ONE).digest != plan(ONE, ONE, weights=[0.4, 0.6]).digest
    assert pickle.loads(pickle.dumps(plan(ONE, ONE))) == plan(ONE, ONE)


def test_a_plan_is_plain_json() -> None:
    made = plan(ONE, ONE, method="ties", weights=[1.0])
    assert json.loads(json.dumps(made.to_dict()))["shards"][0]["tensors"][0]["name"] == "x"


def test_memory_depends_on_threads_and_not_on_the_model() -> None:
    small, large = plan(ONE, ONE), plan(*[specs(x=((10**6, 10**6), BF16))] * 8)
    assert small.peak_memory(2) == large.peak_memory(2) == 2 * 6 * 2**20
    assert large.peak_memory(8, 2**23) <= 2**23
    assert large.peak_memory(2, None, "cuda") == 2 * 2 * 64 * 2**20  # on the card, and on this machine


def test_ties_needs_memory_for_each_ingredient() -> None:
    few = plan(ONE, ONE, ONE, method="ties", weights=[1.0, 1.0])
    many = plan(ONE, ONE, ONE, ONE, method="ties", weights=[1.0] * 3)
    assert many.peak_memory(1) - few.peak_memory(1) == SEARCH_BYTES


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([F32, BF16, "F16", I64, "BOOL"])), min_size=1, max_size=12),
    st.integers(1, 60),
)
def test_every_tensor_is_in_one_shard_and_aligned(shapes: list[tuple[int, str]], size: int) -> None:
    first = {f"t{index}": TensorSpec((count,), dtype) for index, (count, dtype) in enumerate(shapes)}
    made = plan(first, first, max_shard_size=size)
    assert sorted(tensors(made)) == sorted(first)
    assert sum(len(shard.tensors) for shard in made.shards) == len(first)
    for shard in made.shards:
        offset = 0
        for tensor in shard.tensors:
            width = {F32: 4, BF16: 2, "F16": 2, I64: 8, "BOOL": 1}[tensor.dtype]
            assert offset % width == 0
            offset += tensor.spec.nbytes
        assert offset <= size or len(shard.tensors) == 1


@pytest.mark.slow
def test_a_model_of_thirty_thousand_tensors_is_planned_in_seconds() -> None:
    large = {
        f"model.layers.{i // 1000}.experts.{i % 1000}.weight": TensorSpec((7168, 2048), BF16) for i in range(30_000)
    }
    made = plan(large, large)
    assert made.input_bytes == 2 * 30_000 * 7168 * 2048 * 2
    assert len(made.shards) == 177


def test_planning_needs_no_torch() -> None:
    code = "import sys, cocktail_hub.merge.plan; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
