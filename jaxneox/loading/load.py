"""`jaxneox.load`: from a path to a model in memory."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.config import Settings
from jaxneox.config.schema import Dtype
from jaxneox.data import load_tokenizer
from jaxneox.foreign import foreign
from jaxneox.loading.model import LoadedModel
from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model, Params
from jaxneox.parallel.mesh import final_sizes, make_mesh, parse_mesh, prepare_devices, whole
from jaxneox.parallel.rules import rules_for


def locate(where: str | Path, step: int | None = None) -> Location:
    """Find a checkpoint; one of another program is converted into the cache first.

    Args:
        where: a run or step of ours; a folder of Hugging Face's, NeoX's or Megatron's; or a hub's
            repository, `owner/name[@revision]`.
        step: which of a run's checkpoints; the newest unless given.

    Raises:
        UserError: there is none, or it cannot be converted.
    """
    folder = Path(where)
    if folder.is_dir() and foreign(folder) is None:
        return checkpoint.find(folder, step)
    from convert.cached import in_our_form

    own = in_our_form(where, step)
    return checkpoint.find(own, step if own == folder else None)


def read_params(
    location: Location, abstract: Mapping[str, Any], base: Mapping[str, str] | None
) -> Params:
    """Read a checkpoint's parameters, of an adapter those of its base as well.

    Args:
        location: the checkpoint.
        abstract: all parameters of the model as shapes with shardings.
        base: what an adapter records of its base; None for a whole model.

    Raises:
        UserError: they are not those of the model, or the base is not what it was.
    """
    if base is None:
        return checkpoint.restore_params(location, dict(abstract))
    saved = checkpoint.read_shapes(location)
    below, where = locate(base["where"]), base["where"]
    theirs = {name: abstract[name] for name in checkpoint.read_shapes(below) if name in abstract}
    params = checkpoint.restore_params(below, theirs)
    base_model.check(base, where, params, location.folder)
    own = {name: leaf for name, leaf in abstract.items() if name in saved or name not in theirs}
    return params | checkpoint.restore_params(location, own)


def load_model(
    path: str | Path, *, step: int | None, mesh: str | None, compute: Dtype
) -> LoadedModel:
    """Load a checkpoint; see `jaxneox.load`."""
    location = locate(path, step)
    asked = whole(parse_mesh(mesh or "dp=1"))
    with contextlib.suppress(RuntimeError):  # jax has started: its devices are what they are
        prepare_devices(asked)
    sizes = final_sizes(asked, jax.device_count())
    meta = checkpoint.read_meta(location)
    config = Settings(meta["keys"]).resolve(dp=1, vocab_size=None)
    devices, rules = make_mesh(sizes), rules_for(sizes, 0, False)
    model = Model(config.model, rules)
    params = read_params(location, abstract_params(model, rules, devices), meta.get(META))
    folder = location.run / "tokenizer"
    tokenizer = load_tokenizer(folder, config.tokenizer.eod_token) if folder.is_dir() else None
    conversion = meta.get("conversion")
    return LoadedModel(config, params, tokenizer, devices, rules, compute, conversion=conversion)
