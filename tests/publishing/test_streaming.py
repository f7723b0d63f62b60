"""Hub to Hub on little disk: the same bytes, a bounded disk, and nothing done twice after an interruption."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers
from huggingface_hub import HfApi, constants, snapshot_download
from models import ORG, TOKEN, bert, fill, llama, push, root, text_tokenizer
from safetensors.torch import load_file, save_file

from cocktail_hub import Mix, mix, publish
from cocktail_hub.errors import (
    CheckpointError,
    DiskSpaceError,
    IncompatibleError,
    PublishError,
    RecipeError,
    SourceError,
)
from cocktail_hub.hub import Hub
from cocktail_hub.merge.engine.journal import Entry, Journal
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.merge.run import plan_mix
from cocktail_hub.pipeline.mix import check_and_weigh, prepare
from cocktail_hub.resolve.source import load_recipe_source
from cocktail_hub.storage.cache import JOURNAL, cache_root

if TYPE_CHECKING:
    from typing import Self

    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

API = HfApi(token=TOKEN)
SHARD = 1_000_000
"""Largest weight file of the mixes here; the models have eight times as much."""
SMALL = 600_000
"""Room for configs, tokenizers, cards, journals, and headers in Xet's own cache."""
HEADERS = 3_000_000
"""What reading the headers of the models' files takes, twice."""
XET = not constants.HF_HUB_DISABLE_XET


def big_llama() -> transformers.PreTrainedModel:
    """A Llama of 8 MB in bfloat16."""
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).bfloat16()


@cache
def big_models() -> tuple[str, str]:
    """Two models on the Hub, one in three files, the other in nine."""
    names = (f"{ORG}/low-a", f"{ORG}/low-b")
    for seed, (name, size) in enumerate(zip(names, ("3MB", "1MB"), strict=True)):
        folder = root() / name
        fill(big_llama(), seed).save_pretrained(folder, max_shard_size=size)
        text_tokenizer().save_pretrained(folder)
        push(folder, name)
    return names


_weights = (number / 1024 for number in range(100, 1000))


def new_recipe() -> dict[str, Any]:
    """A mix of the two whose files no Hub has seen yet."""
    weight = next(_weights)
    weights = (weight, 1 - weight)
    return {"ingredients": [{"model": name, "weight": w} for name, w in zip(big_models(), weights, strict=True)]}


@pytest.fixture
def recipe(hub: LoopbackHub) -> dict[str, Any]:
    found = new_recipe()
    hub.clear_requests()
    return found


@pytest.fixture
def low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MixOptions:
    """Options for little disk, with empty caches of their own."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return MixOptions(hub=Hub(token=TOKEN, cache_dir=tmp_path / "hub"), max_shard_size=SHARD, low_disk=True)


@pytest.fixture
def whole(low: MixOptions) -> MixOptions:
    """The same with whole models."""
    return MixOptions(hub=low.hub, max_shard_size=SHARD, force=True)


class Watch:
    """The most bytes that files in some folders took while the block ran, more than before it."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._over = threading.Event()
        self.peak = 0

    def __enter__(self) -> Self:
        self._before = self._used()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.peak = max(self.peak, self._used() - self._before)

    def _used(self) -> int:
        return sum(
            self._size(Path(at, name)) for folder in self._folders for at, _, names in os.walk(folder) for name in names
        )

    def _size(self, path: Path) -> int:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return 0
        return min(status.st_size, 512 * getattr(status, "st_blocks", status.st_size))  # what is really there


def everything(options: MixOptions) -> tuple[Path, ...]:
    """Where a mix may put files."""
    return (cache_root(), options.hub.cache_folder, Path(constants.HF_HOME) / "xet")


def plan_of(recipe: Any, options: MixOptions) -> tuple[MergePlan, ShardInputs]:
    origin = load_recipe_source(recipe, options.hub)
    checked, _ = check_and_weigh(prepare(origin, options))
    inputs = ShardInputs(
        components=checked.components, models=checked.models, scratch=options.hub.cache_folder / "partial"
    )
    return plan_mix(checked, options.max_shard_size), inputs


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".cocktail.json"
    }


def on_hub(repo_id: str, folder: Path) -> dict[str, bytes]:
    """Every file of a repo but its card, which names the repo."""
    found = contents(Path(snapshot_download(repo_id, token=TOKEN, cache_dir=folder / "looked-at")))
    return {name: content for name, content in found.items() if name not in ("README.md", ".gitattributes")}


def sent_ahead(hub: LoopbackHub) -> list[str]:
    """One entry per large file that was sent, and not found to be there."""
    pattern = "/v1/shards" if XET else "/_lfs/put/"
    return [seen.path for seen in hub.requests if seen.method in ("PUT", "POST") and pattern in seen.path]


def downloaded(hub: LoopbackHub) -> int:
    return hub.sent("GET /_cdn/")


def commits(repo_id: str) -> int:
    return len(API.list_repo_commits(repo_id))


# -- the same bytes, a bounded disk ------------------------------------------------------------------------------------


def test_a_mix_on_little_disk_has_the_same_bytes_and_never_holds_a_whole_model(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions, whole: MixOptions
) -> None:
    plan, inputs = plan_of(recipe, low)
    hub.clear_requests()
    with Watch(tmp_path) as watch:
        made = mix(recipe, output=tmp_path / "low", options=low)
    partial = max(inputs.fetched_bytes(shard) for shard in plan.shards)
    assert partial < 2.1 * SHARD
    assert watch.peak < plan.output_bytes + partial + SMALL < plan.input_bytes
    assert plan.input_bytes <= downloaded(hub) < plan.input_bytes + HEADERS  # the weights once, and their headers
    assert contents(made.path) == contents(mix(recipe, output=tmp_path / "whole", options=whole).path)


def test_publishing_on_little_disk_holds_one_file_and_what_it_is_made_from(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions, whole: MixOptions
) -> None:
    plan, inputs = plan_of(recipe, low)
    partial = max(inputs.fetched_bytes(shard) for shard in plan.shards)
    largest = max(shard.nbytes for shard in plan.shards)
    with Watch(*everything(low)) as watch:
        publish(recipe, "alice/low", options=low)
    assert largest < watch.peak < partial + largest + SMALL < plan.output_bytes / 2
    assert commits("alice/low") == 2  # that of the new repo, and this one
    assert not list((cache_root() / "staging").iterdir())
    publish(recipe, "alice/whole", options=whole)
    low_files, whole_files = on_hub("alice/low", tmp_path), on_hub("alice/whole", tmp_path)
    assert low_files.keys() == whole_files.keys()
    assert [name for name in low_files if low_files[name] != whole_files[name]] == []


def test_the_card_is_that_of_the_ordinary_way(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    publish(recipe, "alice/low-card", options=low)
    publish(mix(recipe, options=MixOptions(hub=low.hub, max_shard_size=SHARD)), "alice/whole-card", options=low)
    cards = [
        (Path(snapshot_download(name, token=TOKEN, cache_dir=tmp_path / "looked-at")) / "README.md").read_text()
        for name in ("alice/low-card", "alice/whole-card")
    ]
    assert cards[0].replace("low-card", "whole-card") == cards[1]


def test_a_cached_mix_is_uploaded_unchanged(
    hub: LoopbackHub, recipe: dict[str, Any], low: MixOptions, whole: MixOptions
) -> None:
    mix(recipe, options=whole)
    hub.clear_requests()
    publish(recipe, "alice/low-cached", options=low)
    assert downloaded(hub) == 0
    assert commits("alice/low-cached") == 2


def test_publishing_again_changes_nothing(hub: LoopbackHub, recipe: dict[str, Any], low: MixOptions) -> None:
    first = publish(recipe, "alice/low-twice", options=low)
    hub.clear_requests()
    again = publish(recipe, "alice/low-twice", options=low)
    assert again.oid == first.oid
    assert XET or sent_ahead(hub) == []  # over Xet, the client finds out by itself that all chunks are there


def test_a_pull_request_is_opened_on_little_disk_too(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    API.create_repo("alice/low-pr", exist_ok=True)
    info = publish(recipe, "alice/low-pr", create_pr=True, options=low)
    assert info.pr_num == 1
    assert commits("alice/low-pr") == 1
    names = API.list_repo_files("alice/low-pr", revision="refs/pr/1")
    assert sum(name.endswith(".safetensors") for name in names) == 9


@pytest.mark.slow
def test_the_command_line_takes_low_disk(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    done = subprocess.run(_command(file, "alice/low-cli", low), capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{hub.url}/alice/low-cli/commit/")
    assert on_hub("alice/low-cli", tmp_path).keys() >= {"config.json", "model-00009-of-00009.safetensors"}


# -- interruptions -----------------------------------------------------------------------------------------------------


def _command(recipe: Path, repo_id: str, options: MixOptions) -> list[str]:
    run = "import sys; from cocktail_hub.cli import main; sys.exit(main())"
    where = ["--cache-dir", str(options.hub.cache_folder), "--token", TOKEN, "--max-shard-size", str(SHARD)]
    return [sys.executable, "-c", run, "push", str(recipe), repo_id, "--low-disk", *where]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_publication_is_resumed(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    run = subprocess.Popen(_command(file, "alice/low-killed", low), stderr=subprocess.DEVNULL)
    while len(sent_ahead(hub)) < 3:
        assert run.poll() is None
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    (journal,) = cache_root().glob(f"staging/*/weights/{JOURNAL}")
    noted = json.loads(journal.read_text())["finished"]
    digests = {sha256 for _, sha256, uploaded in noted.values() if uploaded}
    assert 2 <= len(digests) < 9
    assert commits("alice/low-killed") == 1
    plan, _ = plan_of(recipe, low)
    hub.clear_requests()
    publish(str(file), "alice/low-killed", options=low)
    left = sum(shard.input_bytes for shard in plan.shards if shard.path not in noted)
    assert left <= downloaded(hub) < left + HEADERS
    assert [path for path in sent_ahead(hub) if path.rpartition("/")[2] in digests] == []
    assert 9 - len(digests) - 1 <= len(sent_ahead(hub)) <= 9 - len(digests)  # one may have arrived, unrecorded
    assert commits("alice/low-killed") == 2
    made = mix(recipe, options=MixOptions(hub=low.hub, max_shard_size=SHARD))
    found = on_hub("alice/low-killed", tmp_path)
    assert [
        name
        for name, content in found.items()
        if name.endswith("tensors") and content != (made.path / name).read_bytes()
    ] == []


def test_after_a_refused_commit_nothing_is_made_again(
    hub: LoopbackHub, recipe: dict[str, Any], low: MixOptions
) -> None:
    hub.fail("POST .*/commit/", status=403)
    with pytest.raises(PublishError, match="may"):
        publish(recipe, "alice/low-refused", options=low)
    assert len(sent_ahead(hub)) == 9
    hub.clear_requests()
    publish(recipe, "alice/low-refused", options=low)
    assert sent_ahead(hub) == []
    assert downloaded(hub) < HEADERS
    assert commits("alice/low-refused") == 2


def test_what_waited_to_be_uploaded_is_not_merged_again(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    hub.fail("/preupload/", status=403, times=1)
    with pytest.raises(PublishError):
        publish(recipe, "alice/low-waited", options=low)
    plan, inputs = plan_of(recipe, low)
    hub.clear_requests()
    publish(recipe, "alice/low-waited", options=low)
    assert downloaded(hub) < plan.input_bytes - inputs.fetched_bytes(plan.shards[0]) + HEADERS
    assert on_hub("alice/low-waited", tmp_path).keys() >= {shard.path for shard in plan.shards}


@pytest.mark.skipif(XET, reason="takes a file out of the LFS store")
def test_files_that_the_hub_has_deleted_are_made_again(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions
) -> None:
    hub.fail("POST .*/commit/", status=403)
    with pytest.raises(PublishError):
        publish(recipe, "alice/low-dropped", options=low)
    sha256 = sent_ahead(hub)[4].rpartition("/")[2]
    hub._site.blobs.path(sha256).unlink()
    with pytest.raises(PublishError, match=r"no longer has all weight files.*\n.*\nRun the same command again"):
        publish(recipe, "alice/low-dropped", options=low)
    hub.clear_requests()
    publish(recipe, "alice/low-dropped", options=low)
    assert [path.rpartition("/")[2] for path in sent_ahead(hub)] == [sha256]  # the others are still there
    assert commits("alice/low-dropped") == 2


def test_a_download_resumes_where_the_connection_broke(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocktail_hub.hub.errors.FIRST_WAIT", 0.01)
    expected = contents(mix(recipe, output=tmp_path / "calm", options=low).path)
    hub.fail("GET /_cdn/.*", cut_after=150_000, times=5)
    hub.fail("GET /_cdn/.*", status=503, times=3)
    rough = mix(
        recipe,
        output=tmp_path / "rough",
        options=MixOptions(hub=low.hub, max_shard_size=SHARD, low_disk=True, force=True),
    )
    assert contents(rough.path) == expected


def test_an_unavailable_hub_leaves_what_is_finished(
    hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocktail_hub.hub.errors.FIRST_WAIT", 0.001)
    record = Journal.record

    def recording(journal: Journal, path: str, entry: Entry) -> None:
        record(journal, path, entry)
        if len(journal.finished) == 3:
            hub.fail("GET /_cdn/", status=503, times=10_000)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record", recording)
        with pytest.raises(SourceError, match="refused a request"):
            mix(recipe, output=tmp_path / "low", options=low)
    hub.clear_faults()
    finished = {path.name for path in tmp_path.glob(".low.*/model-*.safetensors")}
    plan, _ = plan_of(recipe, low)
    hub.clear_requests()
    mix(recipe, output=tmp_path / "low", options=low)
    left = sum(shard.input_bytes for shard in plan.shards if shard.path not in finished)
    assert left < downloaded(hub) < left + HEADERS
    assert left < 0.8 * plan.input_bytes


# -- ingredients of every kind -----------------------------------------------------------------------------------------


def both_ways(recipe: dict[str, Any], tmp_path: Path, low: MixOptions) -> tuple[Mix, Mix]:
    first = mix(recipe, output=tmp_path / "low", options=low)
    options = MixOptions(hub=low.hub, max_shard_size=low.max_shard_size, force=True)
    return first, mix(recipe, output=tmp_path / "whole", options=options)


def halves(*names: str, **keys: Any) -> dict[str, Any]:
    return {"ingredients": [{"model": name, "weight": 1 / len(names)} for name in names], **keys}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # what peft says
def test_adapters_on_one_base_fetch_it_once(hub: LoopbackHub, tmp_path: Path, low: MixOptions) -> None:
    fill(big_llama(), 5).save_pretrained(tmp_path / "base")
    push(tmp_path / "base", f"{ORG}/low-base")
    for seed, dora in enumerate((False, True)):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"], use_dora=dora)
        adapted = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted.peft_config["default"].base_model_name_or_path = f"{ORG}/low-base"
        adapted.save_pretrained(tmp_path / f"adapter-{seed}")
        (tmp_path / f"adapter-{seed}/README.md").unlink()  # names the base by its folder
        push(tmp_path / f"adapter-{seed}", f"{ORG}/low-adapter-{seed}")
    recipe = halves(f"{ORG}/low-adapter-0", f"{ORG}/low-adapter-1")
    plan, inputs = plan_of(recipe, low)
    assert sum(inputs.fetched_bytes(shard) for shard in plan.shards) < plan.output_bytes
    hub.clear_requests()
    a, b = both_ways(recipe, tmp_path, low)
    assert contents(a.path) == contents(b.path)


def test_renamed_tensors_and_pickled_files_are_read_on_little_disk(
    hub: LoopbackHub, tmp_path: Path, low: MixOptions
) -> None:
    one, two, three = (fill(bert(), seed) for seed in range(3))
    one.save_pretrained(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/config.json").write_text((tmp_path / "one/config.json").read_text())
    save_file(
        {f"bert.{name}": tensor for name, tensor in two.state_dict().items()},
        tmp_path / "two/model.safetensors",
        {"format": "pt"},
    )
    three.save_pretrained(tmp_path / "three")
    torch.save(load_file(tmp_path / "three/model.safetensors"), tmp_path / "three/pytorch_model.bin")
    (tmp_path / "three/model.safetensors").unlink()
    names = [f"{ORG}/low-{name}" for name in ("one", "two", "three")]
    for name in ("one", "two", "three"):
        push(tmp_path / name, f"{ORG}/low-{name}")
    small = MixOptions(hub=low.hub, max_shard_size=10_000, low_disk=True)
    a, b = both_ways(halves(*names), tmp_path, small)
    assert contents(a.path) == contents(b.path)
    assert len(list(a.path.glob("model-*.safetensors"))) > 2


def test_ties_that_differ_are_refused_on_little_disk_too(hub: LoopbackHub, tmp_path: Path, low: MixOptions) -> None:
    tied, loose = fill(llama(tie_word_embeddings=True), 0), fill(llama(), 1)
    for name, model in (("tied", tied), ("loose", loose)):
        model.save_pretrained(tmp_path / name)
        push(tmp_path / name, f"{ORG}/low-{name}")
    with pytest.raises(IncompatibleError, match=r"lm_head\.weight"):
        mix(halves(f"{ORG}/low-tied", f"{ORG}/low-loose"), output=tmp_path / "out", options=low)


def test_local_ingredients_are_read_where_they_are(hub: LoopbackHub, tmp_path: Path, low: MixOptions) -> None:
    recipe = halves(*(str(root() / name) for name in big_models()))
    plan, inputs = plan_of(recipe, low)
    assert [inputs.fetched_bytes(shard) for shard in plan.shards] == [0] * len(plan.shards)
    a, b = both_ways(recipe, tmp_path, low)
    assert contents(a.path) == contents(b.path)


def test_a_local_file_that_changes_between_two_shards_is_noticed(tmp_path: Path, low: MixOptions) -> None:
    for seed in range(2):
        fill(llama(), seed).save_pretrained(tmp_path / f"m{seed}")
    options = MixOptions(hub=low.hub, max_shard_size=10_000)
    plan, inputs = plan_of(halves(str(tmp_path / "m0"), str(tmp_path / "m1")), options)
    with inputs.opened(plan.shards[0]):
        pass
    os.utime(tmp_path / "m1/model.safetensors", (1, 1))
    with pytest.raises(CheckpointError, match=r"'model\.safetensors' of '.*m1' changed"), inputs.opened(plan.shards[1]):
        pass


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_unknown_weights_are_refused_because_scoring_takes_whole_models(
    hub: LoopbackHub, recipe: dict[str, Any], low: MixOptions
) -> None:
    recipe = {
        "ingredients": [{"model": entry["model"]} for entry in recipe["ingredients"]],
        "weighting": {"rule": "softmax", "examples": [{"input": "the cat", "output": "sat"}] * 2},
    }
    with pytest.raises(RecipeError, match=r"every ingredient whole on the disk.*\n.*\n.*cocktail score"):
        mix(recipe, options=low)


def test_too_little_disk_is_reported_before_anything_is_fetched(
    hub: LoopbackHub, recipe: dict[str, Any], low: MixOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 2_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    hub.clear_requests()
    with pytest.raises(DiskSpaceError, match="one file of the mix"):
        publish(recipe, "alice/low-full", options=low)
    assert downloaded(hub) < HEADERS


def test_a_disk_that_fills_up_while_models_are_fetched_is_a_disk_space_error(
    recipe: dict[str, Any], low: MixOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cocktail_hub.hub.ranges.fetch_ranges", full)
    with pytest.raises(DiskSpaceError, match="bytes free, but the mix needs"):
        publish(recipe, "alice/low-runs-full", options=low)


def test_nothing_is_fetched_offline(hub: LoopbackHub, tmp_path: Path, recipe: dict[str, Any], low: MixOptions) -> None:
    plan, inputs = plan_of(recipe, low)
    for model in inputs.models:
        vars(model.body.files)["hub"] = Hub(cache_dir=low.hub.cache_dir, local_files_only=True)
    inputs.scratch = tmp_path / "partial"
    with pytest.raises(SourceError, match="not in the local cache"), inputs.opened(plan.shards[0]):
        pass
