"""The choice of a number of threads, with a clock and a machine that are made up."""

from __future__ import annotations

import pytest

from pyro_mmvae.training.thread_choice import ThreadChoice


class Machine:
    """A machine whose steps take a time that depends on the number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.threads = seconds, 0.0, max(seconds)
        self.used = list[int]()

    def set_threads(self, count: int) -> None:
        self.threads = count

    def step(self, items: int) -> None:
        self.used.append(self.threads)
        self.now += self.seconds[self.threads] * items

    def epoch(self, choice: ThreadChoice, steps: int) -> list[int]:
        self.used = []
        choice.start_epoch()
        for number in range(steps):
            items = 8 if number < steps - 1 else 3
            self.step(items)
            choice.after_step(items)
        self.now += 100.0  # the validation
        return self.used


def make(seconds: dict[int, float]) -> tuple[Machine, ThreadChoice]:
    machine = Machine(seconds)
    return machine, ThreadChoice(max(seconds), clock=lambda: machine.now, apply=machine.set_threads)


@pytest.mark.parametrize("fastest", [1, 2, 4, 6])
def test_after_step_chooses_the_fastest_number_of_threads(fastest: int) -> None:
    machine, choice = make({count: 1.0 + abs(count - fastest) for count in (1, 2, 4, 6)})
    used = machine.epoch(choice, 30)
    assert sorted(set(used[:16])) == [1, 2, 4, 6]
    assert set(used[16:]) == {fastest}
    assert choice.count == machine.threads == fastest


def test_start_epoch_looks_again_at_the_neighbours() -> None:
    machine, choice = make({1: 1.0, 2: 2.0, 4: 3.0, 8: 4.0})
    machine.epoch(choice, 40)
    assert choice.count == 1
    machine.seconds = {1: 4.0, 2: 3.0, 4: 2.0, 8: 1.0}  # another process has ended
    found = []
    for _ in range(4):
        used = machine.epoch(choice, 40)
        found.append((len(set(used)), choice.count))
    assert found == [(2, 2), (3, 4), (3, 8), (2, 8)]


def test_after_step_gives_up_a_number_of_threads_that_is_much_slower() -> None:
    machine, choice = make({1: 1.0, 2: 20.0})
    for _ in range(2):
        assert machine.epoch(choice, 20).count(2) == 2  # one step to settle, and one that is timed
    assert choice.count == 1


def test_search_over_several_short_epochs_is_completed() -> None:
    machine, choice = make({1: 1.0, 2: 5.0})
    for _ in range(4):
        machine.epoch(choice, 2)
    assert choice.count == 1


def test_after_step_ignores_one_slow_step() -> None:
    machine, choice = make({1: 1.0, 2: 2.0})
    choice.start_epoch()
    for number in range(8):
        machine.step(8)
        machine.now += 1000.0 * (number == 2)
        choice.after_step(8)
    assert choice.count == 1


def test_one_thread_alone_is_not_searched() -> None:
    machine, choice = make({1: 1.0})
    assert set(machine.epoch(choice, 3)) == {1}
    assert choice.candidates == [1]
