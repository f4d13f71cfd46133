"""XLA's options for each kind of device, for training, scoring and plans alike.

docs/performance.md says what each of them gave. Generation has none: its weights lie where they are
used. A v5p would need 26 MiB more for the one gather that a small model then has, of its logits.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

OPTIONS: Mapping[str, Mapping[str, bool | str]] = {
    "tpu": {
        "xla_enable_async_all_gather": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    },
}
"""By platform, as jax calls it; GPUs do best with XLA's own (docs/performance.md)."""


def compiler_options(mesh: Mesh) -> dict[str, bool | str]:
    """Return the options with which programs for the devices of a mesh are compiled.

    Those that a user has set by XLA_FLAGS or LIBTPU_INIT_ARGS are left as they are.
    """
    if mesh.size == 1:
        return {}
    own = f"{os.environ.get('XLA_FLAGS', '')} {os.environ.get('LIBTPU_INIT_ARGS', '')} "
    set_by_user = {word.partition("=")[0].lstrip("-") for word in own.split()}
    options = OPTIONS.get(mesh.devices.flat[0].platform, {})
    return {name: value for name, value in options.items() if name not in set_by_user}


def jit_on(mesh: Mesh, function: Callable[..., Any], **how: Any) -> Any:
    """Compile a function for the devices of a mesh, with their options.

    Args:
        mesh: the devices.
        function: is not called inside of another compiled function.
        how: further arguments of `jax.jit`.
    """
    return jax.jit(function, compiler_options=compiler_options(mesh) or None, **how)
