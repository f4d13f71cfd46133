"""What a layer keeps for its backward pass, and where; the rest is computed again."""

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxneox.config.schema import RematConfig
from jaxneox.model.product import PRODUCT
from jaxneox.model.scan import Layer, LayerResult, Numbered

NO_REMAT = RematConfig("none")

INPUT = "layer_input"
"""The name by which a layer's input is known, which is kept whatever else is."""

KEPT = {"full": (), "dots": (PRODUCT,)}
"""The names of what else is kept: nothing, or the products with weights too."""


def rematerialized(layer: Layer, cfg: RematConfig) -> Layer:
    """Let the backward pass of a layer compute again what its configuration does not keep.

    What is kept waits in the host's memory with `in_cpu`, else on the device.
    """
    if cfg.policy == "none":
        return layer

    def named(x_BTD: jax.Array, numbered: Numbered) -> LayerResult:
        return layer(checkpoint_name(x_BTD, INPUT), numbered)

    if not cfg.in_cpu:
        return jax.checkpoint(layer, policy=_on_device(KEPT[cfg.policy]), prevent_cse=False)
    in_host = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[INPUT, *KEPT[cfg.policy]],
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(named, policy=in_host, prevent_cse=False)


def _on_device(names: tuple[str, ...]) -> Any:
    policies = jax.checkpoint_policies
    return policies.save_only_these_names(*names) if names else policies.nothing_saveable
