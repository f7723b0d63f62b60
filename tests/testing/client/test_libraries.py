"""The libraries on top of the client: cards, mixins, transformers, sentence-transformers, the `hf` command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi, ModelCard, metadata_update

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def test_a_card_is_validated_pushed_and_updated(api: HfApi, repo: str, token: str) -> None:
    card = ModelCard("---\nlicense: mit\ntags: [merge]\n---\n# hi\n")
    card.validate()
    card.push_to_hub(repo, token=token)
    metadata_update(repo, {"tags": ["new"]}, token=token, overwrite=True)
    assert ModelCard.load(repo, token=token).data.to_dict() == {"license": "mit", "tags": ["new"]}
    with pytest.raises(ValueError, match=r"license.* must be one of those at .*Not A License"):
        ModelCard("---\nlicense: Not A License\n---\n").validate()
    with pytest.raises(ValueError, match='"tags" must be an array of strings'):
        api.upload_file(path_or_fileobj=b"---\ntags: one\n---\n", path_in_repo="README.md", repo_id=repo)


def test_a_mixin_model_makes_the_round_trip(token: str, repo: str) -> None:
    import torch
    from huggingface_hub import PyTorchModelHubMixin

    class Model(torch.nn.Module, PyTorchModelHubMixin, library_name="of-a-test"):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(size, size)

    model = Model(size=5)
    model.push_to_hub(repo, token=token)
    assert torch.equal(Model.from_pretrained(repo, token=token).layer.weight, model.layer.weight)
    assert ModelCard.load(repo, token=token).data.library_name == "of-a-test"


def test_transformers_and_sentence_transformers_push_and_load(api: HfApi, repo: str, token: str) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertModel(config)
    model.push_to_hub(repo, token=token, max_shard_size="20KB")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").push_to_hub(repo, token=token)

    assert [name for name in api.list_repo_files(repo) if "-of-" in name]
    loaded = AutoModel.from_pretrained(repo, token=token)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert AutoConfig.from_pretrained(repo, token=token, revision=api.model_info(repo).sha).hidden_size == 32
    assert AutoTokenizer.from_pretrained(repo, token=token)("a b")["input_ids"] == [2, 3]

    embedder = SentenceTransformer(repo, token=token, device="cpu")
    api.create_repo(f"{repo}-st")
    embedder.push_to_hub(f"{repo}-st", token=token, exist_ok=True)
    again = SentenceTransformer(f"{repo}-st", token=token, device="cpu")
    assert (embedder.encode(["a b"]) == again.encode(["a b"])).all()


def test_the_hf_command_talks_to_it(hub: LoopbackHub, filled: str, token: str, tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("hf"))
    environment = {**os.environ, **hub.environment(tmp_path / "home", token), "HOME": str(tmp_path)}

    def run(*arguments: str) -> str:
        result = subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    (tmp_path / "b.txt").write_text("from the command line", encoding="utf-8")
    run("upload", filled, str(tmp_path / "b.txt"), "b.txt")
    assert "alice" in run("auth", "whoami")
    assert str(tmp_path / "home" / "hub") in run("download", filled, "b.txt")
