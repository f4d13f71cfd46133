"""Writes muP's base shapes, which `save_base_shapes` asks for instead of a training."""

from pathlib import Path

from jaxneox.config import Settings
from jaxneox.config.base_shapes import write_base_shapes
from jaxneox.console.say import say
from jaxneox.errors import UserError

ANY_VOCABULARY = {"padded_vocab_size": 1 << 20}
"""The vocabulary has the same size at every width, so that its number is not in the files."""


def save_base_shapes(settings: Settings) -> int:
    """Write the base shapes of a run's model, as NeoX does at the base's width.

    Which sizes grow is told by a model whose hidden size is `mup_width_scale` times as large.

    Returns:
        The exit status. NeoX ends with 1 here, as if it had failed.

    Raises:
        UserError: no file is named, or the wider model cannot be built.
    """
    file = settings["base_shapes_file"]
    if file is None:
        raise UserError("save_base_shapes: base_shapes_file is missing: where shall it be written?")
    plain = {n: v for n, v in settings.keys.items() if n != "use_mup"} | ANY_VOCABULARY
    scale, hidden = settings.checkpoint.base_width_scale, settings.needed("hidden_size")
    base, wider = (
        Settings(plain | {"hidden_size": width}).model(None) for width in (hidden, scale * hidden)
    )
    pipeline = settings["pipe_parallel_size"] != 0
    ranks = settings.tokenizer.model_parallel
    files = write_base_shapes(Path(file), base, wider, ranks=ranks, pipeline=pipeline)
    say(f"{files[0]}   base shapes of width {hidden}, for runs with use_mup at any other")
    for other in files[1:]:
        say(f"{other}   the same, for NeoX's other ranks")
    return 0
