"""The table of keys: complete, as NeoX documents it, pointing at fields that exist."""

import csv
import dataclasses
import pathlib
import re
import typing
from typing import Any

import pytest

from jaxneox.config import describe, docs, running, schema
from jaxneox.config.fates import (
    COUNT,
    Key,
    ListOf,
    Needless,
    Number,
    Refused,
    Used,
    is_off,
    same,
    used,
)
from jaxneox.config.keys import ALIASES, BLOCKS, KEYS, SECTIONS
from tests.config.cases import SMALLEST, error, run

HERE = pathlib.Path(__file__).parent
DOCUMENTED = HERE.joinpath("neox_keys.txt").read_text().split()


def test_every_documented_key_is_in_the_section_that_documents_it_and_no_other() -> None:
    of_neox = [section for title, section in SECTIONS.items() if "NeoXArgs" in title]
    assert len(DOCUMENTED) == 297
    assert sorted(name for section in of_neox for name in section) == sorted(DOCUMENTED)
    assert sum(len(section) for section in SECTIONS.values()) == len(KEYS)


def test_types_and_defaults_are_those_of_neox(shared: pathlib.Path) -> None:
    with open(shared / "data/neox_configs/KEYS.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["key"] for row in rows] == DOCUMENTED
    for row in rows:
        key = SECTIONS[row["section"]][row["key"]]
        default = row["default"]
        assert str(key.default) == default or (row["key"] == "prompt_end" and default == ""), row
        kind = key.kind.of if isinstance(key.kind, Number) else key.kind
        if isinstance(kind, tuple):
            documented = re.findall("'(.*?)'", row["type"])
            assert documented and set(documented) <= set(kind), row
        elif isinstance(kind, ListOf):
            assert row["type"] == "list", row
        elif "typing" not in row["type"] and row["type"] != "Optional":
            assert kind.__name__ == row["type"], row


def _field_type(path: str) -> object:
    owner: object = schema.Config
    for part in path.split("."):
        hints = typing.get_type_hints(owner)
        assert part in hints, path
        owner = hints[part]
        inner = [arg for arg in typing.get_args(owner) if dataclasses.is_dataclass(arg)]
        owner = inner[0] if inner else owner
    return owner


def test_used_keys_name_fields_that_exist() -> None:
    for key in KEYS.values():
        if isinstance(key.fate, Used):
            _field_type(key.fate.to)


def test_the_words_of_a_key_are_those_of_its_field() -> None:
    found = 0
    for name, key in KEYS.items():
        words = key.kind if isinstance(key.kind, tuple) else ()
        if words and isinstance(key.fate, Used) and key.fate.by is same:
            field = _field_type(key.fate.to)
            parts = typing.get_args(field)  # of a Literal its words, of a union its Literals
            said = {word for part in parts for word in (typing.get_args(part) or (part,))}
            assert field is str or set(words) - set(key.fate.refused) == said, name
            found += 1
    assert found >= 8


def test_no_field_is_set_by_two_keys() -> None:
    alone = [key.fate.to for key in KEYS.values() if isinstance(key.fate, Used) and key.fate.by]
    assert len(alone) == len(set(alone)) > 80


def test_a_new_key_is_one_row(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row alone has a field set, checked, documented and described."""
    fields: list[Any] = [("colour", str), ("coats", int, 1)]
    base = (schema.LogConfig,)
    paint = dataclasses.make_dataclass("Paint", fields, bases=base, frozen=True, kw_only=True)
    monkeypatch.setattr(running, "LogConfig", paint)
    rows = {
        "colour": used(("red", "green"), None, "log.colour", "of the curve"),
        "layers_of_paint": used(COUNT, 2, "log.coats", by=lambda coats: coats + 1),
    }
    for name, row in rows.items():
        monkeypatch.setitem(KEYS, name, row)
    monkeypatch.setitem(SECTIONS, "jaxneox's own", SECTIONS["jaxneox's own"] | rows)
    config = run(colour="Green")
    assert (config.log.colour, config.log.coats) == ("green", 3)
    assert re.search(r"^log\.colour +green$", describe(config), re.MULTILINE)
    assert "| `colour` | `red`, `green` | `null` | **used**: `log.colour`; of the curve |" in (
        docs.page()
    )
    assert "colour: found 'blue', expected one of red, green" in error(colour="blue")
    assert error() == "colour is missing: set it in the YAML or with --set colour=…"
    (tmp_path / "config.yml").touch()
    for loaded in ({"load": str(tmp_path)}, {"lora": {"rank": 1, "base": str(tmp_path)}}):
        assert error(**loaded).endswith(f"keys of the model from {tmp_path}/config.yml")
    assert "did you mean colour?" in error(color="green")


def test_every_field_is_set_by_some_key() -> None:
    paths = {key.fate.to for key in KEYS.values() if isinstance(key.fate, Used)}
    derived = {"schedule.lr", "schedule.neox_head", "model.vocab_size", "keys"}
    derived |= {
        "model.attention.head_dim",
        "model.mlp.gated",
        "objective.as_neox",
        "model.head",
        "model.experts",
        "model.mamba",
        "model.pattern",
        "tokenizer.model_parallel",
    }

    def leaves(owner: Any, prefix: str) -> typing.Iterator[str]:
        for field in dataclasses.fields(owner):
            inner = typing.get_type_hints(owner)[field.name]
            if dataclasses.is_dataclass(inner):
                yield from leaves(inner, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name

    assert set(leaves(schema.Config, "")) - paths - {"precision.loss_scale"} <= derived


def test_reasons_are_given_once_and_aliases_and_blocks_are_keys() -> None:
    for name, key in KEYS.items():
        if isinstance(key.fate, Needless | Refused):
            assert len(key.fate.why) > 5 and not key.fate.why.endswith("."), name
        if isinstance(key.fate, Refused):
            assert is_off(key, key.default), name
    assert set(ALIASES) | set(ALIASES.values()) <= set(KEYS)
    assert all(KEYS[block].kind is dict for block in BLOCKS)


def test_the_default_of_every_key_is_accepted() -> None:
    defaults = {name: key.default for name, key in KEYS.items() if "." not in name}
    given = {name: value for name, value in defaults.items() if value is not None}
    assert run(**given | SMALLEST).model == run().model


def other_value(key: Key) -> Any:
    kind = key.kind.of if isinstance(key.kind, Number) else key.kind
    if isinstance(kind, tuple):
        return kind[-1]
    others = {bool: not key.default, int: 7, float: 0.5, str: "other"}
    others |= {list: [["x"]], dict: {"a": 1}}
    return others[kind] if isinstance(kind, type) else None


def test_every_refused_key_is_refused_with_its_reason() -> None:
    for name, key in KEYS.items():
        if isinstance(key.fate, Refused) and "." not in name and name != "do_train":
            value = other_value(key)
            line = error(**{name: value})
            assert line == f"{name}: {value} is not supported: {key.fate.why}"


def test_off_values_are_harmless() -> None:
    run(moe_num_experts=1, use_mup=False, amp={"enabled": False}, sparsity_config={})
    run(data_impl="mmap", attention_type="groupedquery", do_train=True, curriculum_learning=None)
    run(zero_optimization={"stage": 1, "cpu_offload": False, "offload_param": {"device": "none"}})
    run(deepspeed_extra_args={"comms_logger": {"enabled": True}})
    assert "deepspeed_extra_args.fp16" in error(deepspeed_extra_args={"fp16": {"enabled": True}})
    run(soft_prompt_tuning={"enabled": False, "num_tokens": 10})
    assert "num_experts: 8" in error(num_experts=8)
    assert "soft_prompt_tuning" in error(soft_prompt_tuning={"num_tokens": 10})
    assert "do_train" in error(do_train=False)
    both = {"stage": 1, "cpu_offload": True, "offload_optimizer": {"device": "none"}}
    assert "cpu_offload is true, but" in error(zero_optimization=both)


def test_what_changes_nothing_is_noted_once_if_something_else_was_asked_for() -> None:
    zero = {"stage": 3, "zero_quantized_weights": True, "offload_param": {"device": "cpu"}}
    comet = {"use_comet": True, "comet_project": "x"}
    asked = {"scheduler": {"type": "WarmupLR"}, "num_unique_layers": 1, "save_iters": [3]}
    config = run(zero_optimization=zero, **comet, **asked)
    assert config.model == run().model and config.schedule == run().schedule
    named = ("zero_quantized_weights", "offload_param", "use_comet", *asked)
    assert len(config.notes) == len(named)
    for name in named:
        assert sum(f"{name}: " in note and "changes nothing" in note for note in config.notes) == 1


def test_other_names_in_the_blocks_of_deepspeed() -> None:
    assert run(zero_optimization={"stage": 1, "cpu_offload": True}).parallel.offload_optimizer
    checkpointed = {"checkpoint_activations": True}
    block = {"cpu_checkpointing": True}
    assert run(**checkpointed, activation_checkpointing=block).remat.in_cpu


def test_documents_are_told_apart_by_two_keys_and_not_by_the_index() -> None:
    data = run(reset_attention_mask=True).data
    assert data.reset_attention_mask and not data.reset_position_ids
    assert run(reset_position_ids=True).data.reset_position_ids
    run(inter_document_masking=False)
    assert "use separate_documents" in error(inter_document_masking=True)


def test_the_page_of_docs_is_up_to_date() -> None:
    page = HERE.parents[1] / "docs/configuration.md"
    assert page.read_text() == docs.page(), "run python -m jaxneox.config.docs > that file"
