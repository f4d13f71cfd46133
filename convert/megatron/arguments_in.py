"""NeoX's keys of a Megatron-LM model, from its tensors first and then from its arguments.

Arguments are distrusted where real files were found to be wrong: `num_query_groups` is 1
without grouped heads, `add_qkv_bias` was False in files with the bias, `add_position_embedding`
is True for rope, and what Megatron's own tools convert always says that gelu is not fused, which
means its erf form. Names and defaults are those of megatron/training/arguments.py, of its HEAD of
2026-08 and of 2024-10.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from convert.megatron.fixed import FIXED
from convert.megatron.sizes import Sizes
from jaxneox.errors import UserError

Args = Mapping[str, Any]
Keys = dict[str, Any]

ORIGIN = "Megatron-LM"


@dataclass(frozen=True)
class ReadingChoices:
    """A person's answers to what the files leave open; None takes what the arguments say.

    Attributes:
        gelu: which of its two forms.
        zero_centered: whether norms multiply by 1 + weight.
        keys: NeoX's keys, in place of those that would be derived.
    """

    gelu: Literal["tanh", "erf"] | None = None
    zero_centered: bool | None = None
    keys: Mapping[str, Any] | None = None

    def as_conversion(self) -> dict[str, Any]:
        """Return the choices as a checkpoint of ours records them, to compare both later."""
        choices = {"gelu": self.gelu, "zero_centered": self.zero_centered, "keys": self.keys}
        return {"from": ORIGIN} | {k: v for k, v in choices.items() if v is not None}

    @staticmethod
    def of(conversion: Mapping[str, Any]) -> "ReadingChoices":
        """Return the choices that a conversion recorded; none if it was from another program."""
        if conversion.get("from") != ORIGIN:
            return ReadingChoices()
        return ReadingChoices(**{k: v for k, v in conversion.items() if k != "from"})


class Reading(NamedTuple):
    """NeoX's keys of a checkpoint, and how its tensors are to be read.

    Attributes:
        zero_centered: whether norms multiply by 1 + weight.
        interleaved: whether rope turns even dimensions with odd ones.
    """

    keys: Keys
    zero_centered: bool
    interleaved: bool
    notes: list[str]


NUMBERS = ("seq_length", "max_position_embeddings", "kv_channels", "rotary_percent", "rotary_base",
           "layernorm_epsilon", "norm_epsilon", "attention_dropout", "hidden_dropout",
           "init_method_std")  # fmt: skip
SWITCHES = ("layernorm_zero_centered_gamma", "apply_layernorm_1p", "rotary_interleaved", "swiglu",
            "bias_gelu_fusion", "openai_gelu", "use_rotary_position_embeddings",
            "untie_embeddings_and_output_weights")  # fmt: skip
"""Arguments that are taken as numbers or as switches; one of another type would be misread."""

GELU_BY_VERSION = ("onnx_safe", "use_te_activation_func")
"""Switches whose effect on gelu's form depends on Megatron's version."""


def reading_of(args: Args, sizes: Sizes, choices: ReadingChoices) -> Reading:
    """Combine arguments, sizes and choices into NeoX's keys.

    Raises:
        UserError: NeoX's keys cannot express the function; the message gives all reasons.
    """
    _refuse_unlike(args, sizes)
    notes: list[str] = []
    given = dict(choices.keys or {})
    heads = given.get("num_attention_heads", args.get("num_attention_heads"))
    if type(heads) is not int or heads < 1:
        raise UserError(
            f"num_attention_heads is {heads!r}, and no tensor says it: give it with --config X.yml"
        )
    if sizes.attended != sizes.hidden:
        raise UserError(
            f"its {heads} heads have {sizes.attended} dimensions in all (kv_channels "
            f"{sizes.attended // heads}), but in NeoX they share hidden_size {sizes.hidden}"
        )
    groups = sizes.groups(heads)
    channels = args.get("kv_channels")
    if channels and heads * channels != sizes.attended and "num_attention_heads" not in given:
        raise UserError(
            f"num_attention_heads is {heads} and kv_channels {channels}, but the heads have "
            f"{sizes.attended} dimensions in all, and no tensor says which of the two is right: "
            "give the heads with --config X.yml (num-attention-heads)"
        )
    length = args.get("seq_length") or args.get("max_position_embeddings") or sizes.positions
    longest = sizes.positions or max(args.get("max_position_embeddings") or 0, length or 0)
    keys: Keys = {
        "num_layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "num_attention_heads": heads,
        "seq_length": min(length, longest),
        "max_position_embeddings": longest,
        "padded_vocab_size": sizes.vocab,
        "gpt_j_residual": False,
        "use_bias_in_attn_linear": sizes.qkv_bias,
        "use_bias_in_mlp": sizes.mlp_bias,
        "attention_dropout": args.get("attention_dropout") or 0.0,
        "hidden_dropout": args.get("hidden_dropout") or 0.0,
        "init_method_std": args.get("init_method_std") or 0.02,
    }
    if groups != heads:
        keys["num_kv_heads"] = groups
    keys |= _norm(args, sizes, notes) | _positions(args, sizes, given, notes)
    keys |= _mlp(args, sizes, choices, notes)
    _contradictions(args, sizes, groups if groups != heads else None, notes)
    centred = _either(args, "layernorm_zero_centered_gamma", "apply_layernorm_1p")
    return Reading(
        keys | given,
        bool(centred) if choices.zero_centered is None else choices.zero_centered,
        bool(args.get("rotary_interleaved")) and (keys | given)["pos_emb"] == "rotary",
        notes,
    )


def _refuse_unlike(args: Args, sizes: Sizes) -> None:
    wrong = [
        f"{name} is {args[name]!r}, expected {kind}"
        for names, kind, types in ((NUMBERS, "a number", (int, float)), (SWITCHES, "a bool", bool))
        for name in names
        if (value := args.get(name)) is not None
        and not (isinstance(value, types) and isinstance(value, bool) == (types is bool))
    ]
    wrong += [
        f"{name} is {args[name]!r}, but here {fixed.why}"
        for name, fixed in FIXED.items()
        if name in args and args[name] not in fixed.neutral
    ]
    wrong += [
        f"{name} is {args[name]!r}, the tensors have {there}"
        for name, there in (("num_layers", sizes.layers), ("hidden_size", sizes.hidden))
        if args.get(name) not in (None, there)
    ]
    if args.get("untie_embeddings_and_output_weights") and not sizes.head:
        wrong.append("untie_embeddings_and_output_weights is True, but there is no output_layer")
    if wrong:
        raise UserError("; ".join(wrong))


def _norm(args: Args, sizes: Sizes, notes: list[str]) -> Keys:
    """Tell layer norms, which always have a bias there, from rms norms."""
    kind = "layernorm" if sizes.norm_bias else "rmsnorm"
    stated = {"LayerNorm": "layernorm", "RMSNorm": "rmsnorm"}.get(args.get("normalization", ""))
    if stated not in (None, kind):
        notes.append(
            f"args say {args['normalization']}, but the norms have "
            f"{'a bias' if sizes.norm_bias else 'no bias'}: {kind}"
        )
    epsilon = _either(args, "layernorm_epsilon", "norm_epsilon")
    if epsilon is None:
        epsilon = 1e-5
        notes.append("args do not say the norms' epsilon: it is 1e-5, Megatron's default")
    return {"norm": kind, {"rmsnorm": "rms_norm_epsilon"}.get(kind, "layernorm_epsilon"): epsilon}


def _positions(args: Args, sizes: Sizes, given: Args, notes: list[str]) -> Keys:
    stated = args.get("position_embedding_type")
    if args.get("use_rotary_position_embeddings"):
        stated = "rope"
    if sizes.positions:
        if stated == "rope" and not args.get("position_embedding_type") and "pos_emb" not in given:
            raise UserError(
                "use_rotary_position_embeddings is True, but there is a table of positions: "
                "Megatron-LM of 2023 computed with both, which no model has here; say which of the "
                "two it was with --config X.yml (pos_emb: learned)"
            )
        if stated not in (None, "learned_absolute"):
            notes.append(f"args say positions are {stated}, but there is a table of them: learned")
        return {"pos_emb": "learned"}
    known = {"rope": "rotary", "none": "none"}
    if stated not in known and "pos_emb" not in given:
        raise UserError(
            f"position_embedding_type is {stated!r} and there is no table of positions; only rope "
            "and none are supported without one: say which with --config X.yml (pos_emb: rotary)"
        )
    fraction, base = args.get("rotary_percent") or 1.0, args.get("rotary_base") or 10000
    if args.get("rotary_base") is None:
        notes.append("args do not say rope's base: it is 10000, Megatron's default")
    if base != int(base):
        raise UserError(f"rotary_base is {base!r}, expected a whole number, as in NeoX")
    keys = {"pos_emb": known.get(str(stated), "")}
    return keys | {"rotary_pct": fraction, "rotary_emb_base": int(base)}


def _mlp(args: Args, sizes: Sizes, choices: ReadingChoices, notes: list[str]) -> Keys:
    given = choices.keys or {}
    if sizes.gated:
        if not args.get("swiglu") and "activation" not in given:
            raise UserError(
                "the MLP is gated, but args say no swiglu: say what its activation is with "
                "--config X.yml (activation: swiglu or geglu)"
            )
        return {"activation": "swiglu", "intermediate_size": 3 * sizes.ffn}
    if args.get("swiglu"):
        notes.append("args say swiglu, but the MLP is not gated: gelu")
    unclear = [name for name in GELU_BY_VERSION if args.get(name)]
    if unclear and choices.gelu is None:
        raise UserError(
            f"{unclear[0]} is True, with which gelu has one form in some of Megatron-LM's versions "
            "and the other in others: say which with --gelu tanh or --gelu erf"
        )
    fused = args.get("bias_gelu_fusion") if sizes.mlp_bias else False  # it fuses with the bias
    tanh = bool(fused is not False or args.get("openai_gelu"))
    if choices.gelu is not None:
        tanh = choices.gelu == "tanh"
    elif fused is None:
        notes.append(
            "args do not say which gelu it is: the tanh form, Megatron's default, is taken; if it "
            "was trained with --no-bias-gelu-fusion, convert with --gelu erf"
        )
    elif not tanh and sizes.mlp_bias:
        notes.append(
            "args say --no-bias-gelu-fusion, so gelu is its erf form; files that Megatron's own "
            "tools converted always say so: if it was trained with the fusion, use --gelu tanh"
        )
    return {
        "activation": "gelu",
        "bias_gelu_fusion": tanh,
        "intermediate_size": sizes.ffn,
    }


def _contradictions(args: Args, sizes: Sizes, groups: int | None, notes: list[str]) -> None:
    """Note the arguments that contradict the tensors; the tensors are right."""
    grouped = args.get("group_query_attention")
    stated = args.get("num_query_groups") if grouped else None
    tensors = {
        "ffn_hidden_size": sizes.ffn,
        "padded_vocab_size": sizes.vocab,
    }
    if args.get("add_bias_linear") is False:
        tensors["add_qkv_bias"] = sizes.qkv_bias
    contradictions = [
        f"{name} is {args[name]!r}, the tensors have {there!r}"
        for name, there in tensors.items()
        if args.get(name) is not None and args[name] != there
    ]
    if grouped is not None and stated != groups:
        contradictions.append(
            f"num_query_groups is {stated}, the tensors have {groups or 'no groups'}"
        )
    if args.get("add_qkv_bias") is False and sizes.qkv_bias and sizes.mlp_bias:
        contradictions.append("add_qkv_bias is False, the tensors have the bias")
    notes += [f"args contradict the tensors, which are right: {line}" for line in contradictions]


def _either(args: Args, *names: str) -> Any:
    """Read a setting by its names of several years, or raise a UserError if they disagree."""
    values = {name: args[name] for name in names if args.get(name) is not None}
    if len(set(values.values())) > 1:
        raise UserError(" but ".join(f"{name} is {value!r}" for name, value in values.items()))
    return next(iter(values.values()), None)
