"""A case as training has it: one device, nothing allocated."""

from jaxneox.config import Settings
from jaxneox.parallel.mesh import whole
from jaxneox.train.plan import TrainPlan, build_plan
from tests.bench.sizes import Case

ONE = whole({"dp": 1})


def plan_of(case: Case) -> TrainPlan:
    return build_plan(Settings(case.keys).resolve(dp=1, vocab_size=None), ONE)
