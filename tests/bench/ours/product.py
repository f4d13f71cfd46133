"""The machine's own product of matrices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tests.bench.sizes import Case


def prepare(case: Case) -> Callable[[], None]:
    """-> one product of length x length; random numbers, as a GPU is faster with equal ones."""
    x = jax.random.normal(jax.random.key(0), (case.length, case.length), case.dtype)
    precision = "highest" if case.dtype == "float32" else None
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))

    def run() -> None:
        product(x).block_until_ready()

    return run
