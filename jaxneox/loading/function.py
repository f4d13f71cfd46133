"""A model as a function of arrays: of its own parameters, and of any that are given."""
# B batch, T length, V padded vocabulary

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import Config
from jaxneox.errors import UserError
from jaxneox.frozen import ADVICE, FrozenParams
from jaxneox.infer.scoring import Request, Scored, Scorer
from jaxneox.loading.compiled import Functions
from jaxneox.loading.pure import Arrays, plain
from jaxneox.model import Params
from jaxneox.model.taps import Kept, Tap, activations, choose
from jaxneox.parallel.rules import Rules


class ModelFunction:
    """The functions of a model: `model(tokens)`, int [B, T] -> float32 [B, T, V], and its losses.

    Attributes:
        config: the whole configuration of the run.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        mesh: Mesh,
        rules: Rules,
        compute: Dtype,
        functions: Functions | None = None,
    ):
        self.config, self._params = config, params
        self._mesh, self._rules, self._compute = mesh, rules, compute
        self._functions = functions or Functions(config, mesh, rules, compute)
        self._plain: FrozenParams | None = None

    @property
    def params(self) -> FrozenParams:
        """The flat dictionary of float32 weights, by dotted names; read-only, see `with_params`.

        They are plain arrays on one device, and arrays of auto axes on a mesh.
        """
        if self._plain is None:
            each = self._params.items()
            self._plain = FrozenParams({name: plain(w, self._mesh) for name, w in each})
        return self._plain

    @params.setter
    def params(self, params: Params) -> NoReturn:
        raise TypeError(ADVICE)

    def __call__(self, tokens: ArrayLike) -> jax.Array:
        """Compute the logits of tokens, int [B, T] -> float32 [B, T, V]."""
        tokens_BT = jnp.asarray(tokens)
        self._check(tokens_BT)
        spec = self._rules.activation("batch", None)
        with jax.set_mesh(self._mesh):
            laid = jax.device_put(tokens_BT.astype(jnp.int32), NamedSharding(self._mesh, spec))
            return plain(self._functions.logits(self._params, laid), self._mesh)

    def logits(self, params: Arrays, tokens: ArrayLike) -> jax.Array:
        """Compute the logits of tokens with given parameters: a pure function.

        It may stand inside jax.jit, grad, vmap and scan, be differentiated in any mode any number
        of times, and takes and returns what jnp's functions take.

        Args:
            params: all parameters by dotted names, as `model.params`.
            tokens: int [B, T].

        Returns:
            float32 [B, T, V].
        """
        self._check(jnp.asarray(tokens))
        return self._functions.pure.logits(params, tokens)

    def values(self, params: Arrays, tokens: ArrayLike) -> jax.Array:
        """Compute a reward model's value after each token: a pure function, as `logits`.

        Args:
            params: all parameters by dotted names, as `model.params`.
            tokens: int [B, T].

        Returns:
            float32 [B, T]. `rewards` reads one of them for each text.

        Raises:
            UserError: it is no reward model.
        """
        self._check(jnp.asarray(tokens))
        return self._functions.pure.values(params, tokens)

    def token_losses(self, params: Arrays, tokens: ArrayLike) -> jax.Array:
        """Compute how unlikely each token is after those before it: a pure function.

        The logits of a few positions are in memory at one time.

        Args:
            params: all parameters by dotted names, as `model.params`.
            tokens: int [B, T + 1].

        Returns:
            The cross-entropy of every token but the first, float32 [B, T] in nats.
        """
        tokens_BT = jnp.asarray(tokens)
        self._check(tokens_BT[:, :-1])
        return self._functions.pure.token_losses(params, tokens_BT)

    def loss(
        self, params: Arrays, tokens: ArrayLike, weights: ArrayLike | None = None
    ) -> jax.Array:
        """Compute the mean of `token_losses`, float32 []: a pure function.

        Args:
            params: all parameters by dotted names, as `model.params`.
            tokens: int [B, T + 1].
            weights: float [B, T], of each token but the first; all alike unless given.
        """
        losses_BT = self.token_losses(params, tokens)
        if weights is None:
            return jnp.mean(losses_BT)
        weights_BT = jnp.asarray(weights, jnp.float32)
        return jnp.sum(losses_BT * weights_BT) / jnp.sum(weights_BT)

    def activations(self) -> dict[str, Tap]:
        """List the activations that `trace` can keep: their shapes and meanings by names."""
        return activations(self.config.model)

    def trace(
        self, tokens: ArrayLike, keep: str | Iterable[str], *, params: Arrays | None = None
    ) -> tuple[jax.Array, Kept]:
        """Compute the logits of tokens, and keep activations on the way: a pure function.

        As `logits` it may stand inside jax.jit, grad, vmap and scan. Only what is kept is stored.

        Args:
            tokens: int [B, T].
            keep: patterns of names (`fnmatch`), such as `layers.*.residual`; `activations` lists
                the names.
            params: all parameters by dotted names; those of the model unless given.

        Returns:
            The logits, float32 [B, T, V]; and the activations by their names, in the dtype that the
            model computes in.

        Raises:
            UserError: a pattern fits no name, or the mesh has the layers in a pipeline.
        """
        self._check(jnp.asarray(tokens))
        taps = choose(keep, self.config.model)
        if self._rules.pipeline is not None:
            raise UserError(
                f"trace: the mesh has the layers in {self._rules.pipeline.stages} stages of a "
                "pipeline, which keep no activations; load the model on a mesh without pp"
            )
        given = self.params if params is None else params
        logits_BTV, kept = self._functions.pure.trace(taps)(given, tokens)
        return logits_BTV, {name: kept[name] for name in taps.names}  # jax sorts 10 before 2

    def score(
        self,
        requests: Sequence[Request],
        on_done: Callable[[int], object] | None = None,
        budget: int | None = None,
    ) -> list[Scored]:
        """Score the tokens of each request after its context.

        Args:
            requests: tokens, and how many of them are context.
            on_done: called with how many more requests are done.
            budget: tokens of a batch on each device; as many as are usually fastest unless given.
        """
        scorer = self._functions.scorer
        if budget is not None:
            scorer = Scorer(scorer.model, scorer.mesh, budget)
        return scorer(self._params, requests, on_done)

    def _check(self, tokens_BT: jax.Array) -> None:
        if tokens_BT.ndim != 2 or not jnp.issubdtype(tokens_BT.dtype, jnp.integer):
            raise ValueError(
                f"tokens are {tokens_BT.dtype}{list(tokens_BT.shape)}, expected int [batch, seq]"
            )
        for size, axis in zip(tokens_BT.shape, ("batch", "length"), strict=True):
            parts = self._rules.parts(axis)
            if size % parts:
                raise ValueError(
                    f"tokens [{', '.join(map(str, tokens_BT.shape))}]: the mesh splits the {axis} "
                    f"in {parts}, which does not divide {size}; pad it, or load on another mesh"
                )
        positions = self.config.model.positions
        if positions.kind == "learned":
            room = positions.max_positions - positions.offset
            if tokens_BT.shape[1] > room:
                raise ValueError(f"{tokens_BT.shape[1]} tokens, but the model has {room} positions")
