"""Conversion between Hugging Face's config.json and NeoX's keys; no key is ignored silently."""

import difflib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from convert.fixed import FixedSetting
from convert.hf.activations import ACTIVATIONS, GATED, PLAIN
from convert.hf.agreed import agreed
from convert.hf.families import FAMILIES
from convert.hf.family import Family, Field
from convert.hf.keys_without_a_field import FIXED, HARMLESS, NO_WINDOW
from convert.hf.mamba import channels_of, channels_to
from convert.hf.rope import BLOCKS, ORIGINAL, fraction_names, rope_config, rope_keys, theta_names
from jaxneox.config.check import typed
from jaxneox.config.keys import KEYS
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

Config = Mapping[str, Any]

NEEDED = {"num_layers", "hidden_size", "num_attention_heads", "seq_length", "padded_vocab_size"}
"""The keys of sizes, which no other key implies."""


def family_of(config: Config) -> Family:
    """Return the family that a config.json names.

    Raises:
        UserError: it names none of ours.
    """
    architectures, kind = config.get("architectures") or [], config.get("model_type")
    for family in FAMILIES:
        alike = not architectures or architectures == [family.architecture]
        if alike and kind in (family.model_type, None) and (architectures or kind):
            return family
    known = ", ".join(f"{family.architecture} ({family.model_type})" for family in FAMILIES)
    raise UserError(
        f"architectures {architectures} of model_type {kind!r} is not supported: there are {known}"
    )


def keys_of(config: Config) -> dict[str, Any]:
    """Translate a config.json to NeoX's keys of the model.

    Raises:
        UserError: NeoX's keys cannot express the model; the message gives all reasons.
    """
    family = family_of(config)
    refuse_unlike(family, config)
    keys = dict(family.constants)
    for field in family.fields:
        names = [name for name in (field.theirs, field.alias) if name]
        named = {name: config[name] for name in names if name in config}
        value = agreed(named, field.default)
        called, kind = next(iter(named), field.theirs), KEYS[field.keys[0]].kind
        if field.derived and value == field.derived:
            value = None
        if value is not None:
            value = typed(called, value, kind)
        elif NEEDED.intersection(field.keys):
            raise UserError(f"{called}: found null, expected {kind}")
        keys |= dict.fromkeys(field.keys, value)
    tied = config.get("tie_word_embeddings", family.tied)
    if not isinstance(tied, bool):
        raise UserError(f"tie_word_embeddings: found {tied!r}, expected true or false")
    keys["no_weight_tying"] = not tied
    _check_heads(family, config, keys)
    if family.windows is not None:
        keys["sliding_window_width"] = family.windows.read(config, keys["num_layers"])
    keys |= rope_keys(family, config, keys["max_position_embeddings"])
    keys |= channels_of(config, keys["hidden_size"]) if family.mamba else _mlp(family, config)
    return {name: value for name, value in keys.items() if value is not None}


def _check_heads(family: Family, config: Config, keys: Mapping[str, Any]) -> None:
    """Raise a UserError if the family cannot have heads of these sizes."""
    heads, hidden = keys["num_attention_heads"], keys["hidden_size"]
    size = config.get("head_dim")
    if "head_dim" not in keys and size is not None:
        size = typed("head_dim", size, KEYS["head_dim"].kind)
        if hidden != size * heads:
            raise UserError(
                f"head_dim is {size}, but here {heads} heads share hidden_size {hidden}"
            )
    if family.whole_heads and hidden % heads:
        raise UserError(
            f"num_attention_heads {heads} does not divide hidden_size {hidden}, which "
            f"{family.architecture} needs"
        )


def config_of(family: Family, model: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json for transformers 5 and 4.x.

    It is of the model, or as near as the family gets.
    """
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
    }
    for field in family.fields:
        config[field.theirs] = _read(field, model)
    config |= channels_to(model) if family.mamba else _mlp_to(family, model)
    config |= {"tie_word_embeddings": model.tied_embedding, "use_cache": True}
    if family.rewards:
        config |= {"id2label": {"0": "REWARD"}, "label2id": {"REWARD": 0}}
    if family.windows is not None:
        config |= family.windows.write(model.attention.window, model.num_layers)
    return config | (rope_config(family.rope, model) if family.rope else {})


def _read(field: Field, model: ModelConfig) -> Any:
    """Return the value of a field; its default in a model that has no such part."""
    part = field.ours.split(".")[0]
    return field.default if getattr(model, part) is None else attrgetter(field.ours)(model)


def _mlp_to(family: Family, model: ModelConfig) -> dict[str, Any]:
    """Return the width and the activation of an MLP, or of one expert."""
    name, default = family.activation
    table = GATED if family.gated else PLAIN
    named = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items()) if ours in table}
    size = model.experts.size if family.experts and model.experts else model.mlp.size
    return {family.width[0]: size, name: named.get(model.mlp.activation, default)}


def unknown_keys(config: Config) -> list[str]:
    """List keys that have a value and whose effect on the function is unknown."""
    known = known_keys(family_of(config))
    return [name for name, value in config.items() if name not in known and value is not None]


def known_keys(family: Family) -> set[str]:
    named = {name for field in family.fields for name in (field.theirs, field.alias)}
    named |= {family.width[0], family.activation[0], "tie_word_embeddings", "head_dim"}
    if family.rope:
        named |= {*BLOCKS, ORIGINAL, *theta_names(family.rope), *fraction_names(family.rope)}
    if family.windows is not None:
        named |= set(family.windows.names)
    return named | set(_fixed(family)) | family.harmless | HARMLESS


def refuse_unlike(family: Family, config: Config) -> None:
    """Raise a UserError that names every key whose value makes a function that we do not have."""
    wrong = [
        f"{name} is {config[name]!r}, but here {fixed.why}"
        for name, fixed in _fixed(family).items()
        if name in config and config[name] not in fixed.neutral
    ]
    if family.rewards and _labels(config) != 1:
        wrong.append(
            f"num_labels is {_labels(config)}, but here a reward model has one number for each "
            "token, which is num_labels 1"
        )
    if wrong:
        raise UserError("; ".join(wrong))


def _labels(config: Config) -> Any:
    """Return the number of labels, which config.json has as their names; transformers takes 2."""
    names = config.get("id2label")
    labels = len(names) if isinstance(names, Mapping) else config.get("num_labels", 2)
    return (
        agreed({"num_labels": config["num_labels"]}, labels) if "num_labels" in config else labels
    )


def _fixed(family: Family) -> dict[str, FixedSetting]:
    return FIXED | ({} if family.windows else NO_WINDOW) | dict(family.fixed)


def _mlp(family: Family, config: Config) -> dict[str, Any]:
    name, default = family.activation
    theirs = config.get(name, default)
    ours = ACTIVATIONS.get(theirs) if isinstance(theirs, str) else None
    table = GATED if family.gated else PLAIN
    if ours not in table:
        known = [t for t, o in ACTIVATIONS.items() if o in table]
        near = difflib.get_close_matches(str(theirs), known, n=1)
        hint = f" (did you mean {near[0]}?)" if near and ours is None else ""
        raise UserError(
            f"{name}: {theirs!r} is not supported{hint}: NeoX's "
            f"{'gated ' if family.gated else ''}MLPs have {', '.join(known)}"
        )
    return _width(family, config) | table[ours]


def _width(family: Family, config: Config) -> dict[str, Any]:
    """Return the width of one branch; NeoX's key is that of an ungated MLP of the same size."""
    name, default = family.width
    size = config.get(name, default)
    if size is None and default is None:
        return {}  # four times the hidden size there and here
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{name}: found {size!r}, expected the width of the MLP")
    if family.experts:
        return {"moe_expert_size": size}
    return {"intermediate_size": size * (3 if family.gated else 1)}
