"""Runs jaxneox itself: as a user would, or the same model a layer at a time."""
# M micro-batches (1), B batch, T length, D hidden, V padded vocabulary

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import UserProgram
from convert.parts import STACKED

if TYPE_CHECKING:
    from convert.readers.jaxneox import JaxneoxCheckpoint

WHOLE = 1 << 30
"""The largest model that is loaded as a whole, in bytes of float32."""

LAYERS_HELD = 3
"""One that is computed, one that is read, and what XLA lays out anew."""


def program(checkpoint: "JaxneoxCheckpoint") -> UserProgram:
    """Return what a user runs; of a large model the same, a layer at a time."""
    nbytes = checkpoint.nbytes_float32
    if nbytes <= WHOLE:
        return UserProgram(partial(logits, checkpoint.location.folder), nbytes)
    shapes = checkpoint.shapes.items()
    stacked = 4 * sum(int(np.prod(shape)) for name, shape in shapes if name.startswith(STACKED))
    held = nbytes - stacked + LAYERS_HELD * stacked // checkpoint.model.num_layers
    how = f"its own layers one at a time, as all of them together take {nbytes / 1e9:.1f} GB"
    return UserProgram(partial(logits_by_layer, checkpoint), held, how)


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Compute a checkpoint's logits: int tokens [B, T] to float32 [B, T, V].

    Of a reward model they are its values, [B, T, 1].
    """
    import jaxneox

    model = jaxneox.load(str(folder))
    if model.config.model.head == "reward":
        return np.asarray(model.values(model.params, tokens_BT))[..., None]
    return np.asarray(model(tokens_BT))


def logits_by_layer(checkpoint: "JaxneoxCheckpoint", tokens_BT: np.ndarray) -> np.ndarray:
    """Compute what `logits` does, with the weights of one layer in memory at a time.

    They are cast to float32 when they are used, which `jaxneox.load` does when it reads them.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxneox.loading.load import CheckpointForm
    from jaxneox.model.in_steps import ModelInSteps

    def read_layer(layer: int) -> dict[str, np.ndarray]:
        names = model.declaration.names(cfg.kinds[layer])
        return {name: checkpoint.leaf(name, layer) for name in names}

    def laid(name: str, value: np.ndarray) -> jax.Array:
        sharding = form.abstract[name].sharding
        if name.startswith(STACKED):
            sharding = sharding.update(spec=PartitionSpec(*sharding.spec[1:]))
        return jax.device_put(value, sharding)

    form = CheckpointForm({"keys": checkpoint.keys}, None)
    cfg = form.config.model
    cfg = replace(cfg, attention=replace(cfg.attention, kernel="auto"))
    model = ModelInSteps(cfg, form.rules, "float32")
    stacked = [name for name in checkpoint.shapes if name.startswith(STACKED)]
    with jax.set_mesh(form.mesh):
        outer = {n: laid(n, checkpoint.leaf(n)) for n in checkpoint.shapes if n not in stacked}
        rows = NamedSharding(form.mesh, form.rules.activation("batch", None))
        x_MBTD = jax.jit(model.begin)(outer, jax.device_put(tokens_BT.astype(np.int32), rows))
        through = jax.jit(model.through, static_argnames="kind")
        with ThreadPoolExecutor(1) as pool:  # one layer is read while another is computed
            ahead = pool.submit(read_layer, 0)
            for layer in range(cfg.num_layers):
                weights = {name: laid(name, w) for name, w in ahead.result().items()}
                ahead = pool.submit(read_layer, min(layer + 1, cfg.num_layers - 1))
                x_MBTD = through(outer, weights, x_MBTD, kind=cfg.kinds[layer])
                x_MBTD.block_until_ready()
        found = np.asarray(jax.jit(model.end)(outer, x_MBTD))
    return found[..., None] if cfg.head == "reward" else found
