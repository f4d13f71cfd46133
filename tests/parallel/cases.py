"""The features that must work together on a mesh, and subsets in which every two of them meet."""

import dataclasses
import itertools
import random
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from jaxneox.config.schema import ModelConfig, RematConfig
from tests.parallel.meshes import MODEL, Mesh, Outcome, apart, train

# float32 rounding of sums in another order, which a bug would exceed by orders of magnitude
LOSS, GRADIENT, NORM, PARAMETER = 1e-6, 5e-6, 1e-6, 1e-5
BOUNDS = {"loss": LOSS, "gradient": GRADIENT, "norm": NORM, "parameter": PARAMETER}

SHAPES = [  # pp, dp, cp, tp
    (1, 1, 1, 1), (1, 8, 1, 1), (1, 1, 1, 4), (1, 2, 1, 4), (1, 1, 2, 1), (1, 2, 2, 2),
    (1, 1, 4, 2), (1, 2, 4, 1), (2, 1, 1, 1), (2, 2, 1, 2), (2, 1, 2, 2), (2, 2, 2, 1),
    (2, 1, 4, 1), (4, 2, 1, 1), (4, 1, 1, 2), (4, 1, 2, 1),
]  # fmt: skip


class Case(NamedTuple):
    """A mesh, and what of the model and of the step must not care for it."""

    mesh: Mesh
    tied: bool = False
    parallel: bool = True
    dropout: bool = False
    remat: Literal["none", "dots", "full"] = "full"

    @property
    def attention(self) -> str:
        return self.mesh.attention if self.mesh.cp > 1 else "whole"

    def model(self) -> ModelConfig:
        """The ring has no dropout of attention's weights; elsewhere it drops them as well."""
        rate = 0.1 * self.dropout
        attention = dataclasses.replace(
            MODEL.attention, dropout=0.0 if self.attention == "ring" else rate
        )
        return dataclasses.replace(
            MODEL,
            tied_embedding=self.tied,
            parallel_residual=self.parallel,
            hidden_dropout=rate,
            attention=attention,
        )

    def features(self) -> dict[str, object]:
        """The values of the table's columns."""
        mesh = self.mesh
        return mesh.sizes | {
            "chunks": mesh.chunks,
            "accumulation": mesh.accumulation,
            "ZeRO": mesh.zero,
            "sequence": mesh.sequence,
            "attention": self.attention,
            "embedding": "tied" if self.tied else "untied",
            "residual": "parallel" if self.parallel else "sequential",
            "dropout": self.dropout,
            "remat": self.remat,
        }

    def __str__(self) -> str:
        words = [str(self.mesh), "tied" if self.tied else "untied"]
        words += ["parallel" if self.parallel else "sequential"]
        return "-".join(words + ["dropout"] * self.dropout + [self.remat])


def product() -> list[Case]:
    """All that there is to combine; a schedule needs stages, a ring a split sequence."""
    cases = []
    for (pp, dp, cp, tp), chunks, attention, zero, accumulation in itertools.product(
        SHAPES, (1, 2), ("gather", "ring"), (0, 1, 2, 3), (1, 2, 4)
    ):
        if (chunks > 1 and pp == 1) or (attention == "ring" and cp == 1) or accumulation * dp > 16:
            continue
        for sequence, tied, parallel, dropout, remat in itertools.product(
            *[(False, True)] * 4, ("none", "dots", "full")
        ):
            mesh = Mesh(dp, tp, zero, sequence, accumulation, pp, chunks, cp, attention)  # type: ignore[arg-type]
            cases.append(Case(mesh, tied, parallel, dropout, remat))  # type: ignore[arg-type]
    return cases


def pairs(features: dict[str, object]) -> set[tuple[object, object]]:
    return set(itertools.combinations(features.items(), 2))


def shaped(case: Case) -> dict[str, object]:
    """Features with the whole shape of the mesh as one: the table meets each shape with each."""
    features = case.features()
    shape = tuple(features.pop(axis) for axis in ("pp", "dp", "cp", "tp"))
    return features | {"shape": shape}


def on_or_off(case: Case) -> dict[str, object]:
    """Features by whether they are there at all: what the fast tests meet in pairs."""
    features = case.features()
    for name in ("pp", "dp", "cp", "tp", "chunks", "accumulation"):
        features[name] = features[name] != 1
    return features | {"ZeRO": case.mesh.zero in (2, 3), "moments": case.mesh.zero > 0}


def covering(view=shaped, seed: int = 0, tries: int = 400) -> list[Case]:
    """A small subset of the product in which every two values that occur together in it do so,
    chosen greedily among random candidates."""
    cases, chance = product(), random.Random(seed)
    missing = set().union(*(pairs(view(case)) for case in cases))
    chosen = []
    while missing:
        wanted = next(iter(sorted(missing, key=repr)))
        fits = [case for case in chance.sample(cases, tries) if wanted in pairs(view(case))]
        fits = fits or [case for case in cases if wanted in pairs(view(case))]
        best = max(fits, key=lambda case: len(pairs(view(case)) & missing))
        chosen.append(best)
        missing -= pairs(view(best))
    return chosen


def run(case: Case) -> Outcome:
    return train(case.mesh, case.model(), remat=RematConfig(case.remat))


@cache
def one_device(model: ModelConfig) -> Outcome:
    return train(Mesh(), model, remat=RematConfig("none"))


def check(case: Case) -> dict[str, float]:
    """The greatest relative differences to the same run on one device."""
    found, expected = run(case), one_device(case.model())
    return {
        "loss": _greatest(found.losses, expected.losses),
        "gradient": max(apart(found.grads, expected.grads).values()),
        "norm": _greatest(found.norms, expected.norms),
        "parameter": max(apart(found.params, expected.params).values()),
    }


def _greatest(found: list[float], expected: list[float]) -> float:
    return float(np.max(np.abs(np.array(found) / np.array(expected) - 1)))
