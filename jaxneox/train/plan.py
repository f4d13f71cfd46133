"""Plans a training run without allocating anything."""

import math
from dataclasses import dataclass

import optax

from jaxneox.config.schema import Config, DataConfig, ModelConfig
from jaxneox.errors import UserError
from jaxneox.model import Documents, Model, Params, lora
from jaxneox.model.parameters import REWARD
from jaxneox.objectives import Models, Objective, build_objective
from jaxneox.optim.optimizer import build_optimizer
from jaxneox.optim.trainable import trained_names
from jaxneox.parallel.divides import check_divides
from jaxneox.parallel.mesh import Sizes, as_asked, whole
from jaxneox.parallel.rules import Rules, rules_for
from jaxneox.parallel.schedule import Schedule
from jaxneox.train.step.curriculum import Curriculum, curriculum_on


@dataclass(frozen=True)
class TrainPlan:
    """A configuration on a mesh: what is known of a training run before anything is allocated.

    Attributes:
        cfg: the whole configuration.
        sizes: devices by mesh axis, as users know them.
        mesh_sizes: those of the mesh, which may have two axes for dp.
        rules: the shardings that follow from them.
        model: the model's functions, laid out by the rules.
        objective: what is trained for.
        reference: the functions of the model that the objective compares with; None if there is
            none, or if the data has its log-probabilities.
        curriculum: the positions of a row on which each step trains; None if it is all of them.
        trained: the names of the parameters that are; the others stay as they are.
        optimizer: the chain of optax transformations, over what is trained.
    """

    cfg: Config
    sizes: Sizes
    mesh_sizes: Sizes
    rules: Rules
    model: Model
    objective: Objective
    trained: frozenset[str]
    optimizer: optax.GradientTransformation
    reference: Model | None = None
    curriculum: Curriculum | None = None

    @property
    def copied(self) -> frozenset[str]:
        """The parameters that the reference model has for itself: those that are trained.

        The others stay as they are, and are those of both.
        """
        return frozenset() if self.reference is None else self.trained

    def models(self, params: Params, reference: Params | None) -> Models:
        """Join functions and parameters for the objective.

        Args:
            params: of the model.
            reference: those that the reference model has for itself; None if there is none.
        """
        if self.reference is None or reference is None:
            return Models(self.model, params)
        return Models(self.model, params, Models(self.reference, params | reference))

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(shape) for shape in self.model.shapes.values())

    @property
    def trained_parameters(self) -> int:
        """The number of parameters that are trained."""
        return sum(math.prod(self.model.shapes[name]) for name in self.trained)

    @property
    def texts(self) -> int:
        """How many texts of `seq_length` tokens an example has: two if it is a pair."""
        field = self.objective.fields.get("tokens")
        return math.prod(field.shape[:-1]) if field else 1

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the pipeline's stages; None if there is only one."""
        stages, chunks = self.sizes["pp"], self.cfg.parallel.chunks
        return Schedule(stages, chunks, self.cfg.batch.accumulation) if stages > 1 else None


def build_plan(cfg: Config, sizes: Sizes, eod: int | None = None) -> TrainPlan:
    """Plan a training run.

    Args:
        cfg: the whole configuration.
        sizes: devices by mesh axis, also `on_torus`; an axis that is left out has size 1.
        eod: the tokenizer's token that ends a document, if it has one.

    Raises:
        UserError: the mesh does not divide what it splits, or a feature needs what is not there.
    """
    mesh_sizes, sizes = whole(sizes), as_asked(sizes)
    parallel, ring = cfg.parallel, uses_ring(cfg, sizes["cp"])
    check_divides(sizes, cfg.model, parallel, ring)
    check_experts(cfg)
    rules = rules_for(
        mesh_sizes, parallel.zero_stage, parallel.sequence_parallel, parallel.chunks, ring
    )
    model = Model(
        cfg.model,
        rules,
        cfg.precision.compute,
        cfg.remat,
        document_settings(cfg.data, eod),
        cfg.train.z_loss,
        cfg.precision.loss_fp32,
    )
    for name, axes in model.axes.items():
        rules.check(name, axes, model.shapes[name])
    trained = trained_names(cfg.train.trainable or by_default(cfg.model), model.axes)
    learning = {name: axes for name, axes in model.axes.items() if name in trained}
    optimizer = build_optimizer(cfg.optimizer, cfg.schedule, learning)
    compares = cfg.objective.has_reference and cfg.objective.reference is None
    return TrainPlan(
        cfg,
        sizes,
        mesh_sizes,
        rules,
        model,
        build_objective(cfg),
        trained,
        optimizer,
        model if compares else None,
        curriculum_on(cfg, sizes, ring),
    )


def check_experts(cfg: Config) -> None:
    """Check that the run can do what its mixtures of experts do in training.

    Raises:
        UserError: the objective has no place for the routers' losses, or the micro-batches are not
            whole groups of the sequences that Sinkhorn balances together.
    """
    experts = cfg.model.experts
    if experts is None:
        return
    if experts.has_losses and cfg.objective.kind != "normal":
        raise UserError(
            f"moe_aux_loss_coeff and moe_z_loss_coeff: only pretraining adds routers' losses, and "
            f"train_impl is {cfg.objective.kind}; leave both out"
        )
    together = cfg.batch.global_size // cfg.batch.accumulation
    if experts.router == "sinkhorn" and together % experts.sinkhorn_rows:
        raise UserError(
            f"{together} sequences that are computed at a time are no multiple of the "
            f"{experts.sinkhorn_rows} that Sinkhorn's algorithm balances together "
            "(moe_sinkhorn_rows): cut the batch as the YAML does, or change moe_sinkhorn_rows"
        )


def by_default(cfg: ModelConfig) -> tuple[str, ...]:
    """Return the patterns of what is trained where the YAML does not say it; none for all.

    Beside LoRA's matrices it is a reward model's head, which a language model has not learned.
    """
    if cfg.lora is None:
        return ()
    return (lora.PATTERN, REWARD) if cfg.head == "reward" else (lora.PATTERN,)


def document_settings(data: DataConfig, eod: int | None) -> Documents | None:
    """Say how training separates the documents that share a row; None if it does not."""
    names = ("reset_attention_mask", "reset_position_ids")
    asked = [name for name in names if getattr(data, name)]
    if data.separate_documents:
        if asked:
            raise UserError(f"separate_documents does what {asked[0]} does: keep one of the two")
        return Documents(None, attention=True, positions=True)
    if not asked:
        return None
    if eod is None:
        raise UserError(
            f"{asked[0]}: true, but there is no tokenizer with an <|endoftext|> token, and nothing "
            "names another; set eod-token"
        )
    return Documents(eod, data.reset_attention_mask, data.reset_position_ids)


def uses_ring(cfg: Config, cp: int) -> bool:
    """Decide whether attention over cp passes keys and values around a ring.

    A ring cannot apply dropout masks or learned biases, which are made for whole sequences, and
    puts the positions in an order in which no state space can run through them.

    Raises:
        UserError: the YAML asks for a ring, and the model has one of them.
    """
    attention, positions = cfg.model.attention, cfg.model.positions
    named = {
        "attention-dropout": attention.dropout > 0,
        "pos-emb rpe": positions.kind == "rpe",
        "mamba layers": "mamba" in cfg.model.pattern,
    }
    unsupported = [name for name, present in named.items() if present]
    if cp == 1:
        return False
    if cfg.parallel.attention == "ring" and unsupported:
        raise UserError(
            "context-parallel-attention: ring cannot do "
            f"{' and '.join(unsupported)}; expected gather"
        )
    possible = cfg.model.seq_length % (2 * cp) == 0 and not unsupported
    return cfg.parallel.attention == "ring" or (cfg.parallel.attention == "auto" and possible)
