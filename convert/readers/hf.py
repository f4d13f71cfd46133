"""Reads a folder of a supported Hugging Face family as our parameters, layer by layer."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from convert.casting import PRECISION, as_computed
from convert.checkpoint import Checkpoint, UserProgram
from convert.fate import differ
from convert.hf import program
from convert.hf.config import family_of, keys_of, unknown_keys
from convert.hf.family import Family
from convert.hf.quantized import refuse_quantized, refuse_quantized_tensors
from convert.hf.tokenizer import beside
from convert.ours.training_placeholders import TRAINING
from convert.parts import STACKED, Shapes, layers_with
from convert.readers.hf_files import DTYPES, HfTensor, refuse_peft, tensors, weight_files
from convert.readers.neox_files import merged_files
from convert.rules.hf_neox import REWARD
from convert.rules.rule import Rule, sizes_of
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig
from jaxneox.console.hints import command
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError, listed
from jaxneox.reading import read_object

FLOATS = tuple(np.dtype(dtype) for dtype in DTYPES.values())

FREQUENCIES = "rotary_emb.inv_freq"
T = TypeVar("T")


class HfCheckpoint(Checkpoint):
    """A transformers model whose tensors are converted to our layout when they are read.

    Attributes:
        keys: NeoX's keys, as few as `resolve` accepts.
        tensors: the tensors by their names on disk; none has been read.
        files: every file that is read except the tokenizer.
        warnings: what a person should look at, one line each.

    Raises:
        UserError: the configuration is not supported, or tensors are missing, unknown or of
            another shape than the configuration requires; the message names them all.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one with a config.json")
        refuse_peft(folder)
        self.folder = folder
        config_file = folder / "config.json"
        if merged_files(folder):
            raise UserError(
                f"{folder}: holds GPT-NeoX's weights as zero_to_fp32.py writes them: "
                f"`{command('convert', 'from-neox', folder, 'DST')}` converts them"
            )
        self.config: dict[str, Any] = read_object(config_file)
        refuse_quantized(folder, self.config)
        self.family: Family = _of(config_file, lambda: family_of(self.config))
        keys = _of(config_file, lambda: keys_of(self.config))
        self.model: ModelConfig = _of(config_file, lambda: Settings(keys).model(vocab_size=None))
        self.sizes = sizes_of(self.model)
        self.weight_files = weight_files(folder)
        self.files = [config_file, *self.weight_files]
        self._rules = self.family.rules(self.model)
        self.shapes = self._shapes()
        there = tensors(self.weight_files)
        refuse_quantized_tensors(folder, there)
        self.tensors = self._with_prefix(self._on_disk(there))
        self._refuse_claims()
        self._check()
        precision = PRECISION[_common(map(self.dtype, self.shapes)).name]
        self.keys: dict[str, Any] = keys | {"precision": precision} | TRAINING

    @property
    def warnings(self) -> list[str]:
        return [
            f"{self.folder / 'config.json'}: {name} is {self.config[name]!r}, which is unknown "
            "here; if the model's code reads it, its function is another one"
            for name in unknown_keys(self.config)
        ]

    def _shapes(self) -> Shapes:
        shapes = {}
        for rule in self._rules:
            for part in rule.parts:
                layers = layers_with(part.leaf, self.model)
                stacked = (len(layers),) if part.leaf.startswith(STACKED) else ()
                shapes[part.leaf] = stacked + part.whole(self.sizes)
        return shapes

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        return beside(self.folder)

    def dtype(self, name: str) -> np.dtype:
        """Return the tensors' own type, or float32 if they differ."""
        return _common(self.tensors[n].dtype for r in self._of(name) for n in self._names(r))

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        stacked = name.startswith(STACKED)
        if stacked and layer is None:
            return np.stack([self.leaf(name, i) for i in layers_with(name, self.model)])
        filled = {leaf for rule in self._of(name) for leaf in rule.leaves}  # a tensor may hold two
        leaves = {n: np.empty(self.shapes[n][stacked:], self.dtype(name)) for n in filled}
        for rule in self._of(name):
            tensor = self.tensors[rule.theirs.format(layer)]
            rule.put(tensor.numpy(), leaves, self.sizes, rank=0)
        return leaves[name]

    def program(self) -> UserProgram | str:
        if not program.available():
            return "not run: transformers and torch are not installed"
        run = program.values if self.family.rewards else program.logits
        return UserProgram(partial(run, self.folder), self.nbytes_float32)

    def origin(self, name: str) -> str:
        """Return the names on disk that a leaf is made of, with `*` for the layer."""
        return " + ".join(rule.theirs.replace("{}", "*") for rule in self._of(name))

    def _of(self, leaf: str) -> list[Rule]:
        return [rule for rule in self._rules if leaf in rule.leaves]

    def _names(self, rule: Rule) -> list[str]:
        """Return a rule's names on disk: those of every layer, or the one outside the layers."""
        if "{}" not in rule.theirs:
            return [rule.theirs]
        layers = layers_with(rule.parts[0].leaf, self.model)
        return [rule.theirs.format(layer) for layer in layers]

    def _on_disk(self, tensors: dict[str, HfTensor]) -> dict[str, HfTensor]:
        """Rename tensors as on disk: a saved `state_dict()` may have the names in memory.

        Raises:
            UserError: a tensor is there under both names, with different numbers.
        """
        for other, name in self.family.other_names.items():
            if other not in tensors:
                continue
            tensor = tensors.pop(other)
            if name not in tensors:
                tensors[name] = tensor
            elif differ([tensors[name].numpy(), tensor.numpy()]):
                raise UserError(
                    f"{self.folder}: {name} and {other} are two names of one tensor, and their "
                    "numbers differ: keep the one that the model was saved with"
                )
        return tensors

    @property
    def _head(self) -> str:
        return REWARD if self.family.rewards else self.family.table.HEAD

    def _with_prefix(self, tensors: dict[str, HfTensor]) -> dict[str, HfTensor]:
        """Add the prefix that some files leave out, such as GPT-2's own."""
        prefix, head = self.family.table.PREFIX, self._head
        if any(name.startswith(prefix) for name in tensors):
            return tensors
        return {name if name == head else prefix + name: t for name, t in tensors.items()}

    def _check(self) -> None:
        wrong = [*self._contradictions()]
        if wrong:
            raise UserError(
                f"{self.folder}: its tensors are not those of its config.json in {len(wrong)} "
                f"places: {listed(wrong, 64, '; ')}"
            )

    def _refuse_claims(self) -> None:
        """Compare the number of layers with the files before any layer is listed."""
        if self.model.num_layers > len(self.tensors):
            raise UserError(
                f"{self.folder}: the files have {len(self.tensors)} tensors, config.json claims "
                f"{self.model.num_layers} layers; copy the whole checkpoint, or correct the file"
            )

    def _contradictions(self) -> Iterator[str]:
        shapes = {name: r.shape(self.sizes) for r in self._rules for name in self._names(r)}
        for name, shape in shapes.items():
            if name not in self.tensors:
                yield f"{name} {list(shape)} is missing"
        for name, tensor in self.tensors.items():
            if name not in shapes:
                yield from self._beyond(name, tensor)
            elif tensor.shape != shapes[name]:
                yield f"{name} is {list(tensor.shape)}, expected {list(shapes[name])}"
            elif tensor.dtype not in FLOATS:
                yield f"{name} is {tensor.dtype or 'of a type'}, which is none of {[*PRECISION]}"

    def _beyond(self, name: str, tensor: HfTensor) -> Iterator[str]:
        """Yield what is wrong with a tensor that no leaf is made of; saved masks are fine."""
        blocks = next(r.theirs for r in self._rules if "{}" in r.theirs).partition("{}")[0]
        layer, _, rest = name.removeprefix(blocks).partition(".")
        if name == self.family.table.HEAD and not self.family.rewards:
            if differ([tensor.numpy(), self.leaf("embed.tokens")]):
                yield f"{name} is not the embedding, but tie_word_embeddings is true"
        elif not (layer.isdecimal() and rest in self.family.table.BUFFERS):
            yield f"{name} {list(tensor.shape)} is unknown"
        elif rest.endswith(FREQUENCIES) and not self._has_frequencies(tensor.numpy()):
            yield f"{name} holds other frequencies than config.json gives"

    def _has_frequencies(self, saved: np.ndarray) -> bool:
        """Check saved frequencies but for the last bits of their type: libraries differ in powers.

        Versions that saved them did not scale the frequencies, but the positions.
        """
        from jaxneox.model.positions import frequencies
        from jaxneox.model.rope_scaling import scaled

        positions = self.model.positions
        width = int(self.model.attention.head_dim * positions.rotary_fraction)
        as_they_are = frequencies(width, positions.rotary_base)
        expected = scaled(width, positions.rotary_base, positions.scaling)
        return any(as_computed(saved, each) for each in (expected, as_they_are))


def _common(dtypes: Iterable[np.dtype | None]) -> np.dtype:
    """Return the only type, or float32, which holds the numbers of all supported types."""
    types = set(dtypes)
    only = types.pop()
    return np.dtype(np.float32) if types or only is None else only


def _of(path: Path, read: Callable[[], T]) -> T:
    """Call `read`, and prefix its errors with the file's name."""
    try:
        return read()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
