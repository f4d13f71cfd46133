"""What kernels share that jax cannot look into: each device runs one on whole rows of its heads."""
# B batch, T length, K key-value heads, G query heads for each of them, H head

from collections.abc import Callable

import jax

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Axes, Layout

QUERIES: Axes = ("batch", None, "kv_heads", None, None)
KEYS: Axes = ("batch", None, "kv_heads", None)
ROWS: Axes = ("batch", None)


def unsupported(cfg: AttentionConfig, layout: Layout) -> str | None:
    """Name the first requested feature that none of these kernels can compute, or return None."""
    if layout.pipeline is not None:  # jax cannot differentiate them under its vmap over stages
        return "pipeline"
    if layout.parts("length") > 1:  # each device would do the work of all
        return "rows that devices split"
    if cfg.qk_norm and cfg.group > 1:
        return "keys of their own for the queries of a group"
    return None


def on_whole_rows(
    local: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents_BT: jax.Array | None,
    layout: Layout,
) -> jax.Array:
    """Run `local` on each device's whole rows.

    Args:
        local: takes queries, keys, values and perhaps the documents' numbers of one device.
        q: queries [B, T, K, G, H].
        k: keys [B, T, K, (1,) H].
        v: values [B, T, K, H].
        documents_BT: the documents' numbers, or None.
        layout: how arrays lie on the devices.

    Returns:
        As the queries.
    """
    k = k if k.ndim == 4 else k[:, :, :, 0]
    documents = () if documents_BT is None else (documents_BT,)
    axes = (QUERIES, KEYS, KEYS, *(ROWS for _ in documents))
    specs = tuple(layout.activation(*each) for each in axes)
    laid = map(jax.reshard, (q, k, v, *documents), specs)
    # what devices have in common cannot be checked either
    run = jax.shard_map(local, in_specs=specs, out_specs=specs[0], check_vma=False)
    return jax.reshard(run(*laid), layout.activation("batch", "length", "kv_heads", None, None))
