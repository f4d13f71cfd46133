"""Show a resolved configuration in plain lines, and choose the keys that are saved with a run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxneox.config.batch import DROP_LAST, GLOBAL, LARGEST_MICRO, uncut
from jaxneox.config.mup import with_base_sizes
from jaxneox.config.schema import Config


def describe(config: Config) -> str:
    """Return one line for each value, such as `model.hidden_size  512`, in the schema's order."""
    rows = list(_rows(config, ""))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(config: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{prefix}{field.name}.")
        elif not (isinstance(config, Config) and field.name in ("keys", "notes")):
            odd = isinstance(value, str) and not value.isprintable()
            yield f"{prefix}{field.name}", repr(value) if odd else str(value)


def saved_keys(config: Config) -> dict[str, Any]:
    """Return the keys that are written to RUN/config.yml.

    They are the user's, except for muP's file of base shapes, whose sizes are kept instead, and for
    how the batch was cut for these devices: of that only the largest micro-batch that a device held
    is kept. Loaded again under any data parallel size that
    divides the global batch, they give the same batch and the same model.
    """
    return uncut(with_base_sizes(config.keys, config.model)) | {
        GLOBAL: config.batch.global_size,
        LARGEST_MICRO: config.batch.micro,
        DROP_LAST: config.batch.drop_last,
        "padded_vocab_size": config.model.vocab_size,
        **_of_router(config),
    }


def _of_router(config: Config) -> dict[str, Any]:
    """Return the rows that a router balances together, if the batch was cut for them."""
    experts = config.model.experts
    if experts is None or experts.sinkhorn_rows == 1:
        return {}
    return {"moe_sinkhorn_rows": experts.sinkhorn_rows}
