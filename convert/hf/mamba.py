"""The width of the state spaces of transformers' Mamba, which follows from `expand`.

Source: transformers 5.23, models/mamba/configuration_mamba.py, which overwrites an
`intermediate_size` that config.json has.
"""

from collections.abc import Mapping
from typing import Any

from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

EXPAND = 2


def channels_of(config: Mapping[str, Any], hidden: int) -> dict[str, Any]:
    """Return the YAML's key of the number of channels.

    Raises:
        UserError: config.json has no such number, or two of them.
    """
    expand = config.get("expand", EXPAND)
    if type(expand) is not int or expand < 1:
        raise UserError(f"expand: found {expand!r}, expected the channels for each hidden number")
    channels = expand * hidden
    stated = config.get("intermediate_size", channels)
    if stated != channels:
        raise UserError(
            f"intermediate_size is {stated!r}, but expand {expand} of hidden_size {hidden} makes "
            f"{channels}, which is what transformers takes: leave one of the two out"
        )
    return {"intermediate_size": channels}


def channels_to(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of config.json, or those of the nearest width that `expand` can make."""
    hidden = model.hidden_size
    expand = EXPAND if model.mamba is None else max(1, model.mamba.channels // hidden)
    return {"expand": expand, "intermediate_size": expand * hidden}
