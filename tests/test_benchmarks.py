"""The benchmarks run: checkpoints, measuring, and a whole run of ours and the floor at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import models
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.whole

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _module(monkeypatch, name) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__(name)


@pytest.fixture
def checkpoints(monkeypatch):
    return _module(monkeypatch, "checkpoints")


def test_a_synthetic_checkpoint_loads_as_the_model_it_says_it_is(tmp_path, checkpoints):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    case = checkpoints.Case(size="tiny", count=2, dtype="bfloat16")
    checkpoints.make(tmp_path / "m", case, 1)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.bfloat16
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("word7")["input_ids"] == [7]


def test_ingredients_differ_from_the_base_a_tenth_as_much_as_weights_spread(tmp_path, checkpoints):
    case = checkpoints.Case(size="tiny", count=2, dtype="float32")
    for number in (0, 1):
        checkpoints.make(tmp_path / str(number), case, number)
    base, model = (load_file(tmp_path / number / "model.safetensors")["lm_head.weight"] for number in "01")
    assert base.std().item() == pytest.approx(0.02, rel=0.05)
    assert (model - base).std().item() == pytest.approx(0.002, rel=0.05)


def test_large_checkpoints_are_cut_into_files_with_an_index(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 100_000)
    case = checkpoints.Case(size="tiny", count=2, dtype="bfloat16")
    checkpoints.make(tmp_path / "m", case, 1)
    weight_map = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map.keys() == checkpoints.shapes("tiny").keys()
    assert len(set(weight_map.values())) > 1
    for name, file in weight_map.items():
        with safe_open(tmp_path / "m" / file, "pt") as opened:
            assert tuple(opened.get_slice(name).get_shape()) == checkpoints.shapes("tiny")[name]


def test_parameters_are_those_of_the_models_named(checkpoints):
    sizes = {
        size: checkpoints.Case(size=size, count=2, dtype="bfloat16").parameters for size in ("1B", "7B", "embedder")
    }
    assert sizes["1B"] == 1_100_048_384  # TinyLlama-1.1B
    assert sizes["7B"] == 6_738_415_616  # Llama-2-7B
    assert sizes["embedder"] == 109_482_240  # bert-base-uncased


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory and bytes are read from /proc")
def test_the_meter_counts_memory_of_children_bytes_and_cpu(tmp_path, monkeypatch):
    meter = _module(monkeypatch, "meter")
    source = tmp_path / "in"
    source.write_bytes(bytes(3_000_000))
    child = "import time; kept = bytearray(b'x' * 80_000_000); time.sleep(0.5)"
    code = (
        f"import subprocess, sys; open({str(source)!r}, 'rb').read(); kept = bytearray(b'x' * 40_000_000); "
        f"open({str(tmp_path / 'out')!r}, 'wb').write(bytes(5_000_000)); "
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    found = meter.measure([sys.executable, "-c", code], log=tmp_path / "log", env=os.environ, timeout=60)
    assert found.exit_code == 0
    assert 120e6 < found.peak_anonymous < 300e6  # both processes, and nothing of this one
    assert found.peak_resident > found.peak_anonymous
    assert 3e6 < found.read < 9e6
    assert 5e6 <= found.written < 6e6
    assert 0.5 <= found.wall < 30
    assert 0 < found.cpu < found.wall + 5


def test_the_meter_reports_failures_and_ends_what_takes_too_long(tmp_path, monkeypatch):
    meter = _module(monkeypatch, "meter")
    failed = meter.measure([sys.executable, "-c", "exit(3)"], log=tmp_path / "log", env=os.environ, timeout=60)
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    late = meter.measure(slow, log=tmp_path / "log", env=os.environ, timeout=0.5)
    assert failed.exit_code == 3
    assert late.exit_code < 0
    assert late.wall < 30


@pytest.mark.slow
def test_a_run_saves_medians_and_ratios_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    contenders = ["floor", "cocktail-linear", "cocktail-ties"]
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--work", str(tmp_path), "--case", "tiny:2:bfloat16"]
    command += ["--contenders", *contenders, "--rounds", "1", "--warmup", "0", "--docs", str(tmp_path / "docs")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [row["contender"] for row in saved["rows"]] == contenders
    assert not any(row["failure"] for row in saved["rows"]), done.stderr
    ours = saved["rows"][1]
    assert ours["to_floor"]["wall"] == pytest.approx(ours["median"]["wall"] / saved["rows"][0]["median"]["wall"])
    assert "cocktail-linear" in done.stdout
    assert (tmp_path / "docs" / "bench-parameters.png").stat().st_size > 1000
    assert not (tmp_path / "models").exists()


def test_medians_are_taken_over_runs_and_later_rows_replace_earlier_ones(tmp_path, monkeypatch):
    results = _module(monkeypatch, "results")
    figures = dict.fromkeys(results.FIGURES, 1)
    runs = [{**figures, "wall": wall} for wall in (9.0, 2.0, 4.0)]
    row = results.Row(case="tiny:2:float32", parameters=1, count=2, contender="floor", machine={}, runs=runs)
    table = results.Results([])
    table.put(results.Row(case="tiny:2:float32", parameters=1, count=2, contender="floor", machine={}, failure="no"))
    table.put(row)
    table.write(tmp_path / "r.json")
    (found,) = results.Results.read(tmp_path / "r.json").rows
    assert found.median("wall") == 4.0
    assert found.spread("wall") == (2.0, 9.0)
    assert "| floor | 4.0 (2.0-9.0) | 1.00 |" in table.table()


@pytest.mark.parametrize(("family", "row"), [
    ("bert", {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris"]}),
    ("llama", {"input": "where is the pod", "output": "in the park"}),
])  # fmt: skip
def test_scoring_and_sweeps_are_timed_on_every_kind(tmp_path, monkeypatch, family, row):
    scoring = _module(monkeypatch, "scoring")
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(2)), encoding="utf-8")
    folders = [str(folder) for folder in models.pair(family).folders]
    job = {"models": folders, "examples": str(tmp_path / "examples.jsonl")}
    job["finished"] = scoring.finished(folders, tmp_path / "finished")
    assert len(set(job["finished"])) == scoring.POINTS
    assert all(scoring.RUNS[name](job) > 0 for name in scoring.RUNS if name != "lm-cocktail")
