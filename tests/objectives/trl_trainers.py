"""TRL's trainers on a small GPT-NeoX of transformers: what they were given and what they computed.

Ten steps of each are taken by `Trainer.train`, in float64, without clipping.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
import trl
from datasets import Dataset

from convert.rules import hf_neox
from convert.rules.rule import Rule, sizes_of
from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig, PositionConfig

STEPS, BATCH, VOCAB, LENGTH, LR, DECAY = 10, 8, 64, 24, 1e-3, 0.1
PAD, EOS = 0, 1
WORDS = ["<pad>", "<end>", *(f"w{number}" for number in range(2, VOCAB))]
BETA = 0.1
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.5}

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    vocab_size=VOCAB,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=8),
    mlp=MlpConfig(size=48, activation="gelu"),
    positions=PositionConfig(kind="rotary", rotary_fraction=0.5, max_positions=LENGTH),
    parallel_residual=True,
    tied_embedding=False,
)

Params = dict[str, np.ndarray]
Inputs = dict[str, torch.Tensor]


@dataclass
class Recorded(transformers.TrainerCallback):
    """What a trainer did, step by step.

    Attributes:
        inputs: what its collator made of its texts.
        losses: of each step.
        weights: before each step, by Hugging Face's names.
        gradients: of each step.
    """

    inputs: list[Inputs] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    weights: list[Params] = field(default_factory=list)
    gradients: list[Params] = field(default_factory=list)

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.weights.append({n: x.detach().numpy().copy() for n, x in model.named_parameters()})
        self.gradients.append({n: x.grad.numpy().copy() for n, x in model.named_parameters()})

    def watch(self, trainer: Any) -> None:
        """Record what the loss is computed of."""
        compute = trainer.compute_loss

        def computed(model: Any, inputs: Inputs, **options: Any) -> Any:
            self.inputs.append(dict(inputs))
            loss = compute(model, inputs, **options)
            self.losses.append(loss.item())
            return loss

        trainer.compute_loss = computed
        trainer.add_callback(self)


def run(name: str, policy: Params, reference: Params) -> Recorded:
    """Take ten steps of a trainer.

    Args:
        name: a key of `TRAINERS`.
        policy: our parameters at the start.
        reference: those of the reference model, if the trainer has one.
    """
    build, recorded = TRAINERS[name], Recorded()
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options = {
            "output_dir": folder, "max_steps": STEPS, "per_device_train_batch_size": BATCH,
            "learning_rate": LR, "lr_scheduler_type": "constant", "weight_decay": DECAY,
            "max_grad_norm": 0.0, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
            "report_to": "none", "save_strategy": "no", "logging_steps": STEPS,
            "optim": "adamw_torch", "disable_tqdm": True, "dataloader_pin_memory": False,
        }  # fmt: skip
        trainer = build(Path(folder), options, policy, reference)
        recorded.watch(trainer)
        trainer.train()
    return recorded


def dpo(loss: str, equal: bool) -> Callable[..., Any]:
    def build(folder: Path, options: dict[str, Any], policy: Params, reference: Params) -> Any:
        args = trl.DPOConfig(**options, beta=BETA, loss_type=[loss])
        return trl.DPOTrainer(
            model(policy), model(reference), args, train_dataset=pairs(equal),
            processing_class=tokenizer(folder),
        )  # fmt: skip

    return build


def kto(folder: Path, options: dict[str, Any], policy: Params, reference: Params) -> Any:
    args = trl.KTOConfig(**options, beta=BETA, **WEIGHTS)
    chance = np.random.default_rng(2)
    rated = pairs(False).rename_columns({"chosen": "completion"}).remove_columns(["rejected"])
    rated = rated.add_column("label", chance.random(len(rated)) > 0.5)
    return trl.KTOTrainer(
        model(policy), model(reference), args, train_dataset=rated,
        processing_class=tokenizer(folder),
    )  # fmt: skip


def reward(folder: Path, options: dict[str, Any], policy: Params, _: Params) -> Any:
    args = trl.RewardConfig(**options)
    return trl.RewardTrainer(
        model(policy), args, train_dataset=pairs(False), processing_class=tokenizer(folder)
    )


def sft(folder: Path, options: dict[str, Any], policy: Params, _: Params) -> Any:
    args = trl.SFTConfig(**options)
    answers = pairs(False).rename_columns({"chosen": "completion"}).remove_columns(["rejected"])
    return trl.SFTTrainer(
        model(policy), args, train_dataset=answers, processing_class=tokenizer(folder)
    )


TRAINERS: dict[str, Callable[..., Any]] = {
    "DPO": dpo("sigmoid", False),
    "DPO, hinge": dpo("hinge", False),
    "IPO": dpo("ipo", True),
    "KTO": kto,
    "reward model": reward,
    "SFT": sft,
}

ANSWER = 6
"""Words of an answer where all are equally long; an EOS follows."""


def pairs(equal: bool) -> Dataset:
    """Prompts with two answers, enough for all steps."""
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(WORDS[number] for number in random.integers(2, VOCAB, count))

    rows = []
    for _ in range(STEPS * BATCH):
        lengths = [ANSWER, ANSWER] if equal else random.integers(2, 9, 2)
        chosen, rejected = (f" {words(count)} {WORDS[EOS]}" for count in lengths)
        rows.append(
            {"prompt": words(random.integers(3, 9)), "chosen": chosen, "rejected": rejected}
        )
    return Dataset.from_list(rows)


def tokenizer(folder: Path) -> Any:
    """A token for each word."""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, WORDS[PAD])
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token=WORDS[PAD],
        eos_token=WORDS[EOS],
        unk_token=WORDS[PAD],
    )


def model(params: Params) -> Any:
    """Make transformers' model of our parameters."""
    is_reward = "reward.weight" in params
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=MODEL.hidden_size, num_hidden_layers=MODEL.num_layers,
        num_attention_heads=MODEL.attention.num_heads, intermediate_size=MODEL.mlp.size,
        hidden_act="gelu", max_position_embeddings=LENGTH, use_parallel_residual=True,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5
        },
        tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=EOS, num_labels=1,
    )  # fmt: skip
    kind = "SequenceClassification" if is_reward else "CausalLM"
    made = getattr(transformers, f"GPTNeoXFor{kind}")(config).double()
    tensors = {name: torch.tensor(x, dtype=torch.float64) for name, x in to_theirs(params).items()}
    made.load_state_dict(tensors)
    return made


def architecture(params: Params) -> ModelConfig:
    return dataclasses.replace(MODEL, head="reward") if "reward.weight" in params else MODEL


def to_theirs(params: Params) -> Params:
    """Our leaves by Hugging Face's names in memory."""
    cfg, found = architecture(params), {}
    for rule, layer, name in named(cfg):
        own = {leaf: params[leaf] if layer is None else params[leaf][layer] for leaf in rule.leaves}
        found[name] = rule.get(own, sizes_of(cfg), rank=0)
    return found


def to_ours(tensors: Params, like: Params) -> Params:
    """The inverse of `to_theirs`, in float64."""
    cfg = architecture(like)
    leaves = {name: np.zeros(x.shape) for name, x in like.items()}
    for rule, layer, name in named(cfg):
        own = {leaf: leaves[leaf] if layer is None else leaves[leaf][layer] for leaf in rule.leaves}
        rule.put(tensors[name], own, sizes_of(cfg), rank=0)
    return leaves


def named(cfg: ModelConfig) -> list[tuple[Rule, int | None, str]]:
    """Each rule with its layers and the names there."""
    found: list[tuple[Rule, int | None, str]] = []
    for rule in hf_neox.rules(cfg):
        layers = range(cfg.num_layers) if "{}" in rule.theirs else [None]
        for layer in layers:
            name = rule.theirs.format(layer).replace("embed_out", "lm_head")
            found.append((rule, layer, name))
    return found
