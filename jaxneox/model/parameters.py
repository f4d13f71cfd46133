"""The modules of a configuration, and their parameters as one flat dictionary."""
# D hidden, V padded vocabulary, O one

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import ModelConfig
from jaxneox.model.block import Block, make_block
from jaxneox.model.embed import Embed
from jaxneox.model.multiplied import multiplied
from jaxneox.model.norms import norm
from jaxneox.model.param import initializer, param, zeros
from jaxneox.model.stack import layers_of, stacked

Params = dict[str, jax.Array]
"""Arrays by dotted name; those of layers are stacked, each over the layers that have it."""

LAYERS = "layers."
"""The prefix of the names of the layers' parameters."""

REWARD = "reward.weight"
"""The head of a reward model."""

UNEMBEDDING = ("unembed.weight", "unembed.bias")
"""Of other models; a tied one has no weight of its own."""


class NeoX(nnx.Module):
    """Declares every parameter; all mathematics is in its parts."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.embed = Embed(cfg, rngs)
        self.layers = stacked(
            lambda kind, key: make_block(cfg, kind, nnx.Rngs(key)), cfg.kinds, rngs.params()
        )
        self.final_norm = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        rewards = cfg.head == "reward"
        self.unembed = None if rewards else Unembed(cfg, rngs)
        self.reward = Reward(cfg, rngs) if rewards else None
        self.multiplier = cfg.multipliers.output

    def normed(self, x: jax.Array) -> jax.Array:
        """Turn the residual stream after the layers into what the head reads, both [..., D]."""
        return multiplied(self.final_norm(x), self.multiplier)


class Unembed(nnx.Module):
    """The matrix from the last hidden state to logits, unless it is the embedding's, and a bias."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        init, D, V = initializer(cfg.init.method, cfg), cfg.hidden_size, cfg.vocab_size
        tied = cfg.tied_embedding
        self.weight = None if tied else param(rngs, ("embed", "vocab"), init, D=D, V=V)
        self.bias = param(rngs, ("vocab",), zeros, V=V) if cfg.logit_bias else None


class Reward(nnx.Module):
    """The head of a reward model: the number that the last hidden state after a token stands for.

    It is GPT-NeoX's `rm_linear` (megatron/model/gpt2_model.py), which has no bias.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        init = initializer(cfg.init.method, cfg)
        self.weight = param(rngs, ("embed", "one"), init, D=cfg.hidden_size, one=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Turn [..., D] into float32 [...], also if the devices would round float32 factors."""
        weight, x = self.weight[...].astype(jnp.float32), x.astype(jnp.float32)
        return jnp.einsum("...D,DO->...O", x, weight, precision="highest")[..., 0]


@dataclass(frozen=True)
class Declaration:
    """What a configuration declares: its parameters by name, and the modules they belong to.

    It translates in both directions between modules and a flat dictionary, and holds no arrays.
    """

    cfg: ModelConfig

    @cached_property
    def _modules(self) -> NeoX:
        return nnx.eval_shape(lambda: NeoX(self.cfg, nnx.Rngs(0)))

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The logical axes of every parameter by name."""
        return {name: p.get_metadata("axes") for name, p in _flat(self._modules).items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by name."""
        return {name: p.shape for name, p in _flat(self._modules).items()}

    @cached_property
    def exact(self) -> frozenset[str]:
        """The names of the parameters that layers compute with in float32."""
        flat = _flat(self._modules)
        return frozenset(name for name, p in flat.items() if p.get_metadata("exact"))

    def dtype(self, name: str, compute: Dtype) -> Dtype:
        """Return the type in which a layer computes with a weight, where others are `compute`."""
        return "float32" if name in self.exact else compute

    def rounded(self, weights: Params, compute: Dtype) -> Params:
        """Cast layers' weights to the type in which the layers compute with them."""
        return {name: w.astype(self.dtype(name, compute)) for name, w in weights.items()}

    def init(self, key: jax.Array) -> Params:
        """Draw the initial parameters, float32: the same numbers on every mesh."""
        drawn = {name: p[...] for name, p in _flat(NeoX(self.cfg, nnx.Rngs(key))).items()}
        widths, scale = self.cfg.init.widths, self.cfg.init.scale
        if widths is None:
            return drawn
        factors = {name: widths.initial(axes, scale) for name, axes in self.axes.items()}
        return {name: multiplied(w, factors[name]) for name, w in drawn.items()}

    def model(self, params: Params) -> NeoX:
        """Build all modules with these parameters in place."""
        return _merge(nnx.graphdef(self._modules), params)

    def part(self, name: str, weights: Params) -> Any:
        """Build one module outside the layers, with those of `weights` that begin with its name.

        Args:
            name: such as `embed` or `final_norm`.
            weights: arrays by their names in the model; those of other modules are left out.
        """
        return _merge(nnx.graphdef(getattr(self._modules, name)), _below(f"{name}.", weights))

    def layer(self, kind: LayerKind, weights: Params) -> Block:
        """Build one layer.

        Args:
            kind: its kind.
            weights: its own arrays, not stacked, by their names in the model.
        """
        return _merge(nnx.graphdef(self._blocks[kind]), _below(LAYERS, weights))

    def names(self, kind: LayerKind) -> tuple[str, ...]:
        """Return the names of the parameters that a layer of this kind has."""
        return tuple(LAYERS + name for name in _flat(self._blocks[kind]))

    def holders(self, name: str) -> tuple[int, ...]:
        """List the layers that have a parameter, in the order in which it is stacked over them."""
        having = [kind for kind in self._blocks if name in self.names(kind)]
        return layers_of(having, self.cfg.kinds)

    @cached_property
    def _blocks(self) -> dict[LayerKind, Block]:
        """A layer of each kind, whose parameters are shapes."""

        def abstract(kind: LayerKind) -> Block:
            return nnx.eval_shape(lambda: make_block(self.cfg, kind, nnx.Rngs(0)))

        return {kind: abstract(kind) for kind in dict.fromkeys(self.cfg.pattern)}


def split_layers(params: Params) -> tuple[Params, Params]:
    """Divide parameters into those outside the layers and those of the layers."""
    outer = {name: w for name, w in params.items() if not name.startswith(LAYERS)}
    return outer, {name: w for name, w in params.items() if name.startswith(LAYERS)}


def _below(prefix: str, weights: Params) -> Params:
    """Take the weights whose names begin so, by what follows."""
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _flat(module: nnx.Module) -> dict[str, nnx.Param]:
    return {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(module))}


def _merge(graph: Any, weights: Params) -> Any:
    flat = [(tuple(name.split(".")), nnx.Param(w)) for name, w in sorted(weights.items())]
    return nnx.merge(graph, nnx.from_flat_state(flat))
