"""One of the two checkpoints that are held against each other, followed part by part.

A part is read once: its parameters are compared, and its function is applied to the text and to
random states at the same time. The two sides do so side by side, each in a thread of its own.
"""
# R ranks, B batch, T length, D hidden, V padded vocabulary

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from convert.checkpoint import Checkpoint
from convert.oracle import Forward, JaxneoxForward
from convert.oracle.maths import Array
from convert.parts import Leaves

T_ = TypeVar("T_")

THREADS = ThreadPoolExecutor(2, "proof")


def one_thread_a_product() -> AbstractContextManager[object]:
    """Let each of the two sides compute its products in its own thread.

    BLAS's own threads would wait for each other in a loop, and for the other side's.
    """
    return threadpool_limits(1, user_api="blas")


def at_once(work: Iterable[Callable[[], T_]]) -> list[T_]:
    """Run functions two at a time, and return their results in their order."""
    return [future.result() for future in [THREADS.submit(one) for one in work]]


class ResidualStream:
    """The residual stream of one function on the text, from layer to layer.

    Attributes:
        forward: the function.
        text_RBTD: the stream after the layers so far.
    """

    def __init__(self, forward: Forward, tokens_BT: np.ndarray) -> None:
        self.forward, self.text_RBTD = forward, forward.embed(tokens_BT)

    def layer(self, index: int) -> None:
        self.text_RBTD = self.forward.layer(index, self.text_RBTD)


class ProofSide(ResidualStream):
    """The stream of a checkpoint, with its parameters, and with random states beside the text.

    Args:
        checkpoint: the checkpoint.
        tokens_BT: int [B, T], the text.
        probe_BTD: random states [1, T, D]; every layer is applied to the same ones.
        rounded: whether the first sequence is followed a second time, with its stream rounded to
            float32 after every layer.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokens_BT: np.ndarray, probe_BTD: Array, *, rounded: bool
    ) -> None:
        super().__init__(checkpoint.forward, tokens_BT)
        self._latest: Leaves = {}
        if isinstance(self.forward, JaxneoxForward) and self.forward.leaf == checkpoint.leaf:
            self.forward.leaf = self._leaf  # the layer that was read to be compared
        ranks = len(self.text_RBTD)
        self._checkpoint = checkpoint
        self._probe_RBTD = np.broadcast_to(probe_BTD, (ranks, *probe_BTD.shape))
        self._rounded = [self.text_RBTD[:, :1]] * rounded  # a stream [R, 1, T, D], or none

    def probed(self, index: int) -> tuple[Leaves, Array]:
        """Apply a layer to the text and to the random states.

        Returns:
            The layer's parameters, and what it adds to the random states, [R, 1, T, D].
        """
        leaves = self._latest = self._checkpoint.leaves(index)
        streams = [self.text_RBTD, self._probe_RBTD, *self._rounded]
        made = applied(lambda x: self.forward.layer(index, x), streams)
        self.text_RBTD, after_RBTD, *rounded = made
        self._rounded = [x.astype(np.float32).astype(np.float64) for x in rounded]
        return leaves, after_RBTD - self._probe_RBTD

    def _leaf(self, name: str, layer: int | None) -> np.ndarray:
        if layer is None:
            return self._checkpoint.leaf(name)
        return self._latest[name]

    def head(self) -> list[Array]:
        """Return logits [1, T, V] of the random states, and of the rounded sequence, if any."""
        self._latest = {}
        streams = [self._probe_RBTD, *self._rounded]
        return [x[0] for x in applied(lambda x: self.forward.logits(x)[None], streams)]


def applied(function: Callable[[Array], Array], streams: list[Array]) -> list[Array]:
    """Apply a function to several streams [R, B, T, …]: at once if they are equally long.

    Then matrices are cast to float64 once for all of them, and products are larger.
    """
    if len({stream.shape[2] for stream in streams}) > 1:
        return [function(x) for x in streams]
    ends = np.cumsum([stream.shape[1] for stream in streams])[:-1]
    return np.split(function(np.concatenate(streams, axis=1)), ends, axis=1)
