"""Several adapters of one base that generate side by side; its weights are in memory once."""

from collections.abc import Mapping
from pathlib import Path

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.config.optimization_schema import Dtype
from jaxneox.errors import UserError
from jaxneox.loading.load import CheckpointForm, locate, locate_adapter, own_params
from jaxneox.loading.model import LoadedModel
from jaxneox.model.losses import NO_LOGITS


def load_siblings(
    path: str | Path,
    adapters: Mapping[str, str | Path],
    *,
    step: int | None,
    mesh: str | None,
    compute: Dtype,
) -> tuple[LoadedModel, dict[str, LoadedModel]]:
    """Load a base, and adapters that share its arrays.

    What `generate` answers is that of `load_model(path, adapter=...)` for each of them. Whatever
    can be known of the adapters from their folders is checked before the base is read.

    Args:
        path: the base, as of `jaxneox.load`.
        adapters: runs that trained LoRA's matrices beside it, by name.
        step: which of the base's checkpoints; the newest unless given.
        mesh: devices by axis; one unless given.
        compute: the dtype of the computation.

    Returns:
        The base alone, and each adapter's model by name. They generate, and do nothing else.

    Raises:
        UserError: the base is an adapter itself; or an adapter is none, belongs to another model,
            or writes no text.
    """
    base = locate(path, step)
    places = {name: locate_adapter(where, base) for name, where in adapters.items()}
    forms = {name: form_beside(base, place, mesh) for name, place in places.items()}
    whole = CheckpointForm(checkpoint.read_meta(base), mesh)
    params = checkpoint.restore_params(base, whole.abstract)
    sums = checkpoint.params_sums(base, params)
    for place in places.values():
        recorded = checkpoint.read_meta(place)[META]
        base_model.check(recorded, str(base.run), sums, place.folder)
    model = whole.loaded(params, base, compute).release()
    loaded = {}
    for name, place in places.items():
        own = checkpoint.restore_params(place, own_params(place, base, forms[name].abstract))
        loaded[name] = forms[name].loaded(own, place, compute).release(model)
    return model, loaded


def form_beside(base: Location, adapter: Location, mesh: str | None) -> CheckpointForm:
    """Make the form of an adapter's model, all of whose other parameters are the base's."""
    meta = checkpoint.read_meta(adapter)
    saved = checkpoint.read_meta(base).get("checksums", {}).get("params")
    if saved is not None:
        base_model.check(meta[META], str(base.run), saved, adapter.folder)
    form = CheckpointForm(meta, mesh)
    if form.config.model.head == "reward":
        raise UserError(f"{adapter.folder}: {NO_LOGITS}")
    own = own_params(adapter, base, form.abstract)
    shapes = {name: leaf.shape for name, leaf in form.abstract.items()}
    checkpoint.check_same_model(adapter, {name: shapes[name] for name in own})
    there = checkpoint.read_shapes(base)
    checkpoint.check_same_model(base, {name: shapes[name] for name in there if name in shapes})
    return form
