"""Keys of config.json that any family may have and that set no field of ours."""

from convert.fixed import FixedSetting
from convert.hf.quantized import QUANTIZATION

FIXED: dict[str, FixedSetting] = {
    "is_encoder_decoder": FixedSetting((False, None), "there is no encoder"),
    "add_cross_attention": FixedSetting((False, None), "there is no encoder to attend to"),
    "is_causal": FixedSetting((True, None), "no token sees those after it"),
    "pruned_heads": FixedSetting(({}, None), "all heads of all layers are there"),
    **dict.fromkeys(QUANTIZATION, FixedSetting((None,), "weights are floating-point numbers")),
    "auto_map": FixedSetting((None,), "code that comes with a checkpoint is never run"),
}

NO_WINDOW: dict[str, FixedSetting] = {
    "sliding_window": FixedSetting((None,), "this architecture has no window"),
    "use_sliding_window": FixedSetting((False, None), "this architecture has no window"),
}
"""Keys of a family without `windows`, which must not set a window."""

HARMLESS = frozenset(
    # what the checkpoint is
    {"_name_or_path", "_commit_hash", "architectures", "model_type", "transformers_version"}
    | {"dtype", "torch_dtype", "finetuning_task", "task_specific_params", "problem_type"}
    | {"id2label", "label2id", "num_labels", "tokenizer_class", "prefix", "license", "tags"}
    # how it is run
    | {"use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript"}
    | {"_attn_implementation", "attn_implementation", "_attn_implementation_autoset"}
    | {"use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "gradient_checkpointing"}
    | {"is_decoder", "tie_encoder_decoder", "cross_attention_hidden_size", "use_fast"}
    # how text is generated
    | {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"}
    | {"temperature", "top_k", "top_p", "typical_p", "do_sample", "max_length", "min_length"}
    | {"num_beams", "num_beam_groups", "num_return_sequences", "early_stopping", "length_penalty"}
    | {"repetition_penalty", "diversity_penalty", "encoder_no_repeat_ngram_size", "bad_words_ids"}
    | {"no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"}
    | {"forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens", "output_scores"}
    | {"remove_invalid_values", "return_dict_in_generate"}
)
"""Keys of any configuration that no forward pass of these families reads."""
