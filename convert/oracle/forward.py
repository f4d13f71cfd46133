"""What every checkpoint's forward pass looks like from outside: layer by layer, in float64."""
# R model-parallel ranks, B batch, T length, D hidden, V padded vocabulary

from typing import Protocol

import numpy as np

from convert.oracle.maths import Array


class Forward(Protocol):
    """A model whose ranks each carry a residual stream of their own.

    The streams are one and the same as long as the ranks' replicas of shared tensors are; with
    replicas that drifted apart they may differ, as they did in the run. A layer's tensors are read
    when it is computed and let go after it, so that a model needs the memory of its largest matrix.
    """

    layers: int
    hidden: int
    vocab: int  # padded

    def embed(self, tokens_BT: np.ndarray) -> Array:
        """int [B, T] -> streams [R, B, T, D]"""
        ...

    def layer(self, index: int, streams_RBTD: Array) -> Array:
        """Layer `index`, counted from 0: streams [R, B, T, D] -> [R, B, T, D]."""
        ...

    def logits(self, streams_RBTD: Array) -> Array:
        """The final norm and the unembedding: streams [R, B, T, D] -> [B, T, V]."""
        ...


def run(forward: Forward, tokens_BT: np.ndarray) -> Array:
    """Logits [B, T, V] of int tokens [B, T]."""
    streams_RBTD = forward.embed(tokens_BT)
    for index in range(forward.layers):
        streams_RBTD = forward.layer(index, streams_RBTD)
    return forward.logits(streams_RBTD)
