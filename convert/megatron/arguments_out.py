"""Megatron-LM's arguments for a model: the `args` of its checkpoints and its command line.

Names are those of megatron/training/arguments.py; the fields are those that `check_checkpoint_args`
compares and `load_args_from_checkpoint` takes (HEAD of 2026-08), with norm_epsilon and
apply_layernorm_1p under their earlier names.
"""

from typing import Any

from convert.megatron.export import Export

POSITIONS = {"learned": "learned_absolute", "rotary": "rope", "none": "none"}
TOKENIZERS = {"HFTokenizer": "HuggingFaceTokenizer", "GPT2BPETokenizer": "GPT2BPETokenizer",
              "SPMTokenizer": "Llama2Tokenizer"}  # fmt: skip


def arguments(export: Export) -> dict[str, Any]:
    """Return the fields of `args`: plain values alone, so that nothing of Megatron is needed."""
    model, grid, tokenizer = export.model, export.grid, export.source.tokenizer
    a, p, grouped = model.attention, model.positions, model.attention.group > 1
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.mlp.size,
        "num_attention_heads": a.num_heads,
        "kv_channels": a.head_dim,
        "group_query_attention": grouped,
        "num_query_groups": a.kv_heads if grouped else 1,
        "seq_length": model.seq_length,
        "max_position_embeddings": p.max_positions,
        "position_embedding_type": POSITIONS[p.kind],
        "add_position_embedding": True,  # so in every checkpoint, and compared
        "use_rotary_position_embeddings": False,  # the type says it; so in every checkpoint
        "rotary_base": int(p.rotary_base),
        "rotary_percent": p.rotary_fraction,
        "rotary_interleaved": False,
        "normalization": "RMSNorm" if model.norm.kind == "rmsnorm" else "LayerNorm",
        "norm_epsilon": model.norm.epsilon,
        "layernorm_epsilon": model.norm.epsilon,
        "apply_layernorm_1p": False,
        "layernorm_zero_centered_gamma": False,
        "add_bias_linear": model.mlp.bias,
        "add_qkv_bias": a.bias,
        "swiglu": model.mlp.gated,
        "squared_relu": False,
        "openai_gelu": False,
        "bias_gelu_fusion": model.mlp.activation == "gelu_tanh",
        "untie_embeddings_and_output_weights": not model.tied_embedding,
        "apply_query_key_layer_scaling": False,
        "attention_dropout": a.dropout,
        "hidden_dropout": model.hidden_dropout,
        "make_vocab_size_divisible_by": model.vocab_size // grid.tp,
        "padded_vocab_size": model.vocab_size,
        "vocab_size": export.source.model.vocab_size if tokenizer is None else tokenizer.vocab_size,
        "tokenizer_type": TOKENIZERS.get(tokenizer.name if tokenizer else "", "NullTokenizer"),
        "tensor_model_parallel_size": grid.tp,
        "pipeline_model_parallel_size": grid.pp,
        "virtual_pipeline_model_parallel_size": grid.chunks if grid.chunks > 1 else None,
        "num_layers_per_virtual_pipeline_stage": (
            model.num_layers // (grid.pp * grid.chunks) if grid.chunks > 1 else None
        ),
        "data_parallel_random_init": False,
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
    }


def command_line(export: Export, implementation: str) -> str:
    """Return the flags with which pretrain_gpt.py builds this model and loads weights alone."""
    args, grid, model = arguments(export), export.grid, export.model
    names = ["num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "seq_length",
             "max_position_embeddings", "position_embedding_type", "normalization", "norm_epsilon",
             "make_vocab_size_divisible_by", "tensor_model_parallel_size",
             "pipeline_model_parallel_size", "attention_dropout", "hidden_dropout"]  # fmt: skip
    if args["group_query_attention"]:
        names.append("num_query_groups")
    if model.positions.kind == "rotary":
        names += ["rotary_base", "rotary_percent"]
    if grid.chunks > 1:
        names.append("num_layers_per_virtual_pipeline_stage")
    switches = {
        "group-query-attention": args["group_query_attention"],
        "swiglu": args["swiglu"],
        "disable-bias-linear": not args["add_bias_linear"],
        "untie-embeddings-and-output-weights": not model.tied_embedding,
        "no-bias-gelu-fusion": model.mlp.activation == "gelu" and args["add_bias_linear"],
    }
    flags = [f"--{name.replace('_', '-')} {args[name]}" for name in names]
    flags += [f"--{name}" for name, holds in switches.items() if holds]
    if grid.format == "torch":  # whose names are those of one of the two
        flags.append(f"--transformer-impl {implementation}")
    return " ".join([*flags, f"--ckpt-format {grid.format}", "--no-load-optim --no-load-rng"])
