"""Build what muP changes in a model and its optimizer, from the keys that begin with `mup_`.

What each key does here is what NeoX's documentation says of it, and muP's paper (Yang et al. 2022,
arXiv:2203.03466, table 8). With `neox_compat` it is what NeoX HEAD does; see docs/mup.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox.config.base_shapes import read_base_shapes, sizes_of
from jaxneox.config.check import CheckedKeys
from jaxneox.config.optimization_schema import OptimizerKind
from jaxneox.config.schema import ModelConfig
from jaxneox.config.widths import Multipliers, Widths
from jaxneox.errors import UserError

BASE = "mup_base_hidden_size"
ATTENTION = "mup_base_attention_size"
MLP = "mup_base_mlp_size"
FILE = "base_shapes_file"
FACTORS = (
    "mup_init_scale",
    "mup_attn_temp",
    "mup_output_temp",
    "mup_embedding_mult",
    "mup_rp_embedding_mult",
)
UNUSED_BY_NEOX = ("mup_attn_temp", "mup_output_temp", "mup_embedding_mult")
WITH_RULES: tuple[OptimizerKind, ...] = ("adam", "adamw", "lion")
METHODS = ("normal", "scaled_normal", "single_residual_scaled_normal", "small_init", "wang_init")


class BaseSizes(NamedTuple):
    """The widths of muP's base; None is a width that is the same in models of every width.

    A width in proportion to the hidden size need not be a whole number.
    """

    hidden: int
    attention: float | None
    mlp: float | None


def with_mup(settings: CheckedKeys, plain: ModelConfig) -> ModelConfig:
    """Return a model with muP's multipliers and first values, or as it is without `use_mup`.

    Args:
        settings: the checked keys.
        plain: what they describe without muP.

    Raises:
        UserError: the base is missing or another model's, or the model has a part without a rule.
    """
    _note_unused(settings)
    widths = widths_of(settings, plain)
    if widths is None:
        if not settings["neox_compat"]:
            return plain
        positions = _of_positions(settings, plain)
        return replace(plain, multipliers=Multipliers(positions=positions))
    _check_parts(settings, plain)
    init = replace(plain.init, widths=widths, scale=_factor(settings, "mup_init_scale"))
    changed = replace(plain, init=init, multipliers=_multipliers(settings, plain, widths))
    if widths.as_neox:
        return changed
    width = plain.attention.head_dim * _factor(settings, "mup_attn_temp")
    return replace(changed, attention=replace(plain.attention, scale=1 / width))


def widths_of(settings: CheckedKeys, plain: ModelConfig) -> Widths | None:
    """Return how many times wider a model is than its base, or None without `use_mup`."""
    if not settings["use_mup"]:
        return None
    base = _base(settings, plain)
    return Widths(
        hidden=plain.hidden_size / base.hidden,
        attention=_times(plain.attention.num_heads * plain.attention.head_dim, base.attention),
        mlp=_times(plain.mlp.size, base.mlp),
        as_neox=settings["neox_compat"],
    )


def with_base_sizes(keys: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Return a run's keys with the base's sizes in place of the file that has them."""
    widths = model.init.widths
    if widths is None or keys.get(FILE) is None:
        return dict(keys)
    own, ratios = sizes_of(model), (widths.hidden, widths.attention, widths.mlp)
    base = (round(size / ratio) if ratio else 0 for size, ratio in zip(own, ratios, strict=True))
    others = {name: value for name, value in keys.items() if name != FILE}
    return others | dict(zip((BASE, ATTENTION, MLP), base, strict=True))


def check_optimizer(settings: CheckedKeys, kind: OptimizerKind) -> None:
    """Refuse an optimizer for which there is no rule; raise UserError."""
    if not settings["use_mup"]:
        return
    known = ("adam",) if settings["neox_compat"] else WITH_RULES
    if kind not in known:
        raise UserError(
            f"use_mup with optimizer.type {kind}: how its learning rate follows the width is not "
            f"known here; expected {' or '.join(known)}"
        )


def _base(settings: CheckedKeys, plain: ModelConfig) -> BaseSizes:
    file, hidden = settings[FILE], settings[BASE]
    if (file is None) == (hidden is None):
        found = "both" if file else "neither"
        raise UserError(
            f"use_mup needs the width for which the hyperparameters were found: expected {FILE} "
            f"(NeoX's) or {BASE}, found {found}"
        )
    if file is None:
        heads = plain.attention.num_heads * plain.attention.head_dim
        attention = _base_size(settings, ATTENTION, heads, plain)
        return BaseSizes(hidden, attention, _base_size(settings, MLP, plain.mlp.size, plain))
    for name in (ATTENTION, MLP):
        if settings.given(name):
            raise UserError(f"{name} and {FILE} are both set: keep one of the two")
    return BaseSizes(*read_base_shapes(Path(file), plain))


def _base_size(settings: CheckedKeys, name: str, size: int, plain: ModelConfig) -> float | None:
    """Return a base's width: as given (0 is a width that is fixed), or in proportion."""
    if settings.given(name):
        return settings[name] or None
    return size * settings[BASE] / plain.hidden_size


def _times(size: int, base: float | None) -> float | None:
    return None if base is None else size / base


def _multipliers(settings: CheckedKeys, plain: ModelConfig, widths: Widths) -> Multipliers:
    positions = _of_positions(settings, plain)
    if widths.as_neox:
        # NeoX HEAD applies it to a tied head alone, and reads no temperature
        return Multipliers(1.0, positions, 1 / widths.hidden if plain.tied_embedding else 1.0)
    temperature = 1.0 if plain.head == "reward" else _factor(settings, "mup_output_temp")
    embedding = _factor(settings, "mup_embedding_mult")
    return Multipliers(embedding, positions, 1 / (widths.hidden * temperature))


def _of_positions(settings: CheckedKeys, plain: ModelConfig) -> float:
    """Return the factor of what is added to the embedded tokens, of which most kinds have none."""
    name, kind = "mup_rp_embedding_mult", plain.positions.kind
    factor = _factor(settings, name)
    if kind in ("learned", "sinusoidal"):
        return factor
    if factor != 1.0:
        settings.note(f"{name}: {factor:g} changes nothing: pos_emb {kind} adds no embedding")
    return 1.0


def _factor(settings: CheckedKeys, name: str) -> float:
    factor = float(settings[name])
    if not factor:
        raise UserError(f"{name}: found 0, expected a number above 0")
    return factor


def _check_parts(settings: CheckedKeys, plain: ModelConfig) -> None:
    for name, method in (
        ("init_method", plain.init.method),
        ("output_layer_init_method", plain.init.output_method),
    ):
        if method not in METHODS:
            raise UserError(
                f"use_mup with {name} {method}: its first values follow from a matrix's own sizes, "
                f"not from the base's; expected one of {', '.join(METHODS)}"
            )
    if plain.positions.kind == "rpe":
        raise UserError(
            "use_mup with pos_emb rpe: its bias grows with the square root of a head's width, for "
            "which muP has no rule; use rotary, learned, sinusoidal, alibi or none"
        )


def _note_unused(settings: CheckedKeys) -> None:
    """Note the keys of muP that change nothing."""
    as_neox = settings["neox_compat"]
    unused: dict[str, str] = {}
    if not settings["use_mup"]:
        used = ("mup_rp_embedding_mult",) if as_neox else ()
        others = (*FACTORS, FILE, BASE, ATTENTION, MLP)
        unused = {n: "use_mup is not set" for n in others if n not in used}
    elif as_neox:
        unused = dict.fromkeys(UNUSED_BY_NEOX, "NeoX HEAD does not use it (neox_compat)")
    for name, why in unused.items():
        if settings.given(name) and settings[name] != 1.0:
            settings.note(f"{name}: {settings[name]} changes nothing: {why}")
