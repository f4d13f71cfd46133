"""Small datasets of pairs and of texts with rewards, and loaders of them."""

import pathlib
from dataclasses import replace
from typing import Any

import numpy as np

from jaxneox.config.data_schema import DataConfig, DataSource, TokenizerConfig
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.data import BatchSizes, SampleRequest, build_loader, build_tokenizer
from jaxneox.data.examples import ExampleLoader
from jaxneox.data.writer import write_index

CHAR = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))  # its end of a document is 0
S, MASKED = 5, -100
REFERENCE = "ref"

Text = tuple[list[int], list[int]]  # a prompt and an answer


def write(prefix: pathlib.Path, documents: list[Any], dtype: str = "int32") -> str:
    """Write a dataset, of numbers that are not finite too."""
    arrays = [np.asarray(document, dtype) for document in documents]
    prefix.with_name(f"{prefix.name}.bin").write_bytes(b"".join(map(bytes, arrays)))
    with prefix.with_name(f"{prefix.name}.idx").open("wb") as file:
        sizes = np.array([len(array) for array in arrays], int)
        write_index(file, np.dtype(dtype), sizes, np.arange(len(arrays) + 1))
    return str(prefix)


def write_texts(prefix: pathlib.Path, texts: list[Text]) -> tuple[str, str]:
    """The tokens, and their labels beside them."""
    labels = [[MASKED] * len(prompt) + answer for prompt, answer in texts]
    return (
        write(prefix.with_name(f"{prefix.name}_document"), [p + a for p, a in texts], "uint16"),
        write(prefix.with_name(f"{prefix.name}_label_document"), labels),
    )


def write_reference(tokens: str, documents: list[Any], suffix: str = "") -> None:
    write(pathlib.Path(f"{tokens}_{REFERENCE}{suffix}"), documents, "float32")


def pairs(folder: pathlib.Path, chosen: list[Text], rejected: list[Text]) -> DataConfig:
    one, other = write_texts(folder / "c", chosen), write_texts(folder / "r", rejected)
    source = DataSource(
        (one[0],), labels=(one[1],), rejected=(other[0],), rejected_labels=(other[1],)
    )
    return DataConfig(train=source, pack="unpacked")


def rated(folder: pathlib.Path, texts: list[Text], rewards: list[Any]) -> DataConfig:
    """A reward is a number, or the documents of the file as they are to be written."""
    tokens, labels = write_texts(folder / "t", texts)
    whole = all(isinstance(reward, int) for reward in rewards)
    documents = [r if isinstance(r, list) else [r] for r in rewards]
    path = write(folder / "t_reward_document", documents, "int32" if whole else "float32")
    return DataConfig(train=DataSource((tokens,), (), (labels,), (path,)), pack="unpacked")


def unlabelled(data: DataConfig) -> DataConfig:
    return replace(data, train=replace(data.train, labels=(), rejected_labels=()))


def loader(data: DataConfig, kind: str = "dpo", **changes: Any) -> ExampleLoader:
    """A loader; `changes` are fields of ObjectiveConfig, or those below."""
    given = {"num_samples": 12, "global_batch": 4, "seed": 7, "vocab_size": 100, "seq_length": S}
    given |= {name: changes.pop(name) for name in given.keys() & changes.keys()}
    found = build_loader(
        data,
        CHAR,
        SampleRequest("train", given["num_samples"], given["seq_length"], given["seed"]),
        BatchSizes(given["global_batch"]),
        objective=ObjectiveConfig(kind, **changes),  # type: ignore[arg-type]
        vocab_size=given["vocab_size"],
    )
    assert isinstance(found, ExampleLoader)
    return found


def every(found: ExampleLoader) -> dict[str, np.ndarray]:
    """All examples of one pass, in the order in which they are read."""
    return found.examples.fields(np.arange(len(found.examples)))
