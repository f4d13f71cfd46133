"""Hugging Face's config.json and NeoX's keys, each from the other; nothing in it is passed over."""

import difflib
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from convert.hf.families import (
    ACTIVATIONS,
    FAMILIES,
    FIXED,
    GATED,
    HARMLESS,
    PLAIN,
    Family,
    Fixed,
)
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

Config = Mapping[str, Any]

BASE = 10000.0
ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
"""Of transformers 5, and of 4.x."""


def family_of(config: Config) -> Family:
    """Raises UserError for what is none of the three."""
    said, kind = config.get("architectures") or [], config.get("model_type")
    for family in FAMILIES:
        alike = not said or said == [family.architecture]
        if alike and kind in (family.model_type, None) and (said or kind):
            return family
    known = ", ".join(f"{family.architecture} ({family.model_type})" for family in FAMILIES)
    raise UserError(
        f"architectures {said} of model_type {kind!r} is not supported: there are {known}"
    )


def keys_of(config: Config) -> dict[str, Any]:
    """NeoX's keys of the model. Raises UserError, with all reasons, for what they cannot say."""
    family = family_of(config)
    refuse_unlike(family, config)
    keys = dict(family.constants)
    for field in family.fields:
        names = [name for name in (field.theirs, field.alias) if name]
        keys |= dict.fromkeys(field.keys, _one(config, names, field.default))
    tied = config.get("tie_word_embeddings", family.tied)
    if not isinstance(tied, bool):
        raise UserError(f"tie_word_embeddings: found {tied!r}, expected true or false")
    keys["no_weight_tying"] = not tied
    size, heads, hidden = (config.get("head_dim"), keys["num_attention_heads"], keys["hidden_size"])
    if size is not None and str(hidden) != str(size * heads):
        raise UserError(f"head_dim is {size}, but here {heads} heads share hidden_size {hidden}")
    return keys | _mlp(family, config) | _rope(family, config)


def config_of(family: Family, model: ModelConfig) -> dict[str, Any]:
    """config.json, for transformers 5 and 4.x; of the model, or as near as the family gets."""
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
    }
    for field in family.fields:
        config[field.theirs] = attrgetter(field.ours)(model)
    name, default = family.activation
    table = GATED if family.gated else PLAIN
    named = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items()) if ours in table}
    config |= {
        family.width[0]: model.mlp.size,
        name: named.get(model.mlp.activation, default),
        "tie_word_embeddings": model.tied_embedding,
        "use_cache": True,
    }
    if family.rope:
        positions = model.positions
        base: float = positions.rotary_base
        parameters = {"rope_type": "default", "rope_theta": float(base)}
        config[family.rope.theta] = int(base) if base == int(base) else base
        if family.rope.fraction:
            parameters["partial_rotary_factor"] = positions.rotary_fraction
            config[family.rope.fraction] = positions.rotary_fraction
        config["rope_parameters"] = parameters
    return config


def unknown_keys(config: Config) -> list[str]:
    """What is set to something, and may or may not bear on the function."""
    known = known_keys(family_of(config))
    return [name for name, value in config.items() if name not in known and value is not None]


def known_keys(family: Family) -> set[str]:
    named = {name for field in family.fields for name in (field.theirs, field.alias)}
    named |= {family.width[0], family.activation[0], "tie_word_embeddings", "head_dim"}
    if family.rope:
        named |= {*ROPE_BLOCKS, *_theta_names(family), *_fraction_names(family)}
    return named | set(_fixed(family)) | family.harmless | HARMLESS


def refuse_unlike(family: Family, config: Config) -> None:
    """Raises UserError with every key whose value makes another function than ours."""
    wrong = [
        f"{name} is {config[name]!r}, but here {fixed.why}"
        for name, fixed in _fixed(family).items()
        if name in config and config[name] not in fixed.neutral
    ]
    if wrong:
        raise UserError("; ".join(wrong))


def _fixed(family: Family) -> dict[str, Fixed]:
    return FIXED | dict(family.fixed or {})


def _one(config: Config, names: Iterable[str], default: Any) -> Any:
    """What is said under any of several names. Raises UserError where they disagree."""
    said = {name: config[name] for name in names if name in config}
    return _agreed(said, default)


def _agreed(said: Mapping[str, Any], default: Any) -> Any:
    values = list(said.values())
    if any(value != values[0] for value in values):
        parts = " but ".join(f"{name} is {value!r}" for name, value in said.items())
        raise UserError(f"{parts}: they are one setting; correct config.json")
    return values[0] if values else default


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
    """Of one branch; NeoX's key is the size of an MLP with as many parameters that is not gated."""
    name, default = family.width
    size = config.get(name, default)
    if size is None and default is None:
        return {}  # four times the hidden size there and here
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{name}: found {size!r}, expected the width of the MLP")
    return {"intermediate_size": size * (3 if family.gated else 1)}


def _theta_names(family: Family) -> list[str]:
    return ["rope_theta", *([family.rope.theta] if family.rope else [])]


def _fraction_names(family: Family) -> list[str]:
    own = family.rope.fraction if family.rope else None
    return ["partial_rotary_factor", *([own] if own else [])]


def _rope(family: Family, config: Config) -> dict[str, Any]:
    """From `rope_parameters` of transformers 5 and the keys of 4.x, which must agree."""
    if family.rope is None:
        return {}
    thetas = {name: config[name] for name in _theta_names(family) if name in config}
    fractions = {name: config[name] for name in _fraction_names(family) if name in config}
    for name in ROPE_BLOCKS:
        block = config.get(name) or {}
        _refuse_scaling(name, block)
        if "rope_theta" in block:
            thetas[f"{name}.rope_theta"] = block["rope_theta"]
        if "partial_rotary_factor" in block:
            fractions[f"{name}.partial_rotary_factor"] = block["partial_rotary_factor"]
    theta = _agreed(thetas, BASE)
    fraction = _agreed(fractions, family.rope.default_fraction)
    if family.rope.fraction is None and fraction != 1.0:
        raise UserError(f"partial_rotary_factor is {fraction}, but {family.architecture} turns all")
    if not isinstance(theta, int | float) or theta != int(theta):
        raise UserError(f"rope_theta: found {theta!r}, expected a whole number, as in NeoX")
    return {"rotary_emb_base": int(theta), "rotary_pct": fraction}


def _refuse_scaling(name: str, block: Any) -> None:
    if not isinstance(block, Mapping):
        raise UserError(f"{name}: found {block!r}, expected a block")
    kind = block.get("rope_type", block.get("type", "default"))
    other = sorted(set(block) - ROPE_KEYS)
    if kind != "default" or other:
        raise UserError(
            f"{name}: {kind!r}{' with ' + ', '.join(other) if other else ''} is not supported: "
            "NeoX's rotary embedding is never scaled"
        )
