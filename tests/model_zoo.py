"""Tiny random models of every family in docs/checkpoints.md, and the ways in which their checkpoints differ."""

from __future__ import annotations

import transformers as hf

TEXT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DECODER = {**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 32}
IMAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
}
SEQ2SEQ = {
    "vocab_size": 32,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def bert(cls: str = "BertForMaskedLM", **extra: object) -> hf.PreTrainedModel:
    return getattr(hf, cls)(hf.BertConfig(**TEXT, max_position_embeddings=16, **extra))


def qwen2_moe(**extra: object) -> hf.PreTrainedModel:
    config = hf.Qwen2MoeConfig(
        **DECODER,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        **extra,
    )
    return hf.Qwen2MoeForCausalLM(config)


def qwen2_vl() -> hf.PreTrainedModel:
    rope = {"type": "mrope", "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 16,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 2,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = hf.Qwen2VLConfig(text_config={**DECODER, "rope_parameters": rope}, vision_config=vision)
    return hf.Qwen2VLForConditionalGeneration(config)


def clip() -> hf.PreTrainedModel:
    text = {**TEXT, "max_position_embeddings": 16}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=8))


def distilbert() -> hf.PreTrainedModel:
    config = hf.DistilBertConfig(
        vocab_size=32, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=16
    )
    return hf.DistilBertForMaskedLM(config)


def modernbert() -> hf.PreTrainedModel:
    config = hf.ModernBertConfig(
        **TEXT, max_position_embeddings=32, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2
    )
    return hf.ModernBertForMaskedLM(config)


def whisper() -> hf.PreTrainedModel:
    config = hf.WhisperConfig(
        **SEQ2SEQ, num_mel_bins=8, max_source_positions=16, max_target_positions=16, begin_suppress_tokens=None
    )
    return hf.WhisperForConditionalGeneration(config)


FAMILIES = {
    "BERT": bert,
    "RoBERTa": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**TEXT, max_position_embeddings=20)),
    "ALBERT": lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**TEXT, embedding_size=8, max_position_embeddings=16)),
    "DistilBERT": distilbert,
    "ModernBERT": modernbert,
    "XLM-R": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**TEXT, max_position_embeddings=20)),
    "T5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "T5 gated": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "BART": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**SEQ2SEQ, max_position_embeddings=16)),
    "GPT-2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, **SPECIAL)
    ),
    "Llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)),
    "Qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**DECODER, tie_word_embeddings=True)),
    "Qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER, head_dim=8, tie_word_embeddings=True)),
    "Qwen2-MoE": qwen2_moe,
    "Mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4)),
    "Gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**DECODER, head_dim=8)),
    "Mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "ViT": lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)),
    "CLIP": clip,
    "Whisper": whisper,
    "Qwen2-VL": qwen2_vl,
}
"""Row of docs/checkpoints.md -> a model of the family with random weights."""
