"""The ways in which families express that a token sees only some of the tokens before it.

transformers counts the token itself: its window of n has n - 1 preceding tokens. Sources:
transformers 5.23, masking_utils.py, models/mistral and models/qwen2.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from jaxneox.errors import UserError, listed

SLIDING, FULL = "sliding_attention", "full_attention"


class EveryLayer:
    """Mistral's way: `sliding_window` holds for all layers, and null means no window."""

    names = ("sliding_window", "layer_types")

    def __init__(self, default: int | None) -> None:
        self.default = default

    def read(self, config: Mapping[str, Any], layers: int) -> int | None:
        width = config.get("sliding_window", self.default)
        kind = FULL if width is None else SLIDING
        return common_window(config.get("layer_types") or [kind] * layers, width, layers)

    def write(self, window: int | None, layers: int) -> dict[str, Any]:
        return {"sliding_window": None if window is None else window + 1}


class LaterLayers:
    """Qwen's way: `use_sliding_window` from `max_window_layers` on, or `layer_types`."""

    names = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")

    def __init__(self, default: int, first: int) -> None:
        self.default, self.first = default, first

    def read(self, config: Mapping[str, Any], layers: int) -> int | None:
        width = config.get("sliding_window", self.default)
        if not config.get("use_sliding_window", False):
            width = None
        first = config.get("max_window_layers", self.first)
        if not isinstance(first, int):
            raise UserError(f"max_window_layers: found {first!r}, expected a number of layers")
        kinds = [SLIDING if width is not None and i >= first else FULL for i in range(layers)]
        return common_window(config.get("layer_types") or kinds, width, layers)

    def write(self, window: int | None, layers: int) -> dict[str, Any]:
        return {
            "use_sliding_window": window is not None,
            "sliding_window": None if window is None else window + 1,
            "max_window_layers": layers if window is None else 0,
            "layer_types": [FULL if window is None else SLIDING] * layers,
        }


def common_window(kinds: Any, width: Any, layers: int) -> int | None:
    """Return the window that all layers share.

    Raises:
        UserError: layers differ or contradict `width`.
    """
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UserError(
            f"layer_types: found {reprlib.repr(kinds)}, expected a kind for each of {layers}"
        )
    different = sorted(set(map(str, kinds)))
    if len(different) > 1:
        raise UserError(
            f"layers of several kinds ({listed(different)}) are not supported: here all layers "
            "have the same window (layer_types, max_window_layers)"
        )
    if different not in ([FULL], [SLIDING]):
        raise UserError(f"layer_types: {different[0]!r} is not one of {FULL} and {SLIDING}")
    if different == [FULL]:
        return None
    if not isinstance(width, int) or width < 1:
        raise UserError(f"sliding_window: found {width!r}, expected how many tokens a token sees")
    return width - 1
