"""`python -m tests.bench.mamba`: training a Mamba layer beside transformers' on this CPU.

transformers runs in plain torch, since the kernels of mamba_ssm are for GPUs. Both compute the loss
of random tokens and its gradients in float32, with the same sizes, each in a process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

VOCAB = 256


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.bench.mamba", description=__doc__)
    p.add_argument("--hidden", type=int, default=512)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--rows", type=int, default=2)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    return p


def main() -> None:
    args = parser().parse_args()
    if args.only:
        print((ours if args.only == "ours" else theirs)(args))
        return
    rates = {}
    for who in ("ours", "theirs"):
        argv = [sys.executable, "-m", "tests.bench.mamba", *sys.argv[1:], "--only", who]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        rates[who] = float(done.stdout.split()[-1])
    sizes = f"{args.layers} layers of {args.hidden}, {args.rows} x {args.length} tokens"
    print(f"training steps of {sizes}, float32, tokens per second")
    print(f"jaxneox {rates['ours']:,.0f}, transformers {rates['theirs']:,.0f}, ", end="")
    print(f"{rates['ours'] / rates['theirs']:.1f} times")


def best(step: Callable[[], Any], args: argparse.Namespace) -> float:
    """Tokens per second of the fastest round, after one that does not count."""
    step()
    took = []
    for _ in range(args.rounds):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    return args.rows * args.length / min(took)


def ours(args: argparse.Namespace) -> float:
    import jax
    import jax.numpy as jnp

    from jaxneox.config.mamba_schema import MambaConfig
    from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig, NormConfig
    from jaxneox.model import Model
    from jaxneox.parallel.mesh import make_mesh, whole
    from jaxneox.parallel.rules import rules_for

    D, R = args.hidden, -(-args.hidden // 16)
    cfg = ModelConfig(
        num_layers=args.layers,
        hidden_size=D,
        vocab_size=VOCAB,
        seq_length=args.length,
        attention=AttentionConfig(1, 1, D),
        mlp=MlpConfig(D),
        norm=NormConfig("rmsnorm"),
        pattern=("mamba",),
        mamba=MambaConfig(2 * D, R),
    )
    with jax.set_mesh(make_mesh(whole({}))):
        model = Model(cfg, rules_for(whole({}), 0, False))
        params = model.init(jax.random.key(0))
        tokens = jnp.arange(args.rows * args.length).reshape(1, args.rows, -1) * 7 % VOCAB
        run = jax.jit(jax.value_and_grad(model.loss_sum))
        weights = jnp.ones(tokens.shape)
        return best(lambda: jax.block_until_ready(run(params, tokens, tokens, weights)), args)


def theirs(args: argparse.Namespace) -> float:
    import torch
    import transformers

    config = transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=args.hidden, num_hidden_layers=args.layers, use_cache=False
    )
    model = transformers.MambaForCausalLM(config).train()
    tokens = torch.arange(args.rows * args.length).reshape(args.rows, -1) * 7 % VOCAB

    def step() -> None:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()

    return best(step, args)


if __name__ == "__main__":
    main()
