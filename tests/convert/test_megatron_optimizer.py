"""Adam's states as Megatron-LM saved them, against Adam's formula on Megatron's own gradients."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import to_megatron  # noqa: E402
from convert.readers.megatron import MegatronCheckpoint, open_megatron  # noqa: E402
from convert.readers.megatron_flat import parameter_offsets  # noqa: E402
from convert.readers.megatron_optimizer import MegatronOptimizer, open_optimizer  # noqa: E402
from convert.rules.megatron import rules  # noqa: E402
from convert.writers.torch_dist import DistWriter  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.commands import call  # noqa: E402
from tests.convert.hf_models import GPT2, LLAMA, write_run  # noqa: E402
from tests.convert.megatron import load, rewrite, states  # noqa: E402
from tests.model.adapter import jax_loss_and_grads  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

ADAM, DISTRIBUTED = "tiny_gpt2_pp2_adam", "tiny_gpt2_dp2_distopt"
CASES = [
    (ADAM, "legacy"),
    (ADAM, "torch_dist"),
    (DISTRIBUTED, "legacy"),
    (DISTRIBUTED, "torch_dist"),
    (DISTRIBUTED, "torch_dist_fully_reshardable"),
]
LR, DECAY, BETAS, EPS, CLIP = 1e-3, 0.01, (0.9, 0.999), 1e-8, 1.0
"""Of the one step; its groups' own weight_decay was applied, to biases and norms as well."""

Arrays = dict[str, np.ndarray]


def before(source: MegatronCheckpoint, folder: Path, name: str) -> Arrays:
    """Whole tensors of an .npz as our leaves."""
    arrays, found, L = np.load(folder / f"{name}.npz"), {}, source.model.num_layers
    for inside in (False, True):
        for rule in rules(source.model, inside=inside):
            for layer in range(L) if inside else [None]:
                key = rule.theirs if layer is None else f"decoder.layers.{layer}.{rule.theirs}"
                for part in rule.parts:
                    shape = (L,) * inside + part.whole(source.sizes)
                    found.setdefault(part.leaf, np.zeros(shape, np.float32))
                into = {n: found[n] if layer is None else found[n][layer] for n in rule.leaves}
                rule.put(arrays[key], into, source.sizes, rank=0)
    return found


def gradients(source: MegatronCheckpoint, folder: Path) -> Arrays:
    """At the parameters before the step, of both data-parallel ranks' batches, clipped.

    What was kept of Megatron's own is one rank's, which has but its half of the summed ones.
    """
    arrays = np.load(folder / "golden.npz")
    every = "_all_dp" if "tokens_all_dp" in arrays else ""
    tokens, labels = (arrays[f"{n}{every}"].astype(np.int64) for n in ("tokens", "labels"))
    shape = (-1, tokens.shape[-1])
    params = before(source, folder, "full_params")
    _, grads = jax_loss_and_grads(source.model, params, tokens.reshape(shape),
                                  labels.reshape(shape))  # fmt: skip
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    return {n: g.astype(np.float64) * min(1.0, CLIP / (norm + 1e-6)) for n, g in grads.items()}


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_the_state_after_a_step(shared: Path, case: str, kind: str) -> None:
    folder = shared / "golden" / "megatron" / case
    source = open_megatron(folder / kind)
    found = open_optimizer(source)
    assert found.step == 1 and {g["lr"] for g in found.groups} == {LR}
    assert {g["weight_decay"] for g in found.groups} == {DECAY}
    params, grads = before(source, folder, "full_params"), gradients(source, folder)
    for name, grad in grads.items():
        first, second, master = (
            found.kinds[k].leaf(name) for k in ("exp_avg", "exp_avg_sq", "param")
        )
        # of gradients that two programs computed in float32
        assert relative_l2(first, (1 - BETAS[0]) * grad) <= 3e-6
        assert relative_l2(second, (1 - BETAS[1]) * grad**2) <= 6e-6
        g = first.astype(np.float64) / (1 - BETAS[0])
        assert relative_l2(second, (1 - BETAS[1]) * g * g) <= 1e-6
        stepped = params[name] * (1 - LR * DECAY) - LR * g / (abs(g) + EPS)
        assert relative_l2(master, stepped) <= 1e-6
        assert np.array_equal(master, source.leaf(name))


# Of what no golden case has: files made by torch, of states whose numbers tell their place.


FACTORS = (1 + 2.0**-12, 2.0, 3.0)


def numbered(name: str, kind: int, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's own numbers times another for each kind; master weights round to them again."""
    return tensor.float() * FACTORS[kind]


def shifted(source: MegatronCheckpoint, found: MegatronOptimizer) -> None:
    for name in source.shapes:
        for kind, key in enumerate(("param", "exp_avg", "exp_avg_sq")):
            expected = source.leaf(name).astype(np.float32) * np.float32(FACTORS[kind])
            assert np.array_equal(found.kinds[key].leaf(name), expected), (name, key)


def flat(tensors: list[torch.Tensor], kind: int) -> torch.Tensor:
    """From the last to the first, each on a multiple of 64."""
    parts, size = [], 0
    for tensor in reversed(tensors):
        gap = -size % 64
        parts += [torch.zeros(gap), tensor.float().flatten() * FACTORS[kind]]
        size += gap + tensor.numel()
    return torch.cat(parts)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A tied model in half precision at tp 2, pp 2."""
    write_run(tmp_path / "run", GPT2 | {"hidden_size": 64, "num_attention_heads": 8})
    flags = ("--tp", 2, "--pp", 2, "--dtype", "bfloat16", "--format", "torch", "--no-verify")
    call(to_megatron, tmp_path / "run", tmp_path / "m", *flags)
    return tmp_path / "m"


def test_numbered_states_and_lists_of_master_weights(split: Path) -> None:
    def change(state: dict) -> None:
        names = [*state["model"]]
        decays = [n for n in names if state["model"][n].dim() > 1]
        groups = [decays, [n for n in names if n not in decays]]
        order, start = groups[0] + groups[1], [0, len(decays), len(names)]
        inner = {
            "state": {
                i: {"step": 7, "exp_avg": numbered(n, 1, state["model"][n]),
                    "exp_avg_sq": numbered(n, 2, state["model"][n])}
                for i, n in enumerate(order)
            },
            "param_groups": [
                {"wd_mult": 1.0 - i, "params": [*range(start[i], start[i + 1])]} for i in (0, 1)
            ],
        }  # fmt: skip
        masters = [[numbered(n, 0, state["model"][n]) for n in group] for group in groups]
        state["optimizer"] = {"optimizer": inner, "fp32_from_fp16_params": masters}

    rewrite(split, change)
    source = open_megatron(split)
    found = open_optimizer(source)
    assert found.step == 7
    shifted(source, found)
    one = next(states(split))
    torch.save(load(one) | {"opt_param_scheduler": {"num_steps": 8}}, one)
    with pytest.raises(UserError, match="disagree on the schedule's position"):
        open_optimizer(open_megatron(split))
    rewrite(split, lambda s: s["optimizer"]["optimizer"]["param_groups"][0]["params"].pop())
    with pytest.raises(UserError, match=r"group 0 has .* convert the weights alone"):
        open_optimizer(open_megatron(split))


def test_flat_buffers_of_every_rank_and_stage(split: Path) -> None:
    for path in states(split):
        state = load(path)
        tensors = list(state["model"].values())
        kinds = {k: flat(tensors, i) for i, k in enumerate(("param", "exp_avg", "exp_avg_sq"))}
        dtypes = (torch.bfloat16, torch.float32)
        torch.save({"buckets_coalesced": True, 0: {dtypes: kinds}},
                   path.with_name("distrib_optim.pt"))  # fmt: skip
        state["optimizer"] = {"optimizer": {"param_groups": [{"step": 3}]}}
        torch.save(state, path)
    source = open_megatron(split)
    found = open_optimizer(source)
    assert found.step == 3
    shifted(source, found)
    # another order: two norms' weights change places, and the master weights tell
    path = next(states(split)).with_name("distrib_optim.pt")
    wrong = load(path)
    (kinds,) = wrong[0].values()
    kinds["param"] = kinds["param"].roll(64)
    torch.save(wrong, path)
    with pytest.raises(UserError, match="master weights do not round to the weights"):
        open_optimizer(open_megatron(split))
    path.unlink()
    with pytest.raises(UserError, match=r"distrib_optim.pt"):
        open_optimizer(open_megatron(split))


@pytest.mark.parametrize("first", ["input_layernorm", "self_attention.linear_proj"])
def test_buckets_of_every_rank_and_stage(split: Path, tmp_path: Path, first: str) -> None:
    """Modules in the order of Megatron's own or of Transformer Engine's."""
    call(to_megatron, tmp_path / "run", tmp_path / "d", "--tp", 2, "--pp", 2, "--dtype",
         "bfloat16", "--no-verify")  # fmt: skip
    folder = tmp_path / "d" / "iter_0000003"
    order = ["embedding.word", "embedding.pos", "input_layernorm", "self_attention.linear_proj",
             "self_attention.linear_qkv", "pre_mlp", "linear_fc1", "linear_fc2", "final",
             "output"]  # fmt: skip
    if first != "input_layernorm":
        order[2:4] = order[3:1:-1]

    def at(name: str) -> tuple[int, int]:
        return [part in name for part in order].index(True), name.endswith("bias")

    writer = DistWriter(folder)
    for number, path in enumerate(sorted(states(split), key=lambda p: p.parent.name[::-1])):
        p, t = int(path.parent.name[-1]), int(path.parent.name[9])
        model = load(path)["model"]
        names = sorted(model, key=at)
        shared = next(n for n in names if n.startswith(("embedding.word", "output")))
        others = [model[n] for n in names if n != shared]
        buckets = [others, [model[shared]]] if p == 0 else [[model[shared]], others]
        for i, kind in enumerate(("param", "exp_avg", "exp_avg_sq")):
            for b, tensors in enumerate(buckets):
                key = (f"optimizer.distributed.dp_group_idx_{p * 2 + t}.gbuf_idx_0.dtype_"
                       f"(torch.bfloat16, torch.float32).bucket_idx_{b}.{kind}")  # fmt: skip
                whole = flat(tensors, i).numpy()
                half = len(whole) // 2  # of two data-parallel ranks
                for start, piece in ((0, whole[:half]), (half, whole[half:])):
                    writer.write(f"__{number}_1.distcp", key, whole.shape, [start], piece)
    groups = [{"param_groups": [{"step": 5.0}]}]
    writer.write_object("__9_1.distcp", "optimizer.distributed.dp_group_idx_0.optimizer/shard_0_1",
                        groups)  # fmt: skip
    merge(folder, writer)
    source = open_megatron(tmp_path / "d")
    found = open_optimizer(source)
    assert found.step == 5
    shifted(source, found)


def merge(folder: Path, writer: DistWriter) -> None:
    """What is written into a folder that has an index."""
    from torch.distributed.checkpoint import FileSystemReader

    index = FileSystemReader(folder).read_metadata()
    writer._places |= index.storage_data
    writer._described |= index.state_dict_metadata
    writer.finish()


@pytest.mark.parametrize(
    "states_of",
    [{}, {"param_groups": 3}, {"state": {0: {"momentum_buffer": 1}}, "param_groups": [{}]}],
)
def test_another_optimizers_states_are_named(split: Path, states_of: dict) -> None:
    rewrite(split, lambda s: s.update(optimizer=states_of))
    with pytest.raises(UserError, match=r"are not those of .* Adam .*convert the weights alone"):
        open_optimizer(open_megatron(split))


def test_weights_alone_have_no_states(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA)
    for form in ("torch", "torch_dist"):
        call(to_megatron, tmp_path / "run", tmp_path / form, "--format", form, "--no-verify")
        with pytest.raises(UserError, match=r"there are none\); convert the weights alone"):
            open_optimizer(open_megatron(tmp_path / form))


def test_places_in_buckets() -> None:
    assert parameter_offsets([(3, 5), (64,), (2,)], [64 + 64 + 15]) == [(0, 128), (0, 64), (0, 0)]
    assert parameter_offsets([(4, 4), (65,)], [65, 16]) == [(1, 0), (0, 0)]
    for buckets in ([144], [142], [143, 5]):
        with pytest.raises(UserError, match="are not filled by the 81 elements"):
            parameter_offsets([(3, 5), (64,), (2,)], buckets)
