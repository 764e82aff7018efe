"""How many CPU threads a step runs with, on a machine that others use too.

Where another job holds a core, two threads wait for each other at every layer and one alone is faster; where the machine
is idle it is the other way round. So both are timed now and then, and the faster one is kept.
"""

import torch

EVERY, TRIAL = 40, 2  # steps between trials, steps of a trial


class Threads:
    """Chooses between one thread and `most`. fixed: keep to `most` (the same number of threads gives the same bits)."""

    def __init__(self, most: int, *, fixed: bool) -> None:
        self.most, self.fixed = most, fixed or most == 1
        self.count = most
        self._taken: dict[int, list[float]] = {1: [], most: []}
        self._left = 0 if self.fixed else 2 * TRIAL

    def begin(self, step: int) -> None:
        """Before a step: sets the number of threads."""
        if not self.fixed:
            if step % EVERY == 0:
                self._taken, self._left = {1: [], self.most: []}, 2 * TRIAL
            if self._left:
                self.count = self.most if self._left > TRIAL else 1
        torch.set_num_threads(self.count)

    def end(self, seconds: float) -> None:
        """After a step that took so long."""
        if self._left:
            self._taken[self.count].append(seconds)
            self._left -= 1
            if not self._left:
                self.count = min(self._taken, key=lambda n: min(self._taken[n], default=0.0))
