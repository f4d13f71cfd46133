"""The weights from which NeoX's runs of post-training start, each converted once."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the tests of conversion read torch files")

from convert import from_neox  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from jaxneox.config import load_yaml  # noqa: E402
from tests.convert.commands import call  # noqa: E402

PREFERENCES = ("train_impl", "dataset_impl", "precompute_model_name")
"""Keys of how a model is trained on, which a conversion of an ordinary model needs not."""

HEADS = {"lm": "final_linear", "reward": "rm_linear"}


class Weights(NamedTuple):
    """The parameters at a run's start.

    Attributes:
        params: by name.
        lr_factors: how much further than Adam's step some of them move, since they stand for as
            many copies, each of which moves in NeoX.
    """

    params: dict[str, np.ndarray]
    lr_factors: dict[str, float] | None


@cache
def converted(source: Path, yaml_file: Path, head: str) -> Weights:
    """Convert a checkpoint with its optimizer.

    Args:
        source: NeoX's run, or an .npz file of the tensors of one model parallel rank.
        yaml_file: the keys of a run that starts from it.
        head: `lm` or `reward`, what the model in it ends with.
    """
    keys = load_yaml([yaml_file])
    if "base_shapes_file" in keys:
        keys["base_shapes_file"] = str((yaml_file.parent / keys["base_shapes_file"]).resolve())
    if head == "lm":
        keys = {n: x for n, x in keys.items() if n not in PREFERENCES and not n.endswith("_paths")}
    with TemporaryDirectory() as folder:
        config, run = Path(folder, "config.yml"), Path(folder, "neox")
        config.write_text(yaml.safe_dump(keys))
        flags = ["--optimizer"]
        if source.suffix == ".npz":
            write_run(source, run, head)
            source, flags = run, []
        dst = Path(folder, "dst")
        call(from_neox, source, dst, "--no-verify", "--config", config, *flags)
        opened = open_jaxneox(dst)
        params = {name: np.array(opened.leaf(name)) for name in opened.shapes}
        return Weights(params, opened.keys.get("lr_factors"))


def write_run(tensors: Path, run: Path, head: str) -> None:
    """Write tensors of NeoX's names as NeoX does without a pipeline."""
    folder = run / "global_step0"
    folder.mkdir(parents=True)
    (run / "latest").write_text(folder.name)
    others = [name for end, name in HEADS.items() if end != head]
    with np.load(tensors) as arrays:
        module = {
            name: torch.from_numpy(arrays[name])
            for name in arrays
            if not any(other in name for other in others)
        }
    state = {"module": module, "iteration": 0, "args": {}, "mp_world_size": 1}
    torch.save(state, folder / "mp_rank_00_model_states.pt")
