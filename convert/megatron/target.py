"""Megatron-LM's own files as the target of a conversion."""

from pathlib import Path

from convert.checkpoint import Source, Target
from convert.fate import Fate
from convert.megatron.arguments_out import arguments, command_line
from convert.megatron.export import Export
from convert.megatron.grid import MegatronGrid
from convert.parts import Leaves, Part
from convert.readers.megatron import MegatronCheckpoint, open_megatron
from convert.writers.megatron import LegacyWriter, TorchDistWriter

IMPLEMENTATIONS = ("local", "transformer_engine")


class MegatronTarget(Target):
    """Megatron-LM's own files as the target of a conversion.

    Args:
        source: the checkpoint to write.
        grid: the ranks, stages and format to write for.
        implementation: whose names the torch format has, one of IMPLEMENTATIONS.
        dtype: the type of the weights, or `keep`.
    """

    def __init__(
        self, source: Source, grid: MegatronGrid, implementation: str, dtype: str = "keep"
    ) -> None:
        self._source, self._grid, self._implementation = source, grid, implementation
        self._export = Export(source.checkpoint, grid, dtype)
        self.notes = self._export.notes
        self.title = "Megatron-LM"
        self.facts = {"written for": str(grid), "dtype": self._export.dtype.name}
        self.nbytes = self._export.nbytes

    def start(self, folder: Path) -> None:
        self._folder, step, model = folder, self._source.step, self._export.model
        self._dist = self._legacy = None
        if self._grid.format == "torch_dist":
            self._dist = TorchDistWriter(folder, step, model, self._grid)
        else:
            te_names = self._implementation == "transformer_engine"
            self._legacy = LegacyWriter(folder, step, model, self._grid, te_names=te_names)

    def write(self, part: Part, leaves: Leaves) -> list[Fate]:
        tensors, fates = self._export.tensors(part, leaves)
        if self._dist:
            self._dist.write(part, tensors)
        if self._legacy:
            for rank, own in enumerate(self._export.ranks(part, tensors)):
                self._legacy.write(part, rank, own)
        return fates

    def finish(self) -> list[str]:
        for writer in (self._dist, self._legacy):
            if writer:
                writer.finish(arguments(self._export))
        if self._source.tokenizer is not None:
            self._source.tokenizer.save(self._folder / "tokenizer")
        return []

    def reopen(self) -> MegatronCheckpoint:
        return open_megatron(self._folder)

    def result(self, dst: Path) -> tuple[str, str]:
        flags = command_line(self._export, self._implementation)
        return (
            f"{dst}   Megatron-LM's checkpoint for {self._grid}",
            f"Next: pretrain_gpt.py --load {dst} {flags} …",
        )
