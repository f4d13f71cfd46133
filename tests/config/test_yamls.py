"""The YAMLs that NeoX and Pythia published, and those of the golden cases.

`python -m tests.config.test_yamls SHARED > tests/config/resolved.tsv` writes anew what their fields
come to.
"""

import pathlib
import sys
from collections import Counter
from typing import Any

import pytest

from jaxneox.config import Settings, apply_set, describe, load_yaml
from jaxneox.config.swapped import exchanged
from jaxneox.errors import UserError

HERE = pathlib.Path(__file__).parent
VOCAB_20B = 50277
PYTHIA = {  # layers, hidden size, heads, padded vocabulary
    "14M": (6, 128, 4, 50304),
    "31M": (6, 256, 8, 50304),
    "70M": (6, 512, 8, 50304),
    "160M": (12, 768, 12, 50304),
    "410M": (24, 1024, 16, 50304),
    "1B": (16, 2048, 8, 50304),
    "1.4B": (24, 2048, 16, 50304),
    "2.8B": (32, 2560, 32, 50304),
    "6.9B": (32, 4096, 32, 50432),
    "12B": (36, 5120, 40, 50688),
}
REFUSED = {
    "gmlp_small.yml": "attention_config: gmlp is not supported",
    "sparse.yml": "attention_config: local is not supported",
}
SWAPPED = "12B/pythia-12b-deduped.yml"  # its layers and heads are exchanged: NeoX refuses it too


def shape(keys: dict[str, Any]) -> tuple[int, int, int, int]:
    model = Settings(keys).resolve(dp=1, vocab_size=VOCAB_20B).model
    return model.num_layers, model.hidden_size, model.attention.num_heads, model.vocab_size


@pytest.mark.parametrize("size", PYTHIA)
def test_pythias_yamls(shared: pathlib.Path, size: str) -> None:
    paths = sorted((shared / "data/pythia_configs" / size).glob("*.yml"))
    assert paths
    for path in paths:
        keys = load_yaml([path])
        if str(path).endswith(SWAPPED):
            with pytest.raises(UserError, match="are they swapped"):
                shape(keys)
            fitting = exchanged(keys, 36)
            assert fitting == apply_set(keys, ["num_layers=36", "num_attention_heads=40"])
            keys = fitting
        assert shape(keys) == PYTHIA[size], path
        model = Settings(keys).resolve(dp=1, vocab_size=VOCAB_20B).model
        assert model.mlp.activation == "gelu_tanh" and model.parallel_residual


def _whole_run(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """The YAML, with NeoX's own companion for what it leaves out."""
    keys = load_yaml([path])
    if "num_layers" not in keys:
        companion = "llama/7B.yml" if path.name == "train_config.yml" else "125M.yml"
        return load_yaml([path, folder / companion])
    if "train_iters" not in keys:
        return load_yaml([path, folder / "llama/train_config.yml"])
    return keys


def test_neoxs_yamls(shared: pathlib.Path) -> None:
    folder = shared / "data/neox_configs"
    paths = sorted(folder.rglob("*.yml"))
    assert len(paths) == 52
    refused = {}
    for path in paths:
        try:
            Settings(_whole_run(path, folder)).resolve(dp=1, vocab_size=VOCAB_20B)
        except UserError as error:
            refused[path.name] = str(error)
    assert refused.keys() == REFUSED.keys()
    assert all(refused[name].startswith(reason) for name, reason in REFUSED.items())


def test_twenty_b(shared: pathlib.Path) -> None:
    keys = load_yaml([shared / "data/neox_configs/20B.yml"])
    assert shape(keys) == (44, 6144, 64, 50432)


def test_golden_yamls(shared: pathlib.Path) -> None:
    paths = sorted((shared / "golden/neox").glob("*/neox_config.yml"))
    assert len(paths) == 19
    for path in paths:
        model = Settings(load_yaml([path])).resolve(dp=1, vocab_size=460).model
        assert model.vocab_size == (480 if "mp1" in path.parent.name else 512), path
        assert (model.hidden_size, model.seq_length) == (64, 64)
        assert model.mlp.size == (96 if model.mlp.gated else 256)


def values(shared: pathlib.Path) -> Counter[tuple[str, str]]:
    """Count by field and value in how many of the published YAMLs that are accepted it has it."""
    count: Counter[tuple[str, str]] = Counter()
    folders = [shared / "data/neox_configs", shared / "data/pythia_configs"]
    for folder in [*folders, pathlib.Path("configs")]:
        for path in sorted(folder.rglob("*.yml")):
            try:
                config = Settings(_whole_run(path, folders[0])).resolve(dp=2, vocab_size=VOCAB_20B)
            except UserError:
                continue
            lines = describe(config).splitlines()
            count.update((line.split()[0], " ".join(line.split()[1:])) for line in lines)
    return count


def test_what_each_field_comes_to(shared: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that is newer than the list is not compared."""
    monkeypatch.chdir(HERE.parents[1])
    rows = [line.split("\t") for line in (HERE / "resolved.tsv").read_text().splitlines()]
    expected = {(field, value): int(count) for field, value, count in rows}
    known = {field for field, _ in expected}
    assert {pair: n for pair, n in values(shared).items() if pair[0] in known} == expected


if __name__ == "__main__":
    for (name, value), number in sorted(values(pathlib.Path(sys.argv[1])).items()):
        print(name, value, number, sep="\t")
