"""The description of a Hugging Face architecture: its keys in config.json and its tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from convert.fixed import FixedSetting
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig


class Field(NamedTuple):
    """A key of config.json that sets `ours`, an attribute of ModelConfig, by YAML `keys`."""

    theirs: str
    default: Any
    ours: str
    keys: tuple[str, ...]
    alias: str = ""  # another name that transformers takes
    derived: str = ""  # a word in the place of a number that follows from the others


class Rope(NamedTuple):
    """The names in 4.x of rotary's base and rotated share of a head; 5 has `rope_parameters`."""

    theta: str
    fraction: str | None  # None: whole heads are turned
    default_fraction: float = 1.0


class Windows(Protocol):
    """The keys by which a family limits the preceding tokens that are seen; see `hf.windows`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of config.json that express it."""

    def read(self, config: Mapping[str, Any], layers: int) -> int | None:
        """Return how many preceding tokens a token sees, or None if it sees all.

        Raises:
            UserError: the layers differ.
        """

    def write(self, window: int | None, layers: int) -> dict[str, Any]: ...


class Table(Protocol):
    """A module of `convert.rules` with the tensors of a family, by their names on disk."""

    @property
    def PREFIX(self) -> str:
        """The prefix of the model's tensors, without its head."""

    @property
    def HEAD(self) -> str: ...

    @property
    def BUFFERS(self) -> tuple[str, ...]:
        """Tensors of a layer that are computed, and that some versions save."""

    @property
    def rules(self) -> Callable[[ModelConfig], tuple[Rule, ...]]: ...


@dataclass(frozen=True, eq=False)
class Family:
    """An architecture of transformers.

    Attributes:
        fields: keys that each set one field of ours.
        width: the key of the MLP's inner width; null means four times the hidden size.
        tied: whether the embedding is tied if config.json does not say.
        constants: YAML keys that all models of the family have.
        table: the table of its tensors.
        whole_heads: whether transformers refuses a number of heads that does not divide the
            hidden size.
        fixed: keys that must have the one value that leaves the function as it is.
        harmless: keys that do not affect the function.
        since: keys that change the function, by the version of transformers that first read
            them.
        other_names: names that a tensor has in memory, if it is called otherwise on disk.
        experts: whether every layer has a mixture of experts, of which `width` is one's.
        rewards: whether its head gives one number for each token, instead of logits.
        mamba: whether its layers are selective state spaces, without attention and MLP.
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
    fixed: Mapping[str, FixedSetting] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    since: Mapping[str, str] = field(default_factory=dict)
    other_names: Mapping[str, str] = field(default_factory=dict)
    experts: bool = False
    rewards: bool = False
    mamba: bool = False

    def rules(self, model: ModelConfig) -> tuple[Rule, ...]:
        return self.table.rules(model)


def of_rewards(family: Family) -> Family:
    """Return the family of the same layers whose models have one label: reward models."""
    name = re.sub("(ForCausalLM|LMHeadModel)$", "ForSequenceClassification", family.architecture)
    constants = {**family.constants, "train_impl": "rm"}
    return replace(
        family, architecture=name, constants=constants, tied=False, other_names={}, rewards=True
    )


def one_to_one(
    theirs: str, default: Any, ours: str, *keys: str, alias: str = "", derived: str = ""
) -> Field:
    """Make a field of one key of config.json; `keys` are the YAML's, if their names differ."""
    return Field(theirs, default, ours, keys or (ours,), alias, derived)


def with_defaults(fields: tuple[Field, ...], **defaults: Any) -> tuple[Field, ...]:
    """Return the fields of another family with different defaults for absent keys.

    Raises:
        ValueError: a default is given for a key that none of the fields has.
    """
    if unknown := defaults.keys() - {field.theirs for field in fields}:
        raise ValueError(f"no field has the key {', '.join(sorted(unknown))}")
    return tuple(
        field._replace(default=defaults.get(field.theirs, field.default)) for field in fields
    )
