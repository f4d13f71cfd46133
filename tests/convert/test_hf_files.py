"""What lies in a folder of transformers: damaged and missing files, tokenizers, the hub."""

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import from_hf, to_hf
from convert.readers import hub
from convert.readers.hf import HfCheckpoint
from convert.readers.hf_files import MOST_TENSORS
from convert.writers.hf import HfWriter
from tests.convert.hf_models import LLAMA, change_config, export
from tests.convert.test_hf_refusals import refused


def in_shards(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    writer = HfWriter(folder, {n: (x.shape, x.dtype) for n, x in tensors.items()}, shard=30_000)
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    (folder / "model.safetensors").unlink()
    writer.finish(json.loads((folder / "config.json").read_text()))
    return folder


def changed(folder: Path, **changes: Any) -> None:
    """The tensors of a folder with others in their place; None takes one away."""
    path = folder / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({n: x for n, x in tensors.items() if x is not None}, path)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def lose_shard(folder: Path) -> None:
    next(in_shards(folder).glob("model-00002*")).unlink()


def escape(folder: Path) -> None:
    index = in_shards(folder) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))


def escape_to_the_parent(folder: Path) -> None:
    index = in_shards(folder) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": ".."}}))


def claim_many(folder: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(i): empty for i in range(MOST_TENSORS + 1)}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def no_map(folder: Path) -> None:
    (in_shards(folder) / "model.safetensors.index.json").write_text("{}")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("llama"))


LAYER = "model.layers.1."
DAMAGE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated": (truncate, ("model.safetensors: is damaged",)),
    "garbled": (garble, ("model.safetensors: is damaged",)),
    "a shard is missing": (lose_shard, ("missing model-00002-of-",)),
    "a path out of the folder": (escape, ("is not a file beside it",)),
    "the folder around it": (escape_to_the_parent, ("names '..', which is not a file",)),
    "tensors without end": (claim_many, ("claims 65,537 tensors",)),
    "no weight map": (no_map, ("has no weight_map",)),
    "no weights": (remove("model.safetensors"), ("holds no weights",)),
    "no config": (remove("config.json"), ("config.json: cannot be read",)),
    "a config of noise": (
        lambda folder: (folder / "config.json").write_text("{"),
        ("config.json: is not valid JSON",),
    ),
    "all that is wrong with tensors": (
        lambda folder: changed(
            folder,
            **{
                f"{LAYER}mlp.up_proj.weight": None,
                f"{LAYER}self_attn.k_proj.weight": np.zeros((8, 48), np.float32),
                f"{LAYER}self_attn.k_norm.weight": np.zeros(8, np.float32),
                "model.norm.weight": np.zeros(48, np.int64),
            },
        ),
        (
            "in 4 places",
            f"{LAYER}mlp.up_proj.weight [36, 48] is missing",
            f"{LAYER}self_attn.k_proj.weight is [8, 48], expected [16, 48]",
            f"{LAYER}self_attn.k_norm.weight [8] is unknown",
            "model.norm.weight is of a type",
        ),
    ),
    "other frequencies": (
        lambda folder: changed(
            folder, **{f"{LAYER}self_attn.rotary_emb.inv_freq": np.ones(4, np.float16)}
        ),
        ("holds other frequencies",),
    ),
    "a layer too many": (
        lambda folder: change_config(folder, num_hidden_layers=1),
        (f"{LAYER}input_layernorm.weight [48] is unknown",),
    ),
    "tied to what it is not": (
        lambda folder: change_config(folder, tie_word_embeddings=True),
        ("lm_head.weight is not the embedding",),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_one_line_and_no_checkpoint(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, words = DAMAGE[name]
    folder = Path(shutil.copytree(llama, tmp_path / "hf"))
    damage(folder)
    line = refused(from_hf.main, capsys, folder, tmp_path / "ours")
    for word in words:
        assert word in line


def test_frequencies_that_were_saved_are_no_matter(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "hf"))
    frequencies = (10000.0 ** (-np.arange(0, 8, 2) / 8)).astype(np.float16)
    changed(folder, **{f"{LAYER}self_attn.rotary_emb.inv_freq": frequencies})
    HfCheckpoint(folder)


def test_a_tied_head_that_is_saved_as_well(tmp_path: Path) -> None:
    folder = export(tmp_path, keys=LLAMA | {"no_weight_tying": False})
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    changed(folder, **{"lm_head.weight": embedding})
    assert "unembed.weight" not in HfCheckpoint(folder).shapes


def test_what_older_versions_leave_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path, keys=LLAMA | {"use_bias_in_mlp": True})
    assert "before 4.41 does not read mlp_bias: it drops the biases" in capsys.readouterr().err


def test_dst_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(tmp_path)
    for main, src in ((from_hf.main, folder), (to_hf.main, tmp_path / "run")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(src), str(folder)])
        assert stopped.value.code == 2
        assert "exists already" in capsys.readouterr().err


def test_numbers_that_float16_has_not(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "hf"))
    changed(folder, **{"model.norm.weight": np.full(48, 1e5, np.float32)})
    line = refused(from_hf.main, capsys, folder, tmp_path / "ours", "--dtype", "float16")
    assert "final_norm.scale: has 100000" in line


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/here").mkdir(parents=True)
    assert hub.is_hub_name("owner/there") and hub.is_hub_name("hf://owner/here@main")
    assert not hub.is_hub_name("owner/here") and not hub.is_hub_name("/owner/there")
    assert not hub.is_hub_name("a/b/c")


def test_a_snapshot_of_the_hub(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns[-1]))
        return str(llama)

    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert from_hf.folder_of_model("hf://owner/name@v1") == llama
    assert asked == [("owner/name", "v1", "model*.safetensors")]


@pytest.mark.parametrize("without", ["network", "package"])
def test_without_the_hub(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    without: str,
) -> None:
    if without == "package":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    else:
        huggingface_hub = pytest.importorskip("huggingface_hub")

        def unreachable(*_: Any, **__: Any) -> str:
            raise OSError("no route to host\nand more")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    line = refused(from_hf.main, capsys, "hf://owner/name@v1", tmp_path / "ours")
    assert "https://huggingface.co/owner/name/tree/v1 by hand" in line
    if without == "network":  # such a name is more often a path that is not there
        line = refused(from_hf.main, capsys, "owner/name", tmp_path / "ours")
        assert line.startswith("error: owner/name: there is no such folder, and as a hub's name it")
