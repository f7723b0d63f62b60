"""Tiny random models of further families in docs/checkpoints.md."""

import transformers as hf
from model_zoo import DECODER, IMAGE, SEQ2SEQ, SPECIAL, T5, TEXT

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


def made(model_class, **config):
    """A model of a class with such a config."""
    cls = getattr(hf, model_class)
    return cls(cls.config_class(**config))


def jamba():
    return made(
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


def recurrent_gemma():
    sizes = {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8}
    return made("RecurrentGemmaForCausalLM", **{**DECODER, **sizes})


def llama4():
    sizes = {"intermediate_size": 16, "intermediate_size_mlp": 32, "head_dim": 8, "num_local_experts": 4}
    config = hf.Llama4TextConfig(**{**DECODER, **sizes}, interleave_moe_layer_step=2)
    return hf.Llama4ForCausalLM(config)


def llava():
    text, vision = {**DECODER, "model_type": "llama"}, {**IMAGE, "model_type": "clip_vision_model"}
    return made("LlavaForConditionalGeneration", text_config=text, vision_config=vision, image_token_index=3)


def paligemma():
    text, vision = {**DECODER, "head_dim": 8, "model_type": "gemma"}, {**IMAGE, "projection_dim": 16}
    vision["model_type"] = "siglip_vision_model"
    return made("PaliGemmaForConditionalGeneration", text_config=text, vision_config=vision, image_token_index=3)


def gemma3():
    text = {**DECODER, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return made("Gemma3ForConditionalGeneration", text_config=text, vision_config=IMAGE, mm_tokens_per_image=4)


def idefics3():
    text = {**DECODER, "model_type": "llama"}
    return made("Idefics3ForConditionalGeneration", text_config=text, vision_config=IMAGE, scale_factor=2)


def qwen2_5_vl():
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
    return made("Qwen2_5_VLForConditionalGeneration", text_config=text, vision_config=vision)


def blip2():
    text = {**GPT_LIKE, "model_type": "opt"}
    former = {**SHORT, "encoder_hidden_size": 16, "vocab_size": 32}
    return made(
        "Blip2ForConditionalGeneration",
        text_config=text,
        vision_config=IMAGE,
        qformer_config=former,
        num_query_tokens=4,
    )


def detr():
    return made(
        "DetrForObjectDetection",
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=hf.ResNetConfig(**RESNET, out_features=["stage2"]),
        **{key: value for key, value in SEQ2SEQ.items() if key.startswith(("d_model", "encoder", "decoder_"))},
        num_queries=4,
    )


def clap():
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
    return made("ClapModel", text_config={**SHORT, "projection_dim": 8}, audio_config=audio, projection_dim=8)


def encoder_decoder():
    encoder, decoder = (hf.BertConfig(**SHORT, is_decoder=last, add_cross_attention=last) for last in (False, True))
    return hf.EncoderDecoderModel(hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def speech_encoder_decoder():
    encoder = hf.Wav2Vec2Config(**SPEECH)
    decoder = hf.BertConfig(**SHORT, is_decoder=True, add_cross_attention=True)
    return hf.SpeechEncoderDecoderModel(hf.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


GPT_LIKE = {
    **{key: value for key, value in SHORT.items() if key != "intermediate_size"},
    "ffn_dim": 32,
    "word_embed_proj_dim": 16,
}
MORE_FAMILIES = {
    "OPT": lambda: made("OPTForCausalLM", **GPT_LIKE),
    "GPT-NeoX": lambda: made("GPTNeoXForCausalLM", **SHORT),
    "GPT-J": lambda: made("GPTJForCausalLM", **GPT, rotary_dim=4),
    "BLOOM": lambda: made("BloomForCausalLM", vocab_size=32, hidden_size=16, n_layer=2, n_head=2),
    "Falcon": lambda: made("FalconForCausalLM", vocab_size=32, hidden_size=16, **LAYERS),
    "Phi": lambda: made("PhiForCausalLM", **SHORT),
    "Phi-3": lambda: made("Phi3ForCausalLM", **DECODER),
    "StableLM": lambda: made("StableLmForCausalLM", **DECODER),
    "OLMo 2": lambda: made("Olmo2ForCausalLM", **DECODER),
    "Gemma 3": gemma3,
    "Cohere": lambda: made("CohereForCausalLM", **DECODER),
    "Granite": lambda: made("GraniteForCausalLM", **DECODER),
    "GraniteMoE": lambda: made("GraniteMoeForCausalLM", **DECODER, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3-MoE": lambda: made("Qwen3MoeForCausalLM", **DECODER, head_dim=8, num_experts=4, moe_intermediate_size=8),
    "DeepSeek-V2": lambda: made("DeepseekV2ForCausalLM", **DECODER, **LATENT),
    "DeepSeek-V3": lambda: made("DeepseekV3ForCausalLM", **DECODER, **LATENT),
    "gpt-oss": lambda: made("GptOssForCausalLM", **DECODER, head_dim=8, num_local_experts=4),
    "Llama 4": llama4,
    "Jamba": jamba,
    "Mamba-2": lambda: made("Mamba2ForCausalLM", **STATE, num_heads=4, head_dim=8, n_groups=1),
    "RecurrentGemma": recurrent_gemma,
    "LLaVA": llava,
    "PaliGemma": paligemma,
    "Idefics3": idefics3,
    "Qwen2.5-VL": qwen2_5_vl,
    "BLIP-2": blip2,
    "SigLIP": lambda: made("SiglipModel", text_config=SHORT, vision_config=IMAGE),
    "DINOv2": lambda: made("Dinov2ForImageClassification", **IMAGE),
    "Swin": lambda: made("SwinForImageClassification", **SWIN),
    "ConvNeXt": lambda: made("ConvNextForImageClassification", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "ResNet": lambda: made("ResNetForImageClassification", **RESNET),
    "DETR": detr,
    "SegFormer": lambda: made(
        "SegformerForSemanticSegmentation", hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, decoder_hidden_size=16
    ),
    "wav2vec2": lambda: made("Wav2Vec2ForCTC", **SPEECH),
    "HuBERT": lambda: made("HubertForCTC", **SPEECH),
    "CLAP": clap,
    "ELECTRA": lambda: made("ElectraForPreTraining", **SHORT, embedding_size=8),
    "DeBERTa-v2": lambda: made("DebertaV2ForMaskedLM", **SHORT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "MPNet": lambda: made("MPNetForMaskedLM", **SHORT),
    "XLNet": lambda: made("XLNetLMHeadModel", vocab_size=32, d_model=16, n_layer=2, n_head=2, d_inner=32),
    "Longformer": lambda: made("LongformerForMaskedLM", **SHORT, attention_window=4),
    "BigBird": lambda: made("BigBirdForMaskedLM", **SHORT),
    "Funnel": lambda: made(
        "FunnelForMaskedLM", vocab_size=32, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32
    ),
    "ESM": lambda: made("EsmForMaskedLM", **SHORT, mask_token_id=3, position_embedding_type="rotary"),
    "mT5": lambda: made("MT5ForConditionalGeneration", **T5),
    "mBART": lambda: made("MBartForConditionalGeneration", **LONG),
    "M2M100": lambda: made("M2M100ForConditionalGeneration", **LONG),
    "Marian": lambda: made("MarianMTModel", **LONG),
    "Pegasus": lambda: made("PegasusForConditionalGeneration", **LONG),
    "LED": lambda: made("LEDForConditionalGeneration", **SEQ2SEQ, attention_window=4),
    "EncoderDecoder": encoder_decoder,
    "SpeechEncoderDecoder": speech_encoder_decoder,
}
"""Row of docs/checkpoints.md -> a model of the family with random weights."""
