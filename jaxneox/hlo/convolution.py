"""FLOPs of a convolution.

A TPU's program has every matrix product as one, its batch axes as spatial ones, dilated so that
each output meets one input.
"""

import math
import re
from dataclasses import dataclass

from jaxneox.hlo.text import Instruction, arrays


@dataclass(frozen=True)
class Window:
    """The window along one spatial axis."""

    size: int
    stride: int = 1
    low: int = 0
    high: int = 0
    lhs_dilate: int = 1
    rhs_dilate: int = 1

    def pairs(self, length: int, outputs: int) -> int:
        """Count the pairs (output, tap of the window) that meet a number, not padding."""
        count = 0
        last = (length - 1) * self.lhs_dilate
        for tap in range(self.size):
            start = tap * self.rhs_dilate - self.low
            hits = (start + output * self.stride for output in range(outputs))
            count += sum(0 <= at <= last and at % self.lhs_dilate == 0 for at in hits)
        return count


def convolution_flops(this: Instruction, shapes: dict[str, str]) -> int:
    """Multiply 2, output batch, output features, the kernel's input features and spatial pairs."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", this.rest)
    assert labels is not None
    names = this.operands
    sizes = [arrays(shape)[0][1] for shape in (shapes[names[0]], shapes[names[1]], this.shape)]
    left, kernel, result = (
        dict(zip(text, own, strict=True)) for text, own in zip(labels.groups(), sizes, strict=True)
    )
    pairs = math.prod(
        window.pairs(left[str(i)], result[str(i)]) for i, window in enumerate(windows(this.rest))
    )
    return 2 * result["b"] * result["f"] * kernel["i"] * pairs


def windows(attributes: str) -> list[Window]:
    """Parse `window={size=1x16 stride=1x15 pad=0_0x15_15 lhs_dilate=1x16}`, by spatial axis."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    count = len(fields["size"].split("x")) if "size" in fields else 0

    def field(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * count

    pads = [[int(n) for n in pad.split("_")] for pad in field("pad", "0_0")]
    ints = [[int(n) for n in field(name, "1")] for name in ("size", "stride")]
    dilations = [[int(n) for n in field(name, "1")] for name in ("lhs_dilate", "rhs_dilate")]
    return [
        Window(size, stride, low, high, lhs, rhs)
        for size, stride, (low, high), lhs, rhs in zip(*ints, pads, *dilations, strict=True)
    ]
