"""`jaxneox.load`: from a path to a model in memory."""

import contextlib
from pathlib import Path

import jax

from jaxneox import checkpoint
from jaxneox.config import Settings
from jaxneox.config.schema import Dtype
from jaxneox.data import load_tokenizer
from jaxneox.loaded import LoadedModel
from jaxneox.model import Model
from jaxneox.parallel.mesh import final_sizes, make_mesh, parse_mesh, prepare_devices, whole
from jaxneox.parallel.rules import rules_for
from jaxneox.resting import abstract_params


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
