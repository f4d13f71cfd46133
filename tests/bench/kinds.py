"""What is measured: for each kind of work its contenders and its cases."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from tests.bench.sizes import Case

OURS = "ours"


def flops(case: Case) -> float:
    """Of a training step: the model's products, three times those of its forward pass."""
    from jaxneox.train.step.flops import flops_per_token
    from tests.bench.ours.model import plan_of

    plan = plan_of(case)
    return flops_per_token(plan.model.shapes, plan.cfg.model) * case.batch * case.length


@dataclass(frozen=True)
class Kind:
    """Work that one or several do.

    Attributes:
        label: for a row of the table, with a Case's fields in braces.
        contenders: by name, each a `module:function` of this package that no process imports but
            its own: function(case) -> run() -> anything, `Seconds` where it has its own clock.
        cpu, gpu: the cases on each; of `gpu` all that a machine without one would do as well
            (`host`) is done on its CPU.
        files: a contender of its own, whose run fills the case's folder beforehand.
        unit: of what is told: seconds, or with `amount` how many of that number a second.
        flops: of one run, for its share of the peak.
        rounds: unless others are asked for.
        needs: what must be installed.
    """

    label: str
    contenders: Mapping[str, str]
    cpu: tuple[Case, ...]
    gpu: tuple[Case, ...]
    host: bool = False
    files: str | None = None
    unit: str = "s"
    amount: Callable[[Case], float] | None = None
    flops: Callable[[Case], float] | None = None
    rounds: int = 7
    needs: tuple[str, ...] = ("torch", "transformers")

    @property
    def peers(self) -> tuple[str, ...]:
        """Those whose code is not ours."""
        return tuple(name for name, at in self.contenders.items() if at.startswith("theirs."))

    def named(self, case: Case) -> str:
        return self.label.format(**asdict(case))


def trio(work: str) -> dict[str, str]:
    """Ours, and both of theirs."""
    theirs = {name: f"theirs.{work}:{name}" for name in ("eager", "compiled")}
    return {OURS: f"ours.{work}:prepare"} | theirs


def half(size: str, batch: int, *, alone: bool = False) -> Case:
    """In half precision, of a length with which such models are trained."""
    return Case(size, batch, 2048, "bfloat16", alone=alone)


ROWS, BATCHES = 32, 100
FILES = (Case("70m", ROWS, 2048),)
SMALL = (Case("70m", 1, 512),)

KINDS = {
    "train": Kind(
        "train, {size}, {batch} x {length}, {dtype}",
        trio("train"),
        cpu=(Case("70m", 4, 512),),
        gpu=(
            half("410m", 4),
            half("160m", 8),
            half("1.4b", 4, alone=True),
            half("2.8b", 1, alone=True),
        ),
        flops=flops,
    ),
    "forward": Kind(
        "forward, {size}, {batch} x {length}, {dtype}",
        trio("forward"),
        cpu=(Case("70m", 4, 512),),
        gpu=(half("410m", 4), half("1.4b", 4)),
        flops=lambda case: flops(case) / 3,
    ),
    "decode": Kind(
        "decode, {size}, {batch} prompts of {length}, {new} new each, {dtype}",
        trio("decode"),
        cpu=tuple(Case("70m", batch, 64, new=64) for batch in (4, 1, 8)),
        gpu=(Case("410m", 16, 128, "bfloat16", new=128),),
        unit="tokens/s",
        amount=lambda case: case.batch * case.new,
    ),
    "conversion": Kind(
        "conversion, {size}, {dtype}",
        {
            OURS: "ours.conversion:plain",
            "ours, proved": "ours.conversion:proved",
            "transformers": "theirs.conversion:prepare",
        },
        cpu=SMALL,
        gpu=SMALL,
        host=True,
        files="theirs.conversion:write",
        rounds=3,
    ),
    "data": Kind(
        "data, shuffled batches of {batch} rows of {length} + 1 tokens",
        {OURS: "ours.data:prepare"}
        | ({"datasets": "theirs.data:prepare"} if find_spec("datasets") else {}),
        cpu=FILES,
        gpu=FILES,
        host=True,
        files="ours.data:write",
        unit="rows/s",
        amount=lambda case: case.batch * BATCHES,
        needs=(),
    ),
    "overhead": Kind(
        "Python per step (bar: 1 ms)",
        {OURS: "ours.overhead:prepare"},
        cpu=SMALL,
        gpu=SMALL,
        host=True,
        files="ours.overhead:write",
        unit="ms",
        rounds=3,
        needs=(),
    ),
}

PRODUCT = Kind(
    "product of {length} x {length}, {dtype}",
    {OURS: "ours.product:prepare"},
    cpu=(Case("", 1, 4096),),
    gpu=(Case("", 1, 16384, "bfloat16"),),
    needs=(),
)
"""What the machine can do at best: the peak of which a kind reaches a share."""
