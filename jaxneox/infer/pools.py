"""Engines for a model, and for its adapters beside the same arrays."""

import jax
from jax.sharding import Mesh

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import ModelConfig
from jaxneox.infer.engine import SHORTEST, Engine, power
from jaxneox.infer.programs import Programs
from jaxneox.model import Model, Params
from jaxneox.model.decode import Decoder, Weights
from jaxneox.parallel.mesh import EXPERTS, whole
from jaxneox.parallel.rules import rules_for

Form = tuple[ModelConfig, int, int, int | None, int]
"""(model, rows, positions of each, tokens that the tokenizer has, likeliest tokens)."""


class Pools:
    """Makes engines, and keeps the last one to use it again, so that nothing is compiled twice.

    Rows are split over all devices but tp's; tp splits heads, widths and the vocabulary.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        mesh: Mesh,
        compute: Dtype,
        *,
        release: bool = False,
        base: "Pools | None" = None,
    ):
        """Lay out the weights for decoding.

        Args:
            cfg: the architecture.
            params: the parameters by name.
            mesh: the devices.
            compute: the dtype of the computation.
            release: take the arrays out of `params`, so that no two copies are held.
            base: a model of the same mesh and dtype, whose arrays are used for all parameters that
                `params` has not; models of one architecture beside it share their programs.
        """
        self.cfg, self.mesh = cfg, wide(mesh)
        self.decoder = Decoder(Model(cfg, rules_for(dict(self.mesh.shape), 0, False), compute))
        beside = None if base is None else base.weights
        self.weights: Weights = self.decoder.weights(
            params, self.mesh, release=release, beside=beside
        )
        self._programs: dict[Form, Programs] = {} if base is None else base._programs
        self._held: Engine | None = None

    def __call__(self, rows: int, length: int, known: int | None, *, tops: int = 0) -> Engine:
        """Return an engine of at least so many rows and positions.

        Args:
            rows: how many answers generate at once.
            length: positions of a row.
            known: how many tokens of the vocabulary the tokenizer has; None for all.
            tops: how many of the most likely tokens are returned at each position.
        """
        rows = power(rows, 1)
        length = min(power(length, 4 * SHORTEST), self.cfg.seq_length)
        held = self._held
        fits = held and held.rows >= rows and held.length >= length
        if held and fits and (held.programs.known, held.programs.tops) == (known, tops):
            held.allocate()
            return held
        self._held = held = None  # its cache goes before the new one comes
        self._held = Engine(self._of_form(rows, length, known, tops), self.weights)
        return self._held

    @property
    def weights_bytes(self) -> int:
        """How much memory the weights take, those that belong to a base included."""
        return sum(w.nbytes for w in jax.tree.leaves(self.weights))

    def _of_form(self, rows: int, length: int, known: int | None, tops: int) -> Programs:
        form = self.cfg, rows, length, known, tops
        if form not in self._programs:
            self._programs[form] = Programs(
                self.decoder, self.mesh, rows=rows, length=length, known=known, tops=tops
            )
        return self._programs[form]


def wide(mesh: Mesh) -> Mesh:
    """Make a mesh of the same devices with all axes but tp and ep as dp.

    There are then no stages, and no length is split.
    """
    tp, ep = mesh.shape["tp"], mesh.shape.get(EXPERTS, 1)
    sizes = whole({"dp": mesh.size // tp // ep, EXPERTS: ep, "tp": tp})
    return jax.sharding.Mesh(
        mesh.devices.reshape(tuple(sizes.values())), tuple(sizes), axis_types=mesh.axis_types
    )
