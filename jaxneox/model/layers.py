"""All layers of a model: scanned on one stage, or in the stages of a pipeline."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# k layers

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import ModelConfig, RematConfig
from jaxneox.model.context import Context, Sums, TokenPositions
from jaxneox.model.gather import gather_all
from jaxneox.model.layout import Layout
from jaxneox.model.parameters import Declaration, Params, split_layers
from jaxneox.model.remat import NO_REMAT, rematerialized
from jaxneox.model.scan import Layer, LayerResult, Numbered, places, scan_layers
from jaxneox.model.taps import NOTHING, Kept


class Stream(NamedTuple):
    """What a pass through the layers ends with.

    Attributes:
        x_MBTD: the residual stream.
        kept: activations by tap, [k, *] over the k layers in which each is kept.
        sums: what the layers added up besides, [k, *] over the k layers that have it; over all
            micro-batches.
    """

    x_MBTD: jax.Array
    kept: Kept
    sums: Sums


@dataclass(frozen=True)
class Layers:
    """The parameters and layers of one configuration, laid out for one mesh. It holds no arrays.

    Attributes:
        cfg: the architecture.
        layout: how arrays lie on the devices.
        compute: the dtype of activations, and of weights in products.
        remat: what the backward pass computes again.
    """

    cfg: ModelConfig
    layout: Layout
    compute: Dtype = "float32"
    remat: RematConfig = NO_REMAT

    @cached_property
    def declaration(self) -> Declaration:
        """The modules and parameters that the configuration declares."""
        return Declaration(self.cfg)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The logical axes of every parameter by name."""
        return self.declaration.axes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by name."""
        return self.declaration.shapes

    def init(self, key: jax.Array) -> Params:
        """Draw the initial parameters, float32: the same numbers on every mesh."""
        return self.declaration.init(key)

    def matmuls(self) -> AbstractContextManager[Any]:
        """Set the precision of products for whatever is traced inside.

        float32 then means float32, also on devices that would round the factors of its products
        (TF32, bfloat16 passes).
        """
        return jax.default_matmul_precision("highest" if self.compute == "float32" else "default")

    def run_layers(self, params: Params, x_MBTD: jax.Array, context: Context) -> Stream:
        """Run the residual stream [M, B, T, D] through all layers.

        They are scanned at once, or by each stage of a pipeline its own. The arrays of `context`
        that differ from row to row have a leading axis M.
        """
        layers, noise = split_layers(params)[1], context.noise
        rows = None if noise is None else noise.rows
        of_rows = rows, context.positions.per_row, context.row_weights

        def run(
            x_BTD: jax.Array, weights: Params, first: int | jax.Array, of_rows: Any
        ) -> LayerResult:
            """Run the layers of these weights, the first of which has this number.

            The weights are rounded before the scan, which XLA does in any case. So the scan stacks
            their gradients as they come, rounded, and they become float32 where they are added up.
            """
            rounded = self.declaration.rounded(weights, self.compute)
            rows_B, per_row, weights_B = of_rows
            own = context._replace(
                positions=TokenPositions(context.positions.order_T, *per_row),
                noise=None if noise is None else noise._replace(rows=rows_B),
                row_weights=weights_B,
            )
            kinds = self.cfg.pattern
            layer_of = {kind: self._layer(kind, own) for kind in dict.fromkeys(kinds)}
            names_of = {kind: self.declaration.names(kind) for kind in layer_of}
            pattern = places([layer_of[kind] for kind in kinds], [names_of[kind] for kind in kinds])
            return scan_layers(pattern, x_BTD, first, rounded, context.taps)

        if self.layout.pipeline is not None:
            if context.taps != NOTHING:
                raise ValueError("the layers of a pipeline keep no activations")
            x_MBTD = jax.reshard(x_MBTD, self._stream(None))
            return self._pipelined(run, layers, x_MBTD, of_rows)
        if x_MBTD.shape[0] != 1:
            raise ValueError(f"{x_MBTD.shape[0]} micro-batches, expected 1 without a pipeline")
        x_BTD, kept, sums = run(x_MBTD[0], layers, 0, jax.tree.map(lambda x: x[0], of_rows))
        return Stream(x_BTD[None], kept, sums)

    def _pipelined(
        self, run: Callable[..., LayerResult], layers: Params, x_MBTD: jax.Array, of_rows: Any
    ) -> Stream:
        """Run the layers in stages."""

        def stage(*chunk: Any) -> tuple[jax.Array, Sums]:
            x_BTD, _, sums = run(*chunk)
            return x_BTD, sums

        pipeline = self.layout.pipeline
        assert pipeline is not None
        x_MBTD, sums = pipeline(stage, layers, self.cfg.num_layers, x_MBTD, of_rows)
        return Stream(x_MBTD, {}, sums)

    def _layer(self, kind: LayerKind, context: Context) -> Layer:
        """Make the function of one layer of a kind."""

        def layer(x_BTD: jax.Array, numbered: Numbered) -> LayerResult:
            number, weights = numbered
            recorder = context.taps.recorder()
            own = context.at(1 + number)._replace(recorder=recorder)
            whole = gather_all(weights, self.axes, self.layout, in_layer=True)
            x_BTD, sums = self.declaration.layer(kind, whole)(x_BTD, own)
            return LayerResult(x_BTD, recorder.recorded, sums)

        return rematerialized(layer, self.remat)

    def _stream(self, micro: str | None) -> PartitionSpec:
        return self.layout.activation(micro, "batch", "stream", "embed")
