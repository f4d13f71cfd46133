"""Whether log-probabilities are there already, and are those of the same rows by the same model."""

from pathlib import Path

from jaxneox import base_model, checkpoint
from jaxneox.checkpoint import Location
from jaxneox.console.say import say
from jaxneox.data import reference_record
from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from jaxneox.precompute.texts import ScoredTexts


def fingerprint_of(location: Location, model: LoadedModel) -> str:
    """Return a fingerprint of a checkpoint's parameters, of an adapter's with its base's."""
    sums = checkpoint.params_sums(location, dict(model.params))
    own, base = base_model.fingerprint(sums), checkpoint.read_meta(location).get(base_model.META)
    return own if base is None else f"{own} {base['fingerprint']}"


def is_there(texts: ScoredTexts, model: str, load: str) -> bool:
    """Tell whether the log-probabilities of texts are there.

    Raises:
        UserError: they are those of other rows, or by another model.
    """
    if not Path(f"{texts.to}.idx").exists():
        return False
    record = reference_record.read(texts.to)
    if record is None:
        say(f"note: {texts.to}: nothing says by which model it was computed, and of which rows")
        return True
    other = "of other rows" if record[reference_record.ROWS] != texts.rows else None
    if record[reference_record.MODEL] != model:
        other = f"by another model than {load}"
    if other:
        raise UserError(
            f"{texts.to}: is there already, and was computed {other}: make it anew with --again, "
            "or give another precompute_model_name"
        )
    return True
