"""Who is dead, who is stuck and who is only slow."""

from jaxneox.hosts.liveness import BEHIND, SILENCE, SILENCE_IN_TROUBLE, STILL, Heartbeat, Liveness


class Group:
    """Processes that beat once a second, by a clock of their own making."""

    def __init__(self, count: int):
        self.now, self.count = 100.0, count
        self.liveness = Liveness(count, self.now)
        self.beats = {i: Heartbeat(0, 0, "in step 1", True, 0.0) for i in range(count)}

    def mark(self, *who: int, doing: str = "in step 9", patient: bool = False, longest: float = 1):
        for i in who or range(self.count):
            b = self.beats[i]
            self.beats[i] = Heartbeat(b.turn, b.progress + 1, doing, patient, longest)

    def run(
        self, seconds: float, silent: tuple[int, ...] = (), trouble: bool = False
    ) -> str | None:
        """The first verdict within so many seconds."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for i, b in self.beats.items():
                if i not in silent:
                    self.beats[i] = b._replace(turn=b.turn + 1)
            if verdict := self.liveness(self.now, self.beats, trouble):
                return verdict
        return None


def test_silence_is_named() -> None:
    group = Group(3)
    assert group.run(100) is None
    assert group.run(SILENCE - 2, silent=(2,)) is None
    verdict = group.run(5, silent=(2,))
    assert verdict is not None and verdict.startswith("process 2 has given no sign of life since ")
    both = Group(3).run(30, silent=(1, 2))
    assert both is not None and both.startswith("processes 1, 2 have given")


def test_silence_is_short_once_a_connection_broke() -> None:
    group = Group(2)
    assert group.run(SILENCE_IN_TROUBLE - 1, silent=(1,), trouble=True) is None
    assert group.run(4, silent=(1,), trouble=True)


def test_who_comes_late_to_a_step_is_named() -> None:
    group = Group(3)
    group.mark(doing="waiting for the batch of step 9")
    group.run(3)
    group.mark(0, 1)
    assert group.run(BEHIND - 3) is None
    verdict = group.run(10)
    assert verdict is not None
    assert verdict.startswith("process 2 is stuck waiting for the batch of step 9 since ")


def test_a_long_compile_is_no_hang_but_a_death_in_it_is() -> None:
    group = Group(3)
    group.mark(patient=True)
    group.mark(0, 1, patient=True)
    assert group.run(3600) is None
    assert group.run(30, silent=(2,))


def test_long_steps_make_patient() -> None:
    group = Group(2)
    group.mark(longest=40)
    group.run(2)
    group.mark(0, longest=40)
    assert group.run(75) is None
    assert group.run(10)


def test_a_stop_of_the_judge_itself_is_nobodys_silence() -> None:
    group = Group(2)
    group.run(5)
    group.now += 1000
    assert group.liveness(group.now, group.beats) is None, "nobody has had time to beat again"
    assert group.run(10) is None


def test_all_still_for_long() -> None:
    group = Group(2)
    group.mark()
    assert group.run(STILL - 5) is None
    verdict = group.run(20)
    assert verdict is not None and verdict.startswith("no process has got any further since ")
