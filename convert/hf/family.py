"""What is said of an architecture of Hugging Face: its keys in config.json and its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig


class Field(NamedTuple):
    """`ours` is an attribute of ModelConfig, dotted; `keys` are those of the YAML for it."""

    theirs: str
    default: Any
    ours: str
    keys: tuple[str, ...]
    alias: str = ""  # another name that transformers takes


class Rope(NamedTuple):
    """What 4.x calls the base and the share of a head that is turned; 5 has `rope_parameters`."""

    theta: str
    fraction: str | None  # None: whole heads are turned
    default_fraction: float = 1.0


class Fixed(NamedTuple):
    neutral: tuple[Any, ...]
    why: str


class Windows(Protocol):
    """How a family says that a token sees only some tokens before it; `hf.windows` has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of config.json."""

    def read(self, config: Mapping[str, Any], layers: int) -> int | None:
        """How many tokens before it a token sees, or None if it sees all.

        Raises UserError where the layers differ.
        """

    def write(self, window: int | None, layers: int) -> dict[str, Any]: ...


class Table(Protocol):
    """A module of `convert.rules` about the tensors of a family by their names on disk."""

    @property
    def PREFIX(self) -> str:
        """Of the model without its head."""

    @property
    def HEAD(self) -> str: ...

    @property
    def BUFFERS(self) -> tuple[str, ...]:
        """Of a layer: computed, and saved by some versions."""

    @property
    def rules(self) -> Callable[[ModelConfig], tuple[Rule, ...]]: ...


@dataclass(frozen=True, eq=False)
class Family:
    """An architecture of transformers.

    Attributes:
        fields: keys that are each one field of ours.
        width: the key of the MLP's inner width; null is four times the hidden size.
        tied: whether the embedding is tied where config.json does not say.
        constants: keys of the YAML that all its models have.
        table: its tensors.
        whole_heads: transformers refuses heads whose number does not divide the hidden size.
        fixed: keys that must have the one value that leaves the function as it is.
        harmless: keys that do not bear on the function.
        since: keys that change the function, by the version of transformers that first read them.
        other_names: names that a tensor has in memory, where it is called otherwise on disk.
    """

    architecture: str
    model_type: str
    fields: tuple[Field, ...]
    width: tuple[str, int | None]
    activation: tuple[str, str]
    constants: Mapping[str, Any]
    table: Table
    tied: bool = False
    rope: Rope | None = None
    windows: Windows | None = None
    gated: bool = False
    whole_heads: bool = True
    fixed: Mapping[str, Fixed] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    since: Mapping[str, str] = field(default_factory=dict)
    other_names: Mapping[str, str] = field(default_factory=dict)

    def rules(self, model: ModelConfig) -> tuple[Rule, ...]:
        return self.table.rules(model)


def one_to_one(theirs: str, default: Any, ours: str, *keys: str, alias: str = "") -> Field:
    """A key of config.json that is one field; `keys` are the YAML's if they have other names."""
    return Field(theirs, default, ours, keys or (ours,), alias)


def with_defaults(fields: tuple[Field, ...], **defaults: Any) -> tuple[Field, ...]:
    """The same keys of another family, which has other values for what config.json leaves out."""
    return tuple(
        field._replace(default=defaults.get(field.theirs, field.default)) for field in fields
    )
