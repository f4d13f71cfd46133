"""NeoX's own runs of post-training: where they are, from what they start, and their batches.

All of them are read from $JAXNEOX_SHARED; tests/golden has one of each kind, without its texts.
"""
# G global batch, A accumulation steps, B rows of one, S length

import contextlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxneox.config import Settings, load_yaml
from jaxneox.data import open_loader, open_tokenizer
from jaxneox.data.epoch_steps import with_steps
from tests.objectives.golden_weights import Weights, converted
from tests.parallel.meshes import Fields

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared")) / "golden/neox_posttrain"
HERE = ROOT / "tests" / "golden" / "neox_posttrain"
KINDS = ("dpo", "kto", "rm", "sft", "reinforce", "key", "mup")
LEFT_OUT = ("kto_oldlogp_mp2", "key_noise_scale", "key_char_ppl")
"""Other than whole runs.

kto_oldlogp_mp2 was trained by a faulty log-probability, which NeoX's HEAD no longer has;
key_noise_scale is a class alone, and key_char_ppl evaluates what key_plain has trained.
"""

WITHOUT_RATES = "mup_untied_ms_mp1"
"""NeoX trained it with microsoft/mup, by which all parameters have one learning rate."""

HIDDEN = [f"layers.{name}" for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")]
"""The matrices to which muP gives a rate of their own."""

PADDED = 512
"""The vocabulary of all cases, for those whose tokenizer is not here."""

TRAINED_ON = "80,10,10"
"""The split of key_train_epochs, by the 32 of 40 documents in its doc_idx; its YAML has 100,0,0."""

RECORDED = ("tokens", "labels", "loss_mask", "ref_logp", "rewards", "raw_rewards")


@dataclass(frozen=True)
class GoldenCase:
    """A run of NeoX.

    Attributes:
        folder: has its YAML, and what it computed.
    """

    folder: Path

    def __str__(self) -> str:
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether its texts and its checkpoint are here too."""
        return self.folder.parent != HERE

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.folder)

    @property
    def keys(self) -> dict[str, Any]:
        """What its YAML says, and that NeoX is to be followed."""
        keys = load_yaml([self.folder / "neox_config.yml"]) | {"neox_compat": True}
        if not self.complete:
            keys["padded_vocab_size"] = PADDED
        if str(self) == "key_train_epochs":
            keys["split"] = TRAINED_ON
        if "base_shapes_file" in keys:  # relative to the case, and a conversion runs elsewhere
            keys["base_shapes_file"] = str((self.folder / keys["base_shapes_file"]).resolve())
        if str(self) == WITHOUT_RATES:
            keys["lr_factors"] = dict.fromkeys(HIDDEN, 2.0)  # against 1 / u
        if keys.get("dataset_impl") == "online":  # a server, which is refused here
            del keys["dataset_impl"]
            keys = {name: x for name, x in keys.items() if not name.endswith("_paths")}
        return keys

    @property
    def kind(self) -> str:
        kind: str = self.keys.get("train_impl", "normal")
        return kind

    @property
    def ranks(self) -> int:
        """NeoX's model parallel size."""
        size: int = self.keys["model_parallel_size"]
        return size

    @property
    def pipelined(self) -> bool:
        """Whether it was NeoX's pipeline engine, which names tensors without a prefix."""
        return bool(self.keys["pipe_parallel_size"])

    @property
    def micro(self) -> int:
        """The rows of NeoX's micro-batch."""
        rows: int = self.keys["train_micro_batch_size_per_gpu"]
        return rows

    @property
    def given(self) -> bool:
        """Whether the data has the reference model's log-probabilities."""
        return "batch/ref_logp" in self.arrays

    @property
    def beta(self) -> float:
        """By how much a sum of log-probabilities counts in the loss."""
        scales = {"dpo": "dpo_beta", "kto": "kto_beta"}
        return float(self.keys.get(scales[self.kind], 0.1)) if self.kind in scales else 0.0

    @property
    def vocabulary(self) -> int | None:
        """The tokenizer's, unless the keys have the padded one."""
        if not self.complete:
            return None
        with contextlib.chdir(self.folder):
            return open_tokenizer(Settings(self.keys).tokenizer, []).vocab_size

    @property
    def weights(self) -> Weights:
        """The parameters at the start, as a conversion makes them of NeoX's checkpoint."""
        drawn = self.arrays.get("rm_linear")  # beside an ordinary model
        source = self.folder / self.keys["load"] if self.complete else HERE / "weights.npz"
        head = "reward" if self.kind == "rm" and drawn is None else "lm"
        like = min(
            case.folder
            for case in cases()
            if case.complete == self.complete
            and case.keys["load"] == self.keys["load"]
            and (case.kind == "rm") == (self.kind == "rm")
            and "position_embeddings" not in case.arrays
        )
        positions = self.arrays.get("position_embeddings")  # beside a checkpoint without them
        start = converted(source.resolve(), like / "neox_config.yml", head)
        if positions is not None:
            start = start._replace(params=start.params | {"embed.positions": positions})
        if drawn is None:
            return start
        params = {name: x for name, x in start.params.items() if name != "unembed.weight"}
        return start._replace(params=params | {"reward.weight": drawn.T})

    @property
    def settings(self) -> Settings:
        """Its settings on one replica, with the steps of its epochs counted."""
        settings = Settings(self.keys)
        if not self.complete or settings["train_epochs"] is None:
            return settings
        with contextlib.chdir(self.folder):
            return with_steps(settings, 1, open_tokenizer(settings.tokenizer, []))

    def batches(self) -> list[Fields]:
        """The fields of each step's global batch, [G, *], as NeoX had them on one replica."""
        steps = range(len(self.arrays["metric/lm_loss"]))
        if not self.complete or self.kind == "reinforce":
            return [self.recorded(step) for step in steps]
        settings = self.settings
        with contextlib.chdir(self.folder):  # its paths are relative
            tokenizer = open_tokenizer(settings.tokenizer, [])
            loader = open_loader(settings.data_run(1, tokenizer.vocab_size), tokenizer, "train")
            assert loader is not None
            return [loader.fields(step) for step in steps]

    def recorded(self, step: int) -> Fields:
        """The fields of a step's batch, of what NeoX recorded of it, [A, B, S]."""
        arrays = self.arrays
        found = {n: arrays[f"batch/{n}"][step] for n in RECORDED if f"batch/{n}" in arrays}
        last = found["labels"][..., -1:]
        tokens = np.concatenate([found["tokens"], last], axis=-1).astype(np.int32)
        fields = {"tokens": tokens, "labelled": found["loss_mask"].astype(np.float32)}
        if "ref_logp" in found:
            fields["reference"] = found["ref_logp"]
        if self.kind in ("dpo", "rm"):  # in a micro-batch all chosen texts come first
            fields = {n: np.stack(np.split(x, 2, axis=1), axis=2) for n, x in fields.items()}
        if self.kind in ("normal", "reinforce"):
            fields["weights"] = fields.pop("labelled")
        else:
            fields["weights"] = np.ones(fields["tokens"].shape[:2], np.float32)
        if self.kind == "kto":
            fields["rewards"] = found["rewards"]
        if self.kind == "reinforce":
            fields["reward"] = found["rewards"][..., 0]
            fields["raw_reward"] = found["raw_rewards"][..., 0]
        return {name: x.reshape(-1, *x.shape[2:]) for name, x in fields.items()}


@cache
def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz") as arrays:
        return dict(arrays)


@cache
def cases() -> list[GoldenCase]:
    """All golden runs that are here, those of tests/golden first."""
    found = [
        GoldenCase(path.parent)
        for place in (HERE, SHARED)
        for kind in KINDS
        for path in sorted(place.glob(f"{kind}_*/golden.npz"))
    ]
    return [case for case in found if str(case) not in LEFT_OUT]
