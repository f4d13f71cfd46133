"""A checkpoint as a model in Python: its function, its parameters, and text from it."""
# B batch, T length, V padded vocabulary

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxneox.compiled import Functions
from jaxneox.config.schema import Config, Dtype
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.frozen import ADVICE, FrozenParams
from jaxneox.infer.generate import Answer, Pools, generate
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.scoring import Request, Scored, Scorer, pair
from jaxneox.infer.stopping import StopConditions
from jaxneox.infer.stream import check_text
from jaxneox.model import Params
from jaxneox.parallel.rules import Rules
from jaxneox.pure import Arrays, plain
from jaxneox.resting import laid_out


class LoadedModel:
    """A model that computes logits: `model(tokens)`, int [B, T] -> float32 [B, T, V].

    Attributes:
        config: the whole configuration of the run.
        tokenizer: the run's, or None if it has none.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        tokenizer: Tokenizer | None,
        mesh: Mesh,
        rules: Rules,
        compute: Dtype,
        functions: Functions | None = None,
    ):
        self.config, self._params, self.tokenizer = config, params, tokenizer
        self._mesh, self._rules, self._compute = mesh, rules, compute
        self._functions = functions or Functions(config, mesh, rules, compute)
        self._pools: Pools | None = None
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

    def with_params(self, params: Mapping[str, jax.Array | np.ndarray]) -> "LoadedModel":
        """Make another model of the same configuration, tokenizer and mesh from other weights.

        Args:
            params: all parameters by dotted names, with the shapes and dtype (float32) of
                `model.params`; laid out on the mesh here. This model stays as it is.

        Raises:
            UserError: a name is missing or unknown, or an array has another shape or dtype.
        """
        laid = laid_out(params, self._functions.model, self._rules, self._mesh)
        return LoadedModel(
            self.config,
            laid,
            self.tokenizer,
            self._mesh,
            self._rules,
            self._compute,
            self._functions,
        )

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

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        *,
        max_tokens: int | None = 64,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        min_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        rows: int = 8,
        recompute: bool = False,
        on_text: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Generate what follows each prompt, text or tokens; greedy unless a sampling key is set.

        Args:
            prompts: one text, or several texts or lists of tokens.
            max_tokens: of each answer; None for all that the context has room for.
            stop: strings before which an answer ends.
            stop_token_ids: tokens before which it ends, besides the tokenizer's end tokens.
            ignore_eos: go on after an end token, as if it were any other.
            min_tokens: of each answer. Until then no end token is chosen and no stop string counts.
            temperature: as NeoX's key, see `Sampling`.
            top_p: as NeoX's key.
            top_k: as NeoX's key.
            seed: of the first prompt; each next one has the next number.
            rows: how many answers are generated at once.
            recompute: generate without a cache, slowly.
            on_text: called with (number of the prompt, new text) while it is generated.
            on_answer: called with (number of the prompt, answer) when it is finished.

        Returns:
            An answer for each prompt.

        Raises:
            UserError: a prompt or a setting cannot be used, or the model gives no numbers.
        """
        given = [prompts] if isinstance(prompts, str) else prompts
        tokens = [self.encode(prompt) for prompt in given]
        each = [Sampling(temperature, top_p, top_k, (seed + i) % 2**32) for i in range(len(tokens))]
        pool = self._recompute if recompute else self.pools
        return generate(
            pool,
            self.config.model,
            tokens,
            self.tokenizer,
            sampling=each,
            max_tokens=max_tokens,
            until=StopConditions(stop, stop_token_ids, ignore_eos, min_tokens),
            rows=rows,
            on_text=on_text,
            on_answer=on_answer,
        )

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Score continuations: for each (context, continuation) its log-probability.

        Beside it stands whether greedy generation would give the continuation. Texts are split into
        tokens as by lm-eval, see `pair`.

        Raises:
            UserError: the checkpoint has no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError("the checkpoint has no tokenizer, which loglikelihood needs")
        room = self.config.model.seq_length
        requests = [pair(self.tokenizer, *texts, room) for texts in pairs]
        scored = self.score(requests)
        return [(one.total, bool(one.likeliest.all())) for one in scored]

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

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Encode a prompt; an empty one becomes the end of a document, as in NeoX."""
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        if self.tokenizer is None:
            raise UserError("the checkpoint has no tokenizer; give prompts as lists of tokens")
        check_text(prompt, "a prompt")
        tokens = self.tokenizer.encode(prompt)
        if tokens or self.tokenizer.eod is None:
            return tokens
        return [self.tokenizer.eod]

    def release(self) -> "LoadedModel":
        """Give the weights to generation alone: one copy of them instead of two."""
        self._pools = self._make_pools(release=True)
        return self

    @property
    def pools(self) -> Pools:
        """The engines that generate, with a copy of the weights that is made at the first use."""
        if self._pools is None:
            self._pools = self._make_pools(release=False)
        return self._pools

    def _make_pools(self, release: bool) -> Pools:
        cfg = self._functions.model.cfg
        return Pools(cfg, self._params, self._mesh, self._compute, release=release)

    def _recompute(self, rows: int, length: int, known: int | None) -> Recompute:
        model = self._functions.model
        return Recompute(model, self._params, self._mesh, rows=rows, length=length, known=known)

    def __repr__(self) -> str:
        size = sum(w.size for w in self._params.values())
        return f"LoadedModel({size:,} parameters, {self.config.model})"

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
