"""The flat buffers in which Megatron-LM's distributed optimizer keeps its states.

Parameters lie in them from the last to the first, each on a multiple of 64 elements. An embedding
that stages share has a bucket of its own, and a limit of size ends a bucket (read in
megatron/core/optimizer/distrib_optimizer.py, `_compute_per_buffer_param_layout`; offsets measured).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from convert.readers.torch_dist import DistTensor
from convert.readers.torch_file import LazyTensor
from jaxneox.errors import UserError

ALIGNED = 64  # elements

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FlatPart:
    """A parameter's numbers in a flat buffer; nothing is read before `numpy`."""

    flat: LazyTensor | DistTensor  # of one axis
    start: int
    shape: Shape

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        stop = self.start + self.size
        if isinstance(self.flat, DistTensor):
            return self.flat.span(self.start, stop).reshape(self.shape)
        return self.flat.numpy()[self.start : stop].reshape(self.shape)


def parameter_offsets(shapes: Sequence[Shape], buckets: Sequence[int]) -> list[tuple[int, int]]:
    """Return the (bucket, element) at which each parameter begins, in the module's order.

    Args:
        shapes: the parameters' shapes, in the module's order.
        buckets: the buckets' numbers of elements, without padding at their ends.

    Raises:
        UserError: the parameters do not fill the buckets.
    """
    offsets, bucket, at = [], 0, 0
    for shape in reversed(shapes):
        at = -(-at // ALIGNED) * ALIGNED
        if at >= buckets[bucket] and bucket + 1 < len(buckets):
            bucket, at = bucket + 1, 0
        offsets.append((bucket, at))
        at += prod(shape)
        if at > buckets[bucket]:
            break
    if len(offsets) < len(shapes) or bucket + 1 < len(buckets) or at != buckets[bucket]:
        raise UserError(
            f"the optimizer's buffers of {', '.join(map(str, buckets))} elements are not filled by "
            f"the {sum(map(prod, shapes))} elements of their parameters"
        )
    return offsets[::-1]
