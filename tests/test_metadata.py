"""A checkpoint's metadata: other kinds of parts than are saved, and no file at all."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jaxneox.checkpoint import Damaged, Location, read_meta, read_shapes
from jaxneox.errors import UserError
from jaxneox.metadata import crc

STAGES = {"first": 0, "stages": [[0, 0, 4]], "fingerprint": {}}
WHOLE: dict[str, Any] = {"keys": {}, "versions": {"jax": "1"}, "data": STAGES}
WRONG: dict[str, Any] = {
    "no keys": {"keys": None},
    "keys as a list": {"keys": [1]},
    "versions as numbers": {"versions": {"jax": 1}},
    "checksums as a list": {"checksums": {"params": ["float32:0"]}},
    "a checksum as a number": {"checksums": {"params": {"a": 0}}},
    "a conversion as text": {"conversion": "NeoX"},
    "data without a fingerprint": {"data": {"first": 0, "stages": [[0, 0, 4]]}},
    "data without stages": {"data": STAGES | {"stages": []}},
    "a short stage": {"data": STAGES | {"stages": [[0, 4]]}},
    "a first step as text": {"data": STAGES | {"first": "0"}},
}


def saved(run: Path, content: str) -> Location:
    path = run / "step_4/meta/metadata"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return Location(run, 4)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    assert read_meta(saved(tmp_path / "old", json.dumps(WHOLE))) == WHOLE
    content = json.dumps(WHOLE | {"crc32": crc(WHOLE)})
    assert read_meta(saved(tmp_path / "new", content)) == WHOLE


@pytest.mark.parametrize("name", WRONG)
def test_parts_of_another_kind_are_damage(tmp_path: Path, name: str) -> None:
    with pytest.raises(Damaged, match=f"meta has no {next(iter(WRONG[name]))} of the kind"):
        read_meta(saved(tmp_path, json.dumps(WHOLE | WRONG[name])))


@pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"keys": {}, "crc32": 1}'])
def test_what_was_never_saved_is_damage(tmp_path: Path, content: str) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        read_meta(saved(tmp_path, content))


def test_no_pipe_of_a_checkpoint_is_opened(tmp_path: Path) -> None:
    location = saved(tmp_path, "")
    (tmp_path / "step_4/meta/metadata").unlink()
    for name in ("meta/metadata", "params/d/_METADATA"):
        pipe = tmp_path / "step_4" / name
        pipe.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(pipe)
    with pytest.raises(UserError, match="metadata: is a pipe"):
        read_meta(location)
    with pytest.raises(UserError, match="d/_METADATA: is a pipe"):
        read_shapes(location)
