"""`jaxneox.load`: from a path to a model in memory."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.config import Settings
from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import Config
from jaxneox.data import load_tokenizer
from jaxneox.errors import UserError
from jaxneox.foreign import PEFT, foreign
from jaxneox.loading.model import LoadedModel
from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model, Params
from jaxneox.model.parameters import REWARD, UNEMBEDDING
from jaxneox.parallel.mesh import final_sizes, make_mesh, parse_mesh, prepare_devices, whole
from jaxneox.parallel.rules import rules_for


def locate(where: str | Path, step: int | None = None) -> Location:
    """Find a checkpoint; one of another program is converted into the cache first.

    Args:
        where: a run or step of ours; a folder of Hugging Face's, NeoX's, Megatron's or PEFT's; or a
            hub's repository, `owner/name[@revision]`.
        step: which of a run's checkpoints; the newest unless given.

    Raises:
        UserError: there is none, or it cannot be converted.
    """
    folder = Path(where)
    kind = foreign(folder) if folder.is_dir() else None
    if folder.is_dir() and kind is None:
        return checkpoint.find(folder, step)
    if kind is PEFT:
        from convert.peft.cached import adapter_in_our_form

        return checkpoint.find(adapter_in_our_form(folder))
    from convert.cached import in_our_form

    own = in_our_form(where, step)
    return checkpoint.find(own, step if own == folder else None)


def load_model(
    path: str | Path,
    *,
    step: int | None,
    mesh: str | None,
    compute: Dtype,
    adapter: str | Path | None = None,
) -> LoadedModel:
    """Load a checkpoint; see `jaxneox.load`."""
    location = base = locate(path, step)
    if adapter is not None:
        location = locate_adapter(adapter, base)
    meta = checkpoint.read_meta(location)
    form = CheckpointForm(meta, mesh)
    if META not in meta:
        params = checkpoint.restore_params(location, form.abstract)
    else:
        beside = (
            base if adapter is not None else locate(base_model.where(meta[META], location.folder))
        )
        params = both(location, beside, form.abstract, meta[META])
    return form.loaded(params, location, compute)


class CheckpointForm:
    """What a checkpoint's `meta` says of its model, on a mesh.

    Attributes:
        config: the configuration of the run.
        mesh, rules: the devices, and how arrays lie on them.
        abstract: all parameters of the model as shapes with shardings.
    """

    def __init__(self, meta: Mapping[str, Any], mesh: str | None):
        """Make the devices ready, and the shapes.

        Args:
            meta: of the checkpoint.
            mesh: devices by axis; one unless given.
        """
        asked = whole(parse_mesh(mesh or "dp=1"))
        with contextlib.suppress(RuntimeError):  # jax has started: its devices are what they are
            prepare_devices(asked)
        sizes = final_sizes(asked, jax.device_count())
        self.config = in_use(Settings(meta["keys"]).resolve(dp=1, vocab_size=None))
        self._meta, self.mesh, self.rules = meta, make_mesh(sizes), rules_for(sizes, 0, False)
        model = Model(self.config.model, self.rules)
        self.abstract = abstract_params(model, self.rules, self.mesh)

    def loaded(self, params: Params, location: Location, compute: Dtype) -> LoadedModel:
        """Put the model together from its parameters and the tokenizer of its run."""
        folder = location.run / "tokenizer"
        eod = self.config.tokenizer.eod_token
        return LoadedModel(
            self.config,
            params,
            load_tokenizer(folder, eod) if folder.is_dir() else None,
            self.mesh,
            self.rules,
            compute,
            conversion=self._meta.get("conversion"),
        )


def in_use(cfg: Config) -> Config:
    """Return the configuration of a model that is used, whose texts may be longer than its rows.

    Raises:
        UserError: the model has no positions for so long a text.
    """
    context, positions = cfg.generation.context, cfg.model.positions
    if context is None:
        return cfg
    room = positions.max_positions - positions.offset
    if positions.kind == "learned" and context > room:
        raise UserError(
            f"context_length {context}: the model has learned {room} positions; set it to {room} "
            "or less"
        )
    return replace(cfg, model=replace(cfg.model, seq_length=context))


def locate_adapter(adapter: str | Path, base: Location) -> Location:
    """Find an adapter that is to stand beside a model; PEFT's is converted into the cache first.

    Raises:
        UserError: there is none, it is a whole model, or the model is an adapter itself; or PEFT's
            cannot be converted, or is not one of this model.
    """
    folder = Path(adapter)
    if folder.is_dir() and foreign(folder) is PEFT:
        from convert.peft.cached import adapter_in_our_form

        refuse_adapter(base)
        folder = adapter_in_our_form(folder, str(base.folder))
    location = checkpoint.find(folder)
    refuse_mixture(location, base)
    return location


def refuse_mixture(adapter: Location, base: Location) -> None:
    """Refuse what is no adapter, and to put one beside another."""
    if META not in checkpoint.read_meta(adapter):
        raise UserError(f"{adapter.folder}: is a whole model and no adapter; open it by itself")
    refuse_adapter(base)


def refuse_adapter(base: Location) -> None:
    """Refuse an adapter as what another stands beside."""
    if META in checkpoint.read_meta(base):
        raise UserError(f"{base.folder}: is an adapter; give the model that it stands beside")


def both(
    adapter: Location,
    base: Location,
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    recorded: Mapping[str, str],
) -> Params:
    """Read an adapter's parameters and those of its base, of which it may have trained some.

    Args:
        adapter: holds what was trained.
        base: holds all parameters but LoRA's.
        abstract: all parameters of the model as shapes with shardings.
        recorded: what the adapter says of its base.

    Raises:
        UserError: they are not those of the model, or the base is not what it was.
    """
    own = own_params(adapter, base, abstract)
    theirs = {name: leaf for name, leaf in abstract.items() if name in checkpoint.read_shapes(base)}
    unused = () if REWARD not in abstract else UNEMBEDDING
    params = checkpoint.restore_params(base, theirs, unused)
    sums = checkpoint.params_sums(base, params)
    base_model.check(recorded, str(base.run), sums, adapter.folder)
    return params | checkpoint.restore_params(adapter, own)


def own_params(
    adapter: Location, base: Location, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Select the parameters that an adapter holds: what its base has not, and what it trained."""
    trained, there = checkpoint.read_shapes(adapter), checkpoint.read_shapes(base)
    return {name: leaf for name, leaf in abstract.items() if name in trained or name not in there}
