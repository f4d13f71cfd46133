"""`rope_scaling`: which fields each type reads, and what follows from those that are not given.

Names, defaults and meanings are those of transformers 5.23, modeling_rope_utils.py.
"""

import math
from typing import Any

from jaxneox.config.check import CheckedKeys
from jaxneox.config.keys import KEYS
from jaxneox.config.schema import RopeScaling
from jaxneox.errors import UserError

ORIGINAL = "original_max_position_embeddings"
MAGNITUDES = ("attention_factor", "mscale", "mscale_all_dim")

NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", ORIGINAL),
    "yarn": ("factor", ORIGINAL),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": (*MAGNITUDES, "beta_fast", "beta_slow", "truncate"),
}
FIELDS = [name for name in KEYS if name.startswith("rope_scaling.") and not name.endswith("type")]


def rope_scaling(settings: CheckedKeys, rotary_width: int) -> RopeScaling:
    """Resolve the block `rope_scaling`; `rotary_width` is how much of a head is turned.

    Raises:
        UserError: a field is missing, is one that the type does not read, or contradicts another.
    """
    kind = settings["rope_scaling.type"]
    needed, optional = NEEDED[kind], OPTIONAL.get(kind, ())
    for name in FIELDS:
        if settings.given(name) and name.partition(".")[2] not in (*needed, *optional):
            raise UserError(f"{name}: type {kind} does not read it: leave it out")
    for name in needed:
        if not settings.given(f"rope_scaling.{name}"):
            raise UserError(f"rope_scaling: type {kind} needs {name}: add it to the block")
    if kind == "default":
        return RopeScaling()
    if settings["pos_emb"] != "rotary":
        raise UserError(f"rope_scaling needs pos_emb: rotary, found {settings['pos_emb']}")
    own = {name: settings[f"rope_scaling.{name}"] for name in (*needed, *optional)}
    if kind == "yarn":
        _note_unread_magnitudes(settings)
        own["attention_factor"] = _attention_factor(own, *map(own.pop, MAGNITUDES))
    _check(kind, own, rotary_width, settings["rotary_emb_base"])
    return RopeScaling(kind, **own)


def _note_unread_magnitudes(settings: CheckedKeys) -> None:
    """Note each mscale that, as in transformers, does not count."""
    both = ("rope_scaling.mscale", "rope_scaling.mscale_all_dim")
    if settings.given("rope_scaling.attention_factor") or not all(settings[name] for name in both):
        for name in filter(settings.given, both):
            settings.note(
                f"{name} changes nothing, as in transformers: mscale and mscale_all_dim count "
                "together, and only without attention_factor"
            )


def _attention_factor(
    own: dict[str, Any], given: float | None, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """yarn's: `0.1 mscale ln(factor) + 1`, by that of `mscale_all_dim` where both are given."""

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(own["factor"]) + 1.0

    if given is not None:
        return given
    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)


def _check(kind: str, own: dict[str, Any], rotary_width: int, base: int) -> None:
    if kind == "yarn" and base <= 1:
        raise UserError(f"rope_scaling: type yarn needs rotary_emb_base above 1, found {base}")
    if kind == "yarn" and not 0 < own["beta_slow"] <= own["beta_fast"]:
        raise UserError(
            f"rope_scaling: beta_slow {own['beta_slow']:g} and beta_fast {own['beta_fast']:g}: "
            "expected beta_slow above 0 and not above beta_fast"
        )
    if kind == "llama3" and not 0 < own["low_freq_factor"] < own["high_freq_factor"]:
        raise UserError(
            f"rope_scaling: low_freq_factor {own['low_freq_factor']:g} and high_freq_factor "
            f"{own['high_freq_factor']:g}: expected the first above 0 and below the second"
        )
    if kind == "dynamic" and rotary_width <= 2:
        raise UserError(
            f"rope_scaling: type dynamic changes no frequency of {rotary_width} turned dimensions: "
            "raise rotary_pct or head_dim, or use type linear"
        )
