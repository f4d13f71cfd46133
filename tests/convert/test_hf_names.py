"""Names that tensors have in memory and not on disk: `state_dict()` as it was saved."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from convert.readers.hf import HfCheckpoint
from jaxneox.errors import UserError
from tests.convert.hf_models import GPT_NEOX, export
from tests.convert.test_hf_files import changed

HEAD, IN_MEMORY = "embed_out.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export(tmp_path, keys=GPT_NEOX)


@pytest.mark.parametrize("both", [False, True])
def test_a_neox_head_by_its_name_in_memory(folder: Path, both: bool) -> None:
    head = load_file(folder / "model.safetensors")[HEAD]
    changed(folder, **{IN_MEMORY: head, HEAD: head if both else None})
    assert np.array_equal(HfCheckpoint(folder).leaf("unembed.weight"), head.T)


def test_two_heads_that_differ(folder: Path) -> None:
    head = load_file(folder / "model.safetensors")[HEAD]
    changed(folder, **{IN_MEMORY: head + 1})
    with pytest.raises(UserError, match=r"embed_out\.weight and lm_head\.weight are two names of"):
        HfCheckpoint(folder)


def test_a_pickle_as_transformers_5_saves_its_state(folder: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert IN_MEMORY in model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    weight = model.state_dict()[IN_MEMORY].numpy()
    assert np.array_equal(HfCheckpoint(folder).leaf("unembed.weight"), weight.T)
