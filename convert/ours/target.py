"""A jaxneox run as the target of a conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from convert.checkpoint import Moment, Source, Target, Training
from convert.fate import Fate
from convert.ours import next_command
from convert.parts import Leaves, Part, nbytes, parts_of, place_in
from convert.readers.jaxneox import JaxneoxCheckpoint, open_jaxneox
from convert.writers.jaxneox import JaxneoxWriter
from convert.writers.training import TrainingWriter
from jaxneox.config import Settings, saved_keys

MOMENTS: tuple[Moment, ...] = ("mu", "nu")


class JaxneoxTarget(Target):
    """A jaxneox run as the target of a conversion.

    Raises:
        UserError: the source's keys do not describe a run of ours.
    """

    title = "jaxneox"
    at_once: ClassVar[int] = 2  # more would help where there are more cores, and cost their memory

    def __init__(self, source: Source) -> None:
        self._source = source
        self._config = Settings(source.keys).resolve(dp=source.dp, vocab_size=None)
        self.nbytes = nbytes(source.shapes, source.dtypes)

    def start(self, folder: Path) -> None:
        source = self._source
        leaves = {n: (shape, source.dtypes[n]) for n, shape in source.shapes.items()}
        self._writer = JaxneoxWriter(folder, source.step, leaves)

    def write(self, part: Part, leaves: Leaves) -> list[Fate]:
        """Write the parameters of a part; the source has already accounted for its tensors."""
        for name, value in leaves.items():
            self._writer.write(name, place_in(part, name, self._source.checkpoint.model), value)
        return []

    def write_training(self, training: Training, advance: Callable[[int], None]) -> None:
        model = self._source.checkpoint.model
        writer = TrainingWriter(self._writer, self._config)
        loss = self._config.precision.loss_scale
        writer.counters(
            step=self._source.step,
            updates=training.updates,
            position=training.position,
            skipped=training.skipped,
            scale=training.scale(loss) if loss else None,
        )
        for moment in MOMENTS:
            for part in parts_of(model):
                values = training.moments[moment].leaves(part)
                writer.moments(moment, part, values)
                advance(sum(value.nbytes for value in values.values()))

    def finish(self) -> list[str]:
        if self._source.tokenizer is not None:
            self._source.tokenizer.save(self._writer.folder / "tokenizer")
        self._writer.finish(saved_keys(self._config), {"conversion": dict(self._source.conversion)})
        return []

    def reopen(self) -> JaxneoxCheckpoint:
        return open_jaxneox(self._writer.folder)

    def result(self, dst: Path) -> tuple[str, str]:
        next_step = next_command.after(dst, optimizer=self._source.training is not None)
        return f"{dst}   the checkpoint: jaxneox.load({str(dst)!r})", next_step
