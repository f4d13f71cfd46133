"""`jaxneox.load`: from a path to a model in memory."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.config import Settings
from jaxneox.config.schema import Dtype
from jaxneox.data import load_tokenizer
from jaxneox.errors import UserError
from jaxneox.foreign import foreign
from jaxneox.loading.model import LoadedModel
from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model, Params
from jaxneox.model.parameters import REWARD, UNEMBEDDING
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
        location = checkpoint.find(adapter)
        refuse_mixture(location, base)
    asked = whole(parse_mesh(mesh or "dp=1"))
    with contextlib.suppress(RuntimeError):  # jax has started: its devices are what they are
        prepare_devices(asked)
    sizes = final_sizes(asked, jax.device_count())
    meta = checkpoint.read_meta(location)
    config = Settings(meta["keys"]).resolve(dp=1, vocab_size=None)
    devices, rules = make_mesh(sizes), rules_for(sizes, 0, False)
    model = Model(config.model, rules)
    abstract = abstract_params(model, rules, devices)
    if META not in meta:
        params = checkpoint.restore_params(location, abstract)
    else:
        beside = base if adapter is not None else locate(meta[META]["where"])
        params = both(location, beside, abstract, meta[META])
    folder = location.run / "tokenizer"
    tokenizer = load_tokenizer(folder, config.tokenizer.eod_token) if folder.is_dir() else None
    conversion = meta.get("conversion")
    return LoadedModel(config, params, tokenizer, devices, rules, compute, conversion=conversion)


def refuse_mixture(adapter: Location, base: Location) -> None:
    """Refuse what is no adapter, and to put one beside another."""
    if META not in checkpoint.read_meta(adapter):
        raise UserError(f"{adapter.folder}: is a whole model and no adapter; open it by itself")
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
    trained, there = checkpoint.read_shapes(adapter), checkpoint.read_shapes(base)
    theirs = {name: leaf for name, leaf in abstract.items() if name in there}
    unused = () if REWARD not in abstract else UNEMBEDDING
    params = checkpoint.restore_params(base, theirs, unused)
    sums = checkpoint.params_sums(base, params)
    base_model.check(recorded, str(base.run), sums, adapter.folder)
    own = {name: leaf for name, leaf in abstract.items() if name in trained or name not in there}
    return params | checkpoint.restore_params(adapter, own)
