"""A trained or converted checkpoint as a function in Python."""
# B batch, T length, V padded vocabulary

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxneox import checkpoint
from jaxneox.config import Settings
from jaxneox.config.schema import Config, Dtype
from jaxneox.data import Tokenizer, load_tokenizer
from jaxneox.errors import UserError, listed
from jaxneox.frozen import ADVICE, FrozenParams
from jaxneox.infer.generate import Answer, Pools, generate
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.scoring import Scorer, pair
from jaxneox.infer.stopping import StopConditions
from jaxneox.infer.stream import check_text
from jaxneox.model import Model, Params
from jaxneox.parallel.mesh import final_sizes, make_mesh, parse_mesh, prepare_devices, whole
from jaxneox.parallel.rules import Rules, rules_for


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
        functions: "_Functions | None" = None,
    ):
        self.config, self._params, self.tokenizer = config, params, tokenizer
        self._mesh, self._rules, self._compute = mesh, rules, compute
        self._functions = functions or _Functions(config, mesh, rules, compute)
        self._pools: Pools | None = None

    @property
    def params(self) -> FrozenParams:
        """The flat dictionary of float32 weights, by dotted names; read-only, see `with_params`."""
        return FrozenParams(self._params)

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
        expected = abstract_params(self._functions.model, self._rules, self._mesh)
        wrong = [f"{name} is missing" for name in sorted(expected.keys() - params.keys())]
        wrong += [
            f"{name} is not in this model" for name in sorted(params.keys() - expected.keys())
        ]
        wrong += [
            f"{name} is {_form(params[name])}, expected {_form(leaf)}"
            for name, leaf in expected.items()
            if name in params and _form(params[name]) != _form(leaf)
        ]
        if wrong:
            raise UserError(f"these are no parameters of this model: {listed(wrong, 64, '; ')}")
        laid = {name: jax.device_put(params[name], expected[name].sharding) for name in expected}
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
            logits = self._functions.logits(self._params, laid)
        if self._mesh.size == 1:  # an array like any other, free of the mesh
            return jax.device_put(logits, self._mesh.devices.item())
        return logits

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
        scored = self.scorer(self._params, requests)
        return [(one.total, bool(one.likeliest.all())) for one in scored]

    @property
    def scorer(self) -> Scorer:
        """Computes how likely tokens are; it takes the weights as an argument."""
        return self._functions.scorer

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


class _Functions:
    """The compiled functions of a model.

    They take the weights as an argument, so that models with other weights share them.
    """

    def __init__(self, config: Config, mesh: Mesh, rules: Rules, compute: Dtype):
        # with any kernel: training's was for its own devices, and for rows of one length
        cfg = config.model
        cfg = replace(cfg, attention=replace(cfg.attention, kernel="auto"))
        self.model = Model(cfg, rules, compute)
        self.logits = jax.jit(self.model.logits)
        self.scorer = Scorer(self.model, mesh)


def _form(array: Any) -> str:
    """Write dtype and shape, as in float32[2, 3]."""
    if not hasattr(array, "shape"):
        return type(array).__name__
    return f"{array.dtype}{list(array.shape)}"


def load_model(
    path: str | Path, *, step: int | None, mesh: str | None, compute: Dtype
) -> LoadedModel:
    """Load a checkpoint; see `jaxneox.load`."""
    location = checkpoint.find(path, step)
    asked = whole(parse_mesh(mesh or "dp=1"))
    with contextlib.suppress(RuntimeError):  # jax has started: its devices are what they are
        prepare_devices(asked)
    sizes = final_sizes(asked, jax.device_count())
    config = Settings(checkpoint.read_meta(location)["keys"]).resolve(dp=1, vocab_size=None)
    devices, rules = make_mesh(sizes), rules_for(sizes, 0, False)
    model = Model(config.model, rules)
    params = checkpoint.restore_params(location, abstract_params(model, rules, devices))
    folder = location.run / "tokenizer"
    tokenizer = load_tokenizer(folder, config.tokenizer.eod_token) if folder.is_dir() else None
    return LoadedModel(config, params, tokenizer, devices, rules, compute)


def abstract_params(model: Model, rules: Rules, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe the parameters at rest, float32, as shapes with shardings."""
    return {
        name: jax.ShapeDtypeStruct(
            shape,
            jnp.float32,
            sharding=NamedSharding(mesh, rules.parameter(name, model.axes[name], shape)),
        )
        for name, shape in model.shapes.items()
    }
