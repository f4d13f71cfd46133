"""The programs of a pool of rows that generate together, compiled from shapes alone."""

from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxneox.config.schema import Config
from jaxneox.infer.programs import Programs
from jaxneox.infer.sampling import Sampling, sampling_arrays
from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model
from jaxneox.model.cache import Cache, cache_axes
from jaxneox.model.decode import Decoder, Weights
from jaxneox.model.layout import Axes
from jaxneox.model.parameters import LAYERS, UNEMBEDDING
from jaxneox.model.unembedding import UnembeddingRows
from jaxneox.parallel.mesh import Sizes, make_mesh
from jaxneox.parallel.rules import rules_for
from jaxneox.plan.topology import Topology


class Form(NamedTuple):
    """Of a pool: its rows, how many prompts come at once, and positions that are computed with."""

    rows: int = 16
    prompts: int = 8
    span: int = 256


USUAL = Form()


def compile_pool(
    kind: str, cfg: Config, sizes: Sizes, topology: Topology, form: Form = USUAL
) -> Any:
    """Compile the program that takes new `prompts`, or the one that adds a `token` to every row."""
    rows, prompts, span = form
    mesh, rules = make_mesh(sizes, topology.devices), rules_for(sizes, 0, False)
    decoder = Decoder(Model(cfg.model, rules, cfg.precision.compute))
    pool = Programs(decoder, mesh, rows=rows, length=cfg.model.seq_length)
    params = abstract_params(decoder.model, rules, mesh)
    with jax.set_mesh(mesh):
        with patch.object(jax, "set_mesh", lambda _: nullcontext()):  # it is set, and tracing
            weights = jax.eval_shape(lambda given: decoder.weights(dict(given), mesh), params)
            cache, state = jax.eval_shape(pool.empty), jax.eval_shape(pool.idle)

        def laid(array: Any, axes: Axes | None = None) -> jax.ShapeDtypeStruct:
            """As the pool lays an array out: rows, or the cache's own axes."""
            own: Axes = axes or ("batch", *(None,) * (array.ndim - 1))
            return of(array, rules.activation(*own))

        def of(array: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(mesh, spec)
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

        def named(name: str, array: Any) -> jax.ShapeDtypeStruct:
            spec = rules.weight(*decoder.model.axes[name])
            return of(array, PartitionSpec(*spec[1:]) if name.startswith(LAYERS) else spec)

        vocabulary = rules.weight(*decoder.model.axes[UNEMBEDDING[0]])
        weights = Weights(
            {name: named(name, w) for name, w in weights.outer.items()},
            tuple({name: named(name, w) for name, w in one.items()} for one in weights.layers),
            UnembeddingRows(of(weights.output.weight, PartitionSpec(*reversed(vocabulary))), None),
        )
        each = zip(cache, cache_axes(cfg.model, rules), strict=True)
        cache = Cache(*(tuple(laid(array, axes) for array in held) for held, axes in each))
        state = jax.tree.map(laid, state)
        if kind == "token":
            moving = laid(np.zeros(rows, bool))
            return pool.step.lower(weights, cache, state, moving, span).compile()
        slots = jax.ShapeDtypeStruct((prompts,), jnp.int32)
        new = np.zeros((prompts, span), np.int32), np.zeros(prompts, np.int32)
        settings = jax.eval_shape(lambda: sampling_arrays([Sampling()] * prompts))
        given = jax.tree.map(laid, (*new, settings))
        return pool.admit.lower(weights, cache, state, slots, *given, False).compile()
