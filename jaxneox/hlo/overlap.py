"""Which collectives are under way while a device computes, by the order of a compiled program.

A compiled program's instructions run in the order of its text. A collective is asynchronous if it
begins with one instruction and ends with another: `all-gather-start` and `all-gather-done` (or
`async-start` and `async-done` around it), unless the compiler has marked the pair as synchronous
(`"is_sync":true`, on GPUs). A TPU's program also spreads one over fusions of the same `chain_id`:
the first calls `AsyncCollectiveStart`, the last `AsyncCollectiveDone`, and those between compute
something else and move it on.

How long a device waits follows from the order, the time that each instruction takes and the time
that each collective takes: what has not arrived when it ends is waited for. What goes through the
same links goes one after the other.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from jaxneox.hlo import collectives, work
from jaxneox.hlo.collectives import KINDS, Collective
from jaxneox.hlo.text import BRANCHES, Instruction, Program, called, parse, trips
from jaxneox.hlo.work import Work

Rates = Callable[[Collective], tuple[str, float] | None]
"""What links a collective goes through, and its seconds; None if it sends nothing."""


@dataclass(frozen=True)
class Sending:
    """A collective, and whether anything is done while it is under way.

    Attributes:
        collective: with how often a run of the program does it.
        asynchronous: other instructions may run between its start and its end.
        products: some of them compute products of matrices.
        seconds: that it takes, once.
        exposed: of these, the seconds in which the device waits for it.
    """

    collective: Collective
    asynchronous: bool
    products: bool
    seconds: float
    exposed: float


@dataclass
class _Flying:
    """A collective that has begun."""

    collective: Collective
    seconds: float
    arrives: float | None  # None: it moves on only within fusions of its chain
    left: float = 0.0
    products: bool = False


@dataclass
class _Course:
    """A computation as it runs: what it has sent, how long it took, what it moved on."""

    sent: list[Sending] = field(default_factory=list)
    seconds: float = 0.0
    carried: dict[str, tuple[float, bool]] = field(default_factory=dict)


def sendings(text: str, rates: Rates, computes: Callable[[Work], float]) -> list[Sending]:
    """List the collectives of a program in its order.

    Args:
        text: the program's.
        rates: the links and seconds of a collective, done once.
        computes: the seconds of an instruction's work.
    """
    program = parse(text)
    return _Runner(program, rates, computes).course(program.entry).sent


@dataclass(frozen=True)
class Share:
    """Bytes of collectives: all, those sent asynchronously, and of those beside products."""

    bytes: int
    asynchronous: int
    beside_products: int


def share(listed: Iterable[Sending]) -> Share:
    """Add up the bytes that collectives send."""
    total, apart, beside = 0, 0, 0
    for one in listed:
        size = one.collective.bytes * one.collective.count
        total += size
        apart += size * one.asynchronous
        beside += size * (one.asynchronous and one.products)
    return Share(total, apart, beside)


def in_layers(listed: Iterable[Sending], layers: int) -> list[Sending]:
    """Choose those in the innermost loops that go round once a layer, as one round has them."""
    inside = [one for one in listed if one.collective.loops[-1:] == (layers,)]
    deepest = max((len(one.collective.loops) for one in inside), default=0)
    return [
        replace(one, collective=replace(one.collective, count=1))
        for one in inside
        if len(one.collective.loops) == deepest
    ]


class _Runner:
    """Goes through computations in their order; each is gone through once."""

    def __init__(self, program: Program, rates: Rates, computes: Callable[[Work], float]):
        self.program, self.rates, self.computes = program, rates, computes
        self.courses: dict[str, _Course] = {}
        self.work: dict[str, Work] = {}

    def course(self, name: str) -> _Course:
        if name not in self.courses:
            self.courses[name] = _Pass(self, name).run()
        return self.courses[name]


class _Pass:
    """One computation, from its first instruction to its last."""

    def __init__(self, runner: _Runner, name: str):
        self.runner, self.program = runner, runner.program
        self.body = runner.program.computations.get(name, [])
        self.shapes = {one.name: one.shape for one in self.body}
        self.course = _Course()
        self.flying: dict[str, _Flying] = {}
        self.free: dict[str, float] = {}  # when links are free again

    def run(self) -> _Course:
        for this in self.body:
            self.step(this)
        for key in list(self.flying):  # a text that ends before they do
            self.end(key)
        return self.course

    def step(self, this: Instruction) -> None:
        opcode = this.opcode
        if opcode == "while":
            times, length = trips(self.program, this)
            for part in called(this, "body") + called(this, "condition"):
                self.enter(part, times, length)
        elif opcode == "conditional":
            branches = [self.runner.course(name) for name in called(this, BRANCHES)]
            if branches:
                self.add(max(branches, key=lambda branch: branch.seconds), 1, "known")
        elif opcode == "call":
            for name in called(this, "to_apply|calls"):
                self.enter(name, 1, "known")
        elif opcode.endswith("-start") and self.sends(this):
            self.begin(this.name, this, chained=False)
        elif opcode.endswith(("-done", "-update")):
            key = this.operands[0] if this.operands else ""
            if key in self.flying and opcode.endswith("-update"):
                self.flying[this.name] = self.flying.pop(key)
            else:
                self.end(key)
        else:
            self.other(this)

    def other(self, this: Instruction) -> None:
        """Go through an instruction that computes, or sends while the device waits."""
        chains = _chains(self.program, this)
        for chain, target in chains.items():
            if target == "AsyncCollectiveStart":
                self.begin(chain, this, chained=True)
        if not chains:
            for one in self.sends(this):
                self.wait_for(one)
        if not this.opcode.startswith(work.COLLECTIVES):
            self.compute(this, [c for c, target in chains.items() if not target])
        for chain, target in chains.items():
            if target == "AsyncCollectiveDone":
                self.end(chain)

    def sends(self, this: Instruction) -> list[Collective]:
        return list(collectives.of_instruction(self.program, this, {}))

    def begin(self, key: str, this: Instruction, *, chained: bool) -> None:
        for one in self.sends(this):
            if (rate := self.runner.rates(one)) is None:
                continue
            if '"is_sync":true' in this.rest:
                self.wait_for(one)
                continue
            links, seconds = rate
            if chained:
                self.flying[key] = _Flying(one, seconds, None, left=seconds)
            else:
                arrives = max(self.course.seconds, self.free.get(links, 0.0)) + seconds
                self.free[links] = arrives
                self.flying[key] = _Flying(one, seconds, arrives)

    def end(self, key: str) -> None:
        one = self.flying.pop(key, None)
        if one is None:
            return
        left = one.left if one.arrives is None else one.arrives - self.course.seconds
        waits = max(0.0, left)
        self.course.seconds += waits
        self.course.sent.append(Sending(one.collective, True, one.products, one.seconds, waits))

    def wait_for(self, one: Collective) -> None:
        if (rate := self.runner.rates(one)) is None:
            return
        links, seconds = rate
        begins = max(self.course.seconds, self.free.get(links, 0.0))
        self.free[links] = self.course.seconds = begins + seconds
        self.course.sent.append(Sending(one, False, False, seconds, seconds))

    def compute(self, this: Instruction, carried: list[str]) -> None:
        done = work.of_instruction(self.program, this, self.shapes, self.runner.work)
        seconds = self.runner.computes(done)
        self.course.seconds += seconds
        for one in self.flying.values():
            if one.arrives is not None:
                one.products |= done.flops > 0
        for chain in carried:
            seconds = self.carry(chain, seconds, done.flops > 0)

    def carry(self, chain: str, seconds: float, products: bool) -> float:
        """Move a chain on for so long; return what is left of that for others."""
        one = self.flying.get(chain)
        if one is None:  # it has begun around this computation
            before, seen = self.course.carried.get(chain, (0.0, False))
            self.course.carried[chain] = before + seconds, seen or products
            return 0.0
        one.products |= products
        moved = min(one.left, seconds)
        one.left -= moved
        return seconds - moved

    def enter(self, name: str, times: int, length: str) -> None:
        self.add(self.runner.course(name), times, length)

    def add(self, inner: _Course, times: int, length: str) -> None:
        """Go through another computation so many times."""
        looped = length != "known" or times != 1
        for one in inner.sent:
            collective = one.collective
            if looped:
                collective = collectives.repeated(collective, times, length)
            self.course.sent.append(replace(one, collective=collective))
        self.course.seconds += times * inner.seconds
        for chain, (seconds, products) in inner.carried.items():
            self.carry(chain, times * seconds, products)


def _chains(program: Program, this: Instruction) -> dict[str, str]:
    """Find the chains of which a fusion has a part, and what it calls for each: "" if neither."""
    if this.opcode != "fusion":
        return {}
    body = [one for name in called(this, "calls") for one in program.computations.get(name, ())]
    named: dict[str, str] = {}
    for one in body:
        chain = re.search(r'chain_id="([^"]*)"', one.rest)
        if chain and one.opcode.removesuffix("-start") in KINDS:
            named[one.name] = chain[1]
    found = dict.fromkeys(named.values(), "")
    for one in body:
        target = re.search(r'custom_call_target="(AsyncCollective(?:Start|Done))"', one.rest)
        if target:
            found |= {named[name]: target[1] for name in one.operands if name in named}
    return found
