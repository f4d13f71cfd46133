"""The three architectures of Hugging Face that NeoX's models can be: what config.json says of each.

Names, defaults and meanings are those of transformers 4.x and 5.23, models/*/configuration_*.py;
a key that is absent means its default there. Every key has one fate: it is a field of ours, it must
have the one value that leaves the function as it is, or it does not bear on the function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from convert.rules import hf_gpt2, hf_llama, hf_neox
from convert.rules.rule import Rule
from jaxneox.config.schema import Activation, ModelConfig


class Field(NamedTuple):
    """`ours` is an attribute of ModelConfig, dotted; `keys` are NeoX's for it."""

    theirs: str
    default: Any
    ours: str
    keys: tuple[str, ...]
    alias: str = ""  # another name that transformers takes


class Rope(NamedTuple):
    """What 4.x calls the base and the share of a head that is turned; 5 has `rope_parameters`."""

    theta: str
    fraction: str | None  # None: whole heads are turned
    default_fraction: float = 1.0


class Fixed(NamedTuple):
    neutral: tuple[Any, ...]
    why: str


@dataclass(frozen=True, eq=False)
class Family:
    """
    Attributes:
        width: the key of the MLP's inner width; null is four times the hidden size.
        tied: whether the embedding is tied where config.json does not say.
        constants: NeoX's keys that all its models have.
        since: keys that change the function, by the version of transformers that first read them.
        prefix, head, buffers: see `convert.rules`.
    """

    architecture: str
    model_type: str
    fields: tuple[Field, ...]
    width: tuple[str, int | None]
    activation: tuple[str, str]
    tied: bool
    constants: Mapping[str, Any]
    rules: Callable[[ModelConfig], tuple[Rule, ...]]
    prefix: str
    head: str
    buffers: tuple[str, ...]
    rope: Rope | None = None
    gated: bool = False
    fixed: Mapping[str, Fixed] | None = None
    harmless: frozenset[str] = frozenset()
    since: Mapping[str, str] | None = None


def _field(theirs: str, default: Any, ours: str, *keys: str, alias: str = "") -> Field:
    return Field(theirs, default, ours, keys or (ours,), alias)


LENGTH = ("seq_length", "max_position_embeddings")

GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    fields=(
        _field("vocab_size", 50432, "vocab_size", "padded_vocab_size"),
        _field("hidden_size", 6144, "hidden_size"),
        _field("num_hidden_layers", 44, "num_layers"),
        _field("num_attention_heads", 64, "attention.num_heads", "num_attention_heads"),
        _field("max_position_embeddings", 2048, "positions.max_positions", *LENGTH),
        _field("layer_norm_eps", 1e-5, "norm.epsilon", "layernorm_epsilon"),
        _field("use_parallel_residual", True, "parallel_residual", "gpt_j_residual"),
        _field("attention_bias", True, "attention.bias", "use_bias_in_attn_linear"),
        _field("attention_dropout", 0.0, "attention.dropout", "attention_dropout"),
        _field("hidden_dropout", 0.0, "hidden_dropout"),
        _field("initializer_range", 0.02, "init.std", "init_method_std"),
    ),
    width=("intermediate_size", 24576),
    activation=("hidden_act", "gelu"),
    tied=False,
    constants={"norm": "layernorm", "pos_emb": "rotary"},
    rope=Rope("rotary_emb_base", "rotary_pct", 0.25),
    harmless=frozenset({"classifier_dropout"}),
    rules=hf_neox.rules,
    prefix=hf_neox.PREFIX,
    head=hf_neox.HEAD,
    buffers=hf_neox.BUFFERS,
)

LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    fields=(
        _field("vocab_size", 32000, "vocab_size", "padded_vocab_size"),
        _field("hidden_size", 4096, "hidden_size"),
        _field("num_hidden_layers", 32, "num_layers"),
        _field("num_attention_heads", 32, "attention.num_heads", "num_attention_heads"),
        _field("num_key_value_heads", None, "attention.kv_heads", "num_kv_heads"),
        _field("max_position_embeddings", 2048, "positions.max_positions", *LENGTH),
        _field("rms_norm_eps", 1e-6, "norm.epsilon", "rms_norm_epsilon"),
        _field("attention_bias", False, "attention.bias", "use_bias_in_attn_linear"),
        _field("mlp_bias", False, "mlp.bias", "use_bias_in_mlp"),
        _field("attention_dropout", 0.0, "attention.dropout", "attention_dropout"),
        _field("initializer_range", 0.02, "init.std", "init_method_std"),
    ),
    width=("intermediate_size", 11008),
    activation=("hidden_act", "silu"),
    tied=False,
    constants={"norm": "rmsnorm", "pos_emb": "rotary"},
    rope=Rope("rope_theta", None),
    gated=True,
    since={"mlp_bias": "4.41"},
    harmless=frozenset({"pretraining_tp"}),  # cuts matrices up and adds the same products
    rules=hf_llama.rules,
    prefix=hf_llama.PREFIX,
    head=hf_llama.HEAD,
    buffers=hf_llama.BUFFERS,
)

GPT2 = Family(
    "GPT2LMHeadModel",
    "gpt2",
    fields=(
        _field("vocab_size", 50257, "vocab_size", "padded_vocab_size"),
        _field("n_embd", 768, "hidden_size", alias="hidden_size"),
        _field("n_layer", 12, "num_layers", alias="num_hidden_layers"),
        _field("n_head", 12, "attention.num_heads", "num_attention_heads",
               alias="num_attention_heads"),
        _field("n_positions", 1024, "positions.max_positions", *LENGTH,
               alias="max_position_embeddings"),
        _field("layer_norm_epsilon", 1e-5, "norm.epsilon", "layernorm_epsilon"),
        _field("attn_pdrop", 0.1, "attention.dropout", "attention_dropout"),
        _field("resid_pdrop", 0.1, "hidden_dropout"),
        _field("initializer_range", 0.02, "init.std", "init_method_std"),
    ),
    width=("n_inner", None),
    activation=("activation_function", "gelu_new"),
    tied=True,
    constants={"norm": "layernorm", "pos_emb": "learned"},
    fixed={
        "scale_attn_weights": Fixed((True,), "the scores are always divided by sqrt(head size)"),
        "scale_attn_by_inverse_layer_idx": Fixed((False,), "no score is divided by its layer"),
    },
    harmless=frozenset(
        {"n_ctx", "embd_pdrop", "reorder_and_upcast_attn", "summary_type", "summary_use_proj"}
        | {"summary_activation", "summary_first_dropout", "summary_proj_to_labels"}
    ),
    rules=hf_gpt2.rules,
    prefix=hf_gpt2.PREFIX,
    head=hf_gpt2.HEAD,
    buffers=hf_gpt2.BUFFERS,
)  # fmt: skip

FAMILIES = (GPT_NEOX, LLAMA, GPT2)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
"""By transformers' names (activations.py), of which the first for each is written."""

PLAIN: dict[Activation, dict[str, Any]] = {
    "gelu": {"activation": "gelu", "bias_gelu_fusion": False},
    "gelu_tanh": {"activation": "gelu", "bias_gelu_fusion": True},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "mish": {"activation": "mish"},
}
GATED: dict[Activation, dict[str, Any]] = {
    "gelu": {"activation": "geglu"},
    "relu": {"activation": "reglu"},
    "silu": {"activation": "swiglu"},
    "sigmoid": {"activation": "glu"},
    "identity": {"activation": "bilinear"},
}
"""NeoX's keys; what is in neither table NeoX has no name for."""

FIXED = {
    "is_encoder_decoder": Fixed((False, None), "there is no encoder"),
    "add_cross_attention": Fixed((False, None), "there is no encoder to attend to"),
    "is_causal": Fixed((True, None), "no token sees those after it"),
    "pruned_heads": Fixed(({}, None), "all heads of all layers are there"),
    "quantization_config": Fixed((None,), "weights are floating-point numbers"),
    "auto_map": Fixed((None,), "code that comes with a checkpoint is never run"),
    "sliding_window": Fixed((None,), "this architecture has no window"),
    "use_sliding_window": Fixed((False, None), "this architecture has no window"),
}

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
"""Keys of any configuration that no forward pass of the three looks at."""
