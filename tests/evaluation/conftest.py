from __future__ import annotations

import pytest
import scoring_models
import torch


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Models this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models_root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def llama(models_root):
    return scoring_models.save_llama(models_root / "llama")


@pytest.fixture(scope="session")
def chat_llama(models_root):
    return scoring_models.save_llama(models_root / "chat", bos=True, template=scoring_models.TEMPLATE)


@pytest.fixture(scope="session")
def bert(models_root):
    return scoring_models.save_bert(models_root / "bert")


@pytest.fixture(scope="session")
def embedder(models_root):
    return scoring_models.save_sentence_transformer(models_root / "embedder", prompts={"query": "question: "})


@pytest.fixture(scope="session")
def reranker(models_root):
    return scoring_models.save_reranker(models_root / "reranker")


@pytest.fixture(scope="session")
def two_logits(models_root):
    return scoring_models.save_reranker(models_root / "two_logits", labels=2)


@pytest.fixture(scope="session")
def t5(models_root):
    return scoring_models.save_t5(models_root / "t5")
