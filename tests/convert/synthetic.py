"""GPT-NeoX checkpoints of random numbers, in the files, names and shapes that NeoX writes.

Written from FORMATS.md and NeoX's own modules, not from the converter's rules, which are tested
against it. `python -m tests.convert.synthetic DIR --model 1.4B --mp 2 --pp 2` writes large ones.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

Tensors = dict[str, torch.Tensor]

SIZES = {  # layers, hidden, heads
    "70M": (6, 512, 8),
    "160M": (12, 768, 12),
    "1.4B": (24, 2048, 16),
    "2.8B": (32, 2560, 32),
}


@dataclass
class Synthetic:
    """Small by default; `keys` are added to the YAML, and the tensors follow them."""

    layers: int = 2
    hidden: int = 32
    heads: int = 4
    vocab: int = 64
    mp: int = 2
    pp: int = 1  # 0 is the Sequential engine
    dtype: torch.dtype = torch.float32
    drift: tuple[str, ...] = ()  # parts of names of which every rank gets a copy of its own
    seed: int = 0
    step: int = 7
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def yaml(self) -> dict[str, Any]:
        return {
            "pipe-parallel-size": self.pp,
            "model-parallel-size": self.mp,
            "num-layers": self.layers,
            "hidden-size": self.hidden,
            "num-attention-heads": self.heads,
            "seq-length": 32,
            "max-position-embeddings": 32,
            "pos-emb": "rotary",
            "rotary-pct": 0.5,
            "no-weight-tying": True,
            "gpt-j-residual": True,
            "output-layer-parallelism": "column",
            "bias-gelu-fusion": True,
            "precision": "fp32" if self.dtype == torch.float32 else "fp16",
            "train-iters": 10,
            "train-micro-batch-size-per-gpu": 2,
            "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
            "make-vocab-size-divisible-by": 1,
            "tokenizer-type": "HFTokenizer",
            "vocab-file": "not/here/tokenizer.json",
        } | self.keys

    def get(self, name: str, default: Any = None) -> Any:
        return self.yaml.get(name, default)

    def modules(self) -> Iterator[tuple[int, list[Tensors]]]:
        """By Sequential index, for every rank."""
        L = self.layers
        yield 0, self._ranks(self._embedding())
        for layer in range(L):
            yield 2 + layer, self._ranks(self._block())
        yield L + 3, self._ranks(self._norm("norm"))
        if self.get("no-weight-tying"):
            yield L + 4, self._ranks({"final_linear.weight": (self.vocab // self.mp, self.hidden)})

    def write(self, run: Path) -> Path:
        """`run/global_stepN`, `run/latest` and the YAML in both places."""
        folder = run / f"global_step{self.step}"
        (folder / "configs").mkdir(parents=True)
        (run / "latest").write_text(folder.name)
        for place in (run, folder / "configs"):
            (place / "neox_config.yml").write_text(yaml.safe_dump(self.yaml))
        module: list[Tensors] = [{} for _ in range(self.mp)]
        for index, ranks in self.modules():
            for rank, tensors in enumerate(ranks):
                if self.pp:
                    name = f"layer_{index:02d}-model_{rank:02d}-model_states.pt"
                    torch.save(tensors, folder / name)
                else:
                    module[rank] |= {f"sequential.{index}.{n}": t for n, t in tensors.items()}
        for number in range(self.mp * max(1, self.pp)):
            state = self._state(None if self.pp else module[number])
            torch.save(state, folder / f"mp_rank_{number:02d}_model_states.pt")
        return folder

    def _state(self, module: Tensors | None) -> dict[str, Any]:
        args = {"num_layers": self.layers, "hidden_size": self.hidden}
        args |= {"num_attention_heads": self.heads, "model_parallel_size": self.mp}
        total = self.mp * max(1, self.pp)
        return {"module": module, "iteration": self.step, "args": args, "mp_world_size": total}

    def _ranks(self, shapes: dict[str, tuple[int, ...]]) -> list[Tensors]:
        rows = ("word_embeddings", "query_key_value", "linear1", "final_linear")
        split = (*rows, "dense.weight", "linear2.weight")
        first = {name: self._random(name, shape) for name, shape in shapes.items()}
        ranks = [first]
        for _ in range(1, self.mp):
            new = {}
            for name, shape in shapes.items():
                own = any(part in name for part in split)
                new[name] = self._random(name, shape) if own else first[name].clone()
                if not own and any(part in name for part in self.drift):
                    new[name] *= 1 + 0.05 * torch.from_numpy(self._normal(shape)).to(self.dtype)
            ranks.append(new)
        return ranks

    def _embedding(self) -> dict[str, tuple[int, ...]]:
        found = {"word_embeddings.weight": (self.vocab // self.mp, self.hidden)}
        if self.get("pos-emb") == "learned":
            found["position_embeddings.weight"] = (self.get("max-position-embeddings"), self.hidden)
        return found

    def _block(self) -> dict[str, tuple[int, ...]]:
        D, mp, heads = self.hidden, self.mp, self.heads
        kv = self.get("num-kv-heads", heads)
        qkv = (heads + 2 * kv) * (D // heads) // mp
        gated = self.get("activation") in ("swiglu", "geglu")
        width = self.get("intermediate-size", 4 * D) // (3 if gated else 1) // mp
        found = self._norm("input_layernorm")
        found |= self._linear("attention.query_key_value", (qkv, D), "use-bias-in-attn-linear")
        found |= self._linear("attention.dense", (D, D // mp), "use-bias-in-attn-linear")
        found |= self._norm("post_attention_layernorm")
        found |= self._linear("mlp.linear1", (width * (1 + gated), D), "use-bias-in-mlp")
        return found | self._linear("mlp.linear2", (D, width), "use-bias-in-mlp")

    def _linear(self, name: str, shape: tuple[int, int], bias: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {f"{name}.weight": shape}
        return found | ({f"{name}.bias": shape[:1]} if self.get(bias, True) else {})

    def _norm(self, name: str) -> dict[str, tuple[int, ...]]:
        if self.get("norm") == "rmsnorm":
            return {f"{name}.scale": (self.hidden,)}
        return {f"{name}.weight": (self.hidden,), f"{name}.bias": (self.hidden,)}

    def _normal(self, shape: tuple[int, ...]) -> np.ndarray:
        if not hasattr(self, "_rng"):
            self._rng = np.random.Generator(np.random.SFC64(self.seed))
        return self._rng.standard_normal(shape, np.float32)

    def _random(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Norms about 1, everything else small enough for a forward pass that stays tame."""
        about = 1.0 if "norm" in name and not name.endswith("bias") else 0.0
        return torch.from_numpy(about + 0.1 * self._normal(shape)).to(self.dtype)


def main() -> None:
    p = argparse.ArgumentParser(description="Write a large NeoX checkpoint of random numbers.")
    p.add_argument("folder", type=Path)
    p.add_argument("--model", choices=SIZES, default="1.4B")
    p.add_argument("--mp", type=int, default=2)
    p.add_argument("--pp", type=int, default=2)
    args = p.parse_args()
    layers, hidden, heads = SIZES[args.model]
    shape = {"layers": layers, "hidden": hidden, "heads": heads, "vocab": 50432}
    Synthetic(**shape, mp=args.mp, pp=args.pp, dtype=torch.float16).write(args.folder)


if __name__ == "__main__":
    main()
