"""Tiny random models of every family in docs/checkpoints.md."""

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
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
SHORT = {**TEXT, "max_position_embeddings": 32}
LONG = {**SEQ2SEQ, "max_position_embeddings": 32}
GPT = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, **SPECIAL}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 8,
}
SPEECH = {
    **TEXT,
    "conv_dim": (8, 8),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
STATE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
GPT_LIKE = {
    **{key: value for key, value in SHORT.items() if key != "intermediate_size"},
    "ffn_dim": 32,
    "word_embed_proj_dim": 16,
}


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


def model_of(model_class: str, **config: object) -> hf.PreTrainedModel:
    """A model of a class with such a config."""
    cls = getattr(hf, model_class)
    return cls(cls.config_class(**config))


def jamba() -> hf.PreTrainedModel:
    return model_of(
        "JambaForCausalLM",
        **DECODER,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    )


def recurrent_gemma() -> hf.PreTrainedModel:
    sizes = {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8}
    return model_of("RecurrentGemmaForCausalLM", **{**DECODER, **sizes})


def llama4() -> hf.PreTrainedModel:
    sizes = {"intermediate_size": 16, "intermediate_size_mlp": 32, "head_dim": 8, "num_local_experts": 4}
    config = hf.Llama4TextConfig(**{**DECODER, **sizes}, interleave_moe_layer_step=2)
    return hf.Llama4ForCausalLM(config)


def llava() -> hf.PreTrainedModel:
    text, vision = {**DECODER, "model_type": "llama"}, {**IMAGE, "model_type": "clip_vision_model"}
    return model_of("LlavaForConditionalGeneration", text_config=text, vision_config=vision, image_token_index=3)


def paligemma() -> hf.PreTrainedModel:
    text, vision = {**DECODER, "head_dim": 8, "model_type": "gemma"}, {**IMAGE, "projection_dim": 16}
    vision["model_type"] = "siglip_vision_model"
    return model_of("PaliGemmaForConditionalGeneration", text_config=text, vision_config=vision, image_token_index=3)


def gemma3() -> hf.PreTrainedModel:
    text = {**DECODER, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return model_of("Gemma3ForConditionalGeneration", text_config=text, vision_config=IMAGE, mm_tokens_per_image=4)


def idefics3() -> hf.PreTrainedModel:
    text = {**DECODER, "model_type": "llama"}
    return model_of("Idefics3ForConditionalGeneration", text_config=text, vision_config=IMAGE, scale_factor=2)


def qwen2_5_vl() -> hf.PreTrainedModel:
    rope = {"type": "mrope", "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "out_hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 2,
        "fullatt_block_indexes": [0],
    }
    text = {**DECODER, "rope_parameters": rope}
    return model_of("Qwen2_5_VLForConditionalGeneration", text_config=text, vision_config=vision)


def blip2() -> hf.PreTrainedModel:
    text = {**GPT_LIKE, "model_type": "opt"}
    former = {**SHORT, "encoder_hidden_size": 16, "vocab_size": 32}
    return model_of(
        "Blip2ForConditionalGeneration",
        text_config=text,
        vision_config=IMAGE,
        qformer_config=former,
        num_query_tokens=4,
    )


def detr() -> hf.PreTrainedModel:
    return model_of(
        "DetrForObjectDetection",
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=hf.ResNetConfig(**RESNET, out_features=["stage2"]),
        **{key: value for key, value in SEQ2SEQ.items() if key.startswith(("d_model", "encoder", "decoder_"))},
        num_queries=4,
    )


def clap() -> hf.PreTrainedModel:
    audio = {
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_mel_bins": 8,
        "spec_size": 32,
        "window_size": 4,
        "projection_dim": 8,
    }
    return model_of("ClapModel", text_config={**SHORT, "projection_dim": 8}, audio_config=audio, projection_dim=8)


def encoder_decoder() -> hf.PreTrainedModel:
    encoder, decoder = (hf.BertConfig(**SHORT, is_decoder=last, add_cross_attention=last) for last in (False, True))
    return hf.EncoderDecoderModel(hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def speech_encoder_decoder() -> hf.PreTrainedModel:
    encoder = hf.Wav2Vec2Config(**SPEECH)
    decoder = hf.BertConfig(**SHORT, is_decoder=True, add_cross_attention=True)
    return hf.SpeechEncoderDecoderModel(hf.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


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
"""Row of docs/checkpoints.md -> a model of the family with random weights; saved in every way by the tests."""

MORE_FAMILIES = {
    "OPT": lambda: model_of("OPTForCausalLM", **GPT_LIKE),
    "GPT-NeoX": lambda: model_of("GPTNeoXForCausalLM", **SHORT),
    "GPT-J": lambda: model_of("GPTJForCausalLM", **GPT, rotary_dim=4),
    "BLOOM": lambda: model_of("BloomForCausalLM", vocab_size=32, hidden_size=16, n_layer=2, n_head=2),
    "Falcon": lambda: model_of("FalconForCausalLM", vocab_size=32, hidden_size=16, **LAYERS),
    "Phi": lambda: model_of("PhiForCausalLM", **SHORT),
    "Phi-3": lambda: model_of("Phi3ForCausalLM", **DECODER),
    "StableLM": lambda: model_of("StableLmForCausalLM", **DECODER),
    "OLMo 2": lambda: model_of("Olmo2ForCausalLM", **DECODER),
    "Gemma 3": gemma3,
    "Cohere": lambda: model_of("CohereForCausalLM", **DECODER),
    "Granite": lambda: model_of("GraniteForCausalLM", **DECODER),
    "GraniteMoE": lambda: model_of("GraniteMoeForCausalLM", **DECODER, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3-MoE": lambda: model_of("Qwen3MoeForCausalLM", **DECODER, head_dim=8, num_experts=4, moe_intermediate_size=8),
    "DeepSeek-V2": lambda: model_of("DeepseekV2ForCausalLM", **DECODER, **LATENT),
    "DeepSeek-V3": lambda: model_of("DeepseekV3ForCausalLM", **DECODER, **LATENT),
    "gpt-oss": lambda: model_of("GptOssForCausalLM", **DECODER, head_dim=8, num_local_experts=4),
    "Llama 4": llama4,
    "Jamba": jamba,
    "Mamba-2": lambda: model_of("Mamba2ForCausalLM", **STATE, num_heads=4, head_dim=8, n_groups=1),
    "RecurrentGemma": recurrent_gemma,
    "LLaVA": llava,
    "PaliGemma": paligemma,
    "Idefics3": idefics3,
    "Qwen2.5-VL": qwen2_5_vl,
    "BLIP-2": blip2,
    "SigLIP": lambda: model_of("SiglipModel", text_config=SHORT, vision_config=IMAGE),
    "DINOv2": lambda: model_of("Dinov2ForImageClassification", **IMAGE),
    "Swin": lambda: model_of("SwinForImageClassification", **SWIN),
    "ConvNeXt": lambda: model_of("ConvNextForImageClassification", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "ResNet": lambda: model_of("ResNetForImageClassification", **RESNET),
    "DETR": detr,
    "SegFormer": lambda: model_of(
        "SegformerForSemanticSegmentation", hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, decoder_hidden_size=16
    ),
    "wav2vec2": lambda: model_of("Wav2Vec2ForCTC", **SPEECH),
    "HuBERT": lambda: model_of("HubertForCTC", **SPEECH),
    "CLAP": clap,
    "ELECTRA": lambda: model_of("ElectraForPreTraining", **SHORT, embedding_size=8),
    "DeBERTa-v2": lambda: model_of(
        "DebertaV2ForMaskedLM", **SHORT, relative_attention=True, pos_att_type=["c2p", "p2c"]
    ),
    "MPNet": lambda: model_of("MPNetForMaskedLM", **SHORT),
    "XLNet": lambda: model_of("XLNetLMHeadModel", vocab_size=32, d_model=16, n_layer=2, n_head=2, d_inner=32),
    "Longformer": lambda: model_of("LongformerForMaskedLM", **SHORT, attention_window=4),
    "BigBird": lambda: model_of("BigBirdForMaskedLM", **SHORT),
    "Funnel": lambda: model_of(
        "FunnelForMaskedLM", vocab_size=32, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32
    ),
    "ESM": lambda: model_of("EsmForMaskedLM", **SHORT, mask_token_id=3, position_embedding_type="rotary"),
    "mT5": lambda: model_of("MT5ForConditionalGeneration", **T5),
    "mBART": lambda: model_of("MBartForConditionalGeneration", **LONG),
    "M2M100": lambda: model_of("M2M100ForConditionalGeneration", **LONG),
    "Marian": lambda: model_of("MarianMTModel", **LONG),
    "Pegasus": lambda: model_of("PegasusForConditionalGeneration", **LONG),
    "LED": lambda: model_of("LEDForConditionalGeneration", **SEQ2SEQ, attention_window=4),
    "EncoderDecoder": encoder_decoder,
    "SpeechEncoderDecoder": speech_encoder_decoder,
}
"""The same for further families, saved with several differences at once."""
