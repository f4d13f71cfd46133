"""Rotary settings in config.json: `rope_parameters` of transformers 5 and the keys of 4.x.

If a file has both, they must agree. The meaning of each scaling is that of transformers 5.23,
modeling_rope_utils.py; `jaxneox.config.rope` checks the fields.
"""

from collections.abc import Mapping
from typing import Any, get_args

from convert.hf.agreed import agreed
from convert.hf.family import Family, Rope
from jaxneox.config.check import GREATEST
from jaxneox.config.fates import LENGTH
from jaxneox.config.schema import ModelConfig, RopeScaling, RopeType
from jaxneox.errors import UserError

Config = Mapping[str, Any]

BASE = 10000.0
BLOCKS = ("rope_parameters", "rope_scaling")
"""The block's names in transformers 5 and in 4.x."""
ORIGINAL = "original_max_position_embeddings"
TYPES = get_args(RopeType)
LONGEST = LENGTH.most or 0

WRITTEN: dict[RopeType, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
}


def rope_keys(family: Family, config: Config, length: Any) -> dict[str, Any]:
    """Return the YAML keys of rotary; `length` is max_position_embeddings.

    Raises:
        UserError: names of one setting disagree, or a value is one that we do not support.
    """
    if family.rope is None:
        return {}
    thetas = {name: config[name] for name in theta_names(family.rope) if name in config}
    fractions = {name: config[name] for name in fraction_names(family.rope) if name in config}
    blocks = {name: config[name] for name in BLOCKS if config.get(name)}
    for name, block in blocks.items():
        if not isinstance(block, Mapping):
            raise UserError(f"{name}: found {block!r}, expected a block")
        if "rope_theta" in block:
            thetas[f"{name}.rope_theta"] = block["rope_theta"]
        if "partial_rotary_factor" in block:
            fractions[f"{name}.partial_rotary_factor"] = block["partial_rotary_factor"]
    theta = agreed(thetas, BASE)
    fraction = agreed(fractions, family.rope.default_fraction)
    if family.rope.fraction is None and fraction != 1.0:
        raise UserError(f"partial_rotary_factor is {fraction}, but {family.architecture} turns all")
    if not is_finite(theta) or theta != int(theta):
        raise UserError(f"rope_theta: found {theta!r}, expected a whole number, as in NeoX")
    keys = {"rotary_emb_base": int(theta), "rotary_pct": fraction}
    scaling = agreed({name: _scaling(name, block) for name, block in blocks.items()}, {})
    return keys | (_scaled(config, scaling, length) if scaling else {})


def rope_config(rope: Rope, model: ModelConfig) -> dict[str, Any]:
    """Return a model's rotary settings as config.json has them, for both versions."""
    positions, base = model.positions, model.positions.rotary_base
    written: dict[str, Any] = {rope.theta: int(base) if base == int(base) else base}
    parameters = _fields(positions.scaling)
    if parameters["rope_type"] != "default":
        written["rope_scaling"] = dict(parameters)
    if positions.scaling.grows:  # in transformers this is the original length
        written["max_position_embeddings"] = positions.scaling.original_max_position_embeddings
    parameters["rope_theta"] = float(base)
    if rope.fraction:
        parameters["partial_rotary_factor"] = positions.rotary_fraction
        written[rope.fraction] = positions.rotary_fraction
    return written | {"rope_parameters": parameters}


def theta_names(rope: Rope) -> set[str]:
    return {"rope_theta", rope.theta}


def fraction_names(rope: Rope) -> set[str]:
    return {"partial_rotary_factor", *([rope.fraction] if rope.fraction else [])}


def _fields(scaling: RopeScaling) -> dict[str, Any]:
    names = WRITTEN.get(scaling.type, ())
    values = {name: getattr(scaling, name) for name in names}
    if values.get("truncate"):  # the default, which versions of 4.x do not know
        del values["truncate"]
    return {"rope_type": scaling.type} | values


def _scaling(name: str, block: Config) -> dict[str, Any]:
    """Return the YAML's block `rope_scaling`; empty for unscaled rotary."""
    types = {f"{name}.{key}": block[key] for key in ("rope_type", "type") if key in block}
    kind = agreed(types, "default")
    if kind not in TYPES:
        raise UserError(f"{name}: {kind!r} is not supported: there are {', '.join(TYPES)}")
    elsewhere = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    fields = {
        key: value for key, value in block.items() if key not in elsewhere and value is not None
    }
    if kind == "default" and fields:
        raise UserError(
            f"{name}: {', '.join(fields)}: type default has no such field; correct config.json"
        )
    return {} if kind == "default" else {"type": kind} | fields


def _scaled(config: Config, scaling: dict[str, Any], length: Any) -> dict[str, Any]:
    """Return the block and, if config.json puts it elsewhere, the length that the model is for."""
    kind, lengths = scaling["type"], {}
    if kind == "dynamic":
        lengths["max_position_embeddings"] = length
    elif config.get(ORIGINAL) is not None:
        lengths[ORIGINAL] = config[ORIGINAL]
    if ORIGINAL in scaling:
        lengths[f"rope_scaling.{ORIGINAL}"] = scaling[ORIGINAL]
    if kind == "linear":
        return {"rope_scaling": scaling}
    original = agreed(lengths, length)
    block: dict[str, Any] = {"rope_scaling": scaling | {ORIGINAL: original}}
    factor = scaling.get("factor")
    if kind in ("dynamic", "yarn") and is_finite(factor) and is_finite(original):
        scaled = factor * original
        if not scaled <= LONGEST:
            raise UserError(
                f"rope_scaling.factor: found {factor!r} for texts of {original!r} tokens, expected "
                f"a product of at most {LONGEST:,}"
            )
        longer = max(length, int(scaled))
        block |= {"seq_length": longer, "max_position_embeddings": longer}
    return block


def is_finite(value: Any) -> bool:
    """Tell whether a value of config.json is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= GREATEST
