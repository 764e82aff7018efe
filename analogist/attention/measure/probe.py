"""What one matrix can read from activations: linear probes and differences of means, on held-out inputs, beside permuted labels.

A probe that does well says that something can be read there, not that the network reads it: for that, steer along what it found
(`edits.add`) and see what changes. Source: Alain and Bengio 2016 (linear probes); Hewitt and Liang 2019, "Designing and Interpreting
Probes with Control Tasks".
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Labels = Sequence[Hashable] | np.ndarray


@dataclass(frozen=True, eq=False)
class Scored:
    """How well something learnt does on inputs that it was not learnt from.

    accuracy: share of held-out rows that are labelled correctly. fitted: the same of the rows it was learnt from. control: the
    held-out accuracy of each repeat in which the labels were permuted over the inputs first. classes: the labels, sorted.
    rows, held_out: numbers of rows learnt from and held out.
    """

    accuracy: float
    fitted: float
    control: tuple[float, ...]
    classes: tuple[Hashable, ...]
    rows: int
    held_out: int

    @property
    def p(self) -> float:
        """How often permuted labels do as well: (1 + their number) / (1 + repeats). Source: Phipson and Smyth 2010."""
        return (1 + sum(one >= self.accuracy for one in self.control)) / (1 + len(self.control))

    def __repr__(self) -> str:
        control = f"{np.mean(self.control):.3f} with permuted labels, p = {self.p:.3g}" if self.control else "no control"
        return (
            f"{type(self).__name__} of {len(self.classes)} classes: held-out accuracy {self.accuracy:.3f} ({control}); "
            f"{self.fitted:.3f} on the {self.rows} rows learnt from, {self.held_out} held out"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Probe(Scored):
    """A linear probe. weight: [class ...] with the axes of a row, bias: [class]: the class of a row is that of its greatest score."""

    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """[row class]. x: row, then the axes of the rows that it was learnt from."""
        return x.flatten(1).to(self.weight) @ self.weight.flatten(1).T + self.bias

    def predict(self, x: Tensor) -> list[Hashable]:
        """The class of each row."""
        return [self.classes[i] for i in self.scores(x).argmax(1).tolist()]


@dataclass(frozen=True, eq=False, repr=False)
class MeanDifference(Scored):
    """The difference of two classes' means. vector: with the axes of a row, from the first class to the second; for `edits.add`.

    A row counts as the second class where it lies beyond the midpoint of the two means, along the vector.
    """

    vector: Tensor


def linear_probe(
    x: Tensor, labels: Labels, *, groups: Labels | None = None, holdout: float = 0.3, ridge: float = 1e-2, permutations: int = 99,
    seed: int = 0,
) -> Probe:  # fmt: skip
    """Learns to read labels from rows by ridge regression on one-hot classes, in closed form, and scores it on held-out groups.

    x: row ... (RowsOf.tensor()). labels: one per row. groups: rows of one group are held out together, such as the tokens of one input
    (RowsOf.index["input"]); None: each row is its own group. holdout: share of the groups. ridge: the penalty, over the mean variance of a
    channel. permutations: repeats of the control, which permutes labels over whole groups where a group has one label.
    Raises ValueError where lengths differ, or there are too few groups or classes.
    """
    data = _Split.of(x, labels, groups, holdout, seed)
    train, test = data.rows(True), data.rows(False)
    middle, spread = train.mean(0), train.std(0).clamp_min(1e-12)
    solve = _Ridge((train - middle) / spread, ridge)
    seen = (test - middle) / spread

    def learn(codes: Tensor) -> tuple[Tensor, Tensor, float, float]:
        wanted = torch.nn.functional.one_hot(codes, len(data.classes)).double()
        mean = wanted[data.train].mean(0)
        weight = solve(wanted[data.train] - mean)
        right = [((rows @ weight + mean).argmax(1) == codes[where]).double().mean() for rows, where in
                 ((seen, ~data.train), (solve.x, data.train))]  # fmt: skip
        return weight, mean, float(right[0]), float(right[1])

    weight, mean, accuracy, fitted = learn(data.codes)
    control = tuple(learn(codes)[2] for codes in data.permuted(permutations, seed))
    weight = (weight / spread[:, None]).T
    return Probe(
        accuracy, fitted, control, data.classes, len(train), len(test), weight.unflatten(1, x.shape[1:]).float(),
        (mean - weight @ middle).float(),
    )  # fmt: skip


def mean_difference(
    x: Tensor, labels: Labels, *, groups: Labels | None = None, holdout: float = 0.3, permutations: int = 99, seed: int = 0
) -> MeanDifference:
    """The mean of one class minus that of the other, over the groups that are not held out, scored on those that are.

    Arguments as for `linear_probe`; labels must be of two classes, and the vector leads from the first (sorted) to the second.
    """
    data = _Split.of(x, labels, groups, holdout, seed)
    if len(data.classes) != 2:
        raise ValueError(f"mean_difference: labels of two classes are needed, these are {', '.join(map(str, data.classes))}")
    every = x.flatten(1).double()

    def learn(codes: Tensor) -> tuple[Tensor, float, float]:
        low, high = (every[data.train & (codes == i)].mean(0) for i in (0, 1))
        vector = high - low
        beyond = (every - (low + high) / 2) @ vector > 0
        right = (beyond == (codes == 1)).double()
        return vector, float(right[~data.train].mean()), float(right[data.train].mean())

    vector, accuracy, fitted = learn(data.codes)
    control = tuple(learn(codes)[1] for codes in data.permuted(permutations, seed))
    train = int(data.train.sum())
    return MeanDifference(accuracy, fitted, control, data.classes, train, len(x) - train, vector.unflatten(0, x.shape[1:]).float())


class _Ridge:
    """Ridge regression on the same rows for any number of targets: the matrix is factored once. x: row channel, standardised."""

    def __init__(self, x: Tensor, ridge: float) -> None:
        self.x, self.wide = x, x.shape[1] > x.shape[0]
        square = x @ x.T if self.wide else x.T @ x
        penalty = ridge * len(x) * torch.eye(len(square), dtype=x.dtype, device=x.device)
        self.factor = torch.linalg.cholesky(square + penalty)

    def __call__(self, wanted: Tensor) -> Tensor:
        """[channel class]. wanted: row class."""
        if self.wide:
            return self.x.T @ torch.cholesky_solve(wanted, self.factor)
        return torch.cholesky_solve(self.x.T @ wanted, self.factor)


@dataclass(frozen=True, eq=False)
class _Split:
    """Rows with their classes, and which are learnt from. codes: row, the class by number. group: row, by number. train: row, bool."""

    x: Tensor
    codes: Tensor
    classes: tuple[Hashable, ...]
    group: Tensor
    train: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Labels, groups: Labels | None, holdout: float, seed: int) -> "_Split":
        listed = np.asarray(labels)
        grouped = np.arange(len(x)) if groups is None else np.asarray(groups)
        if x.ndim < 2 or len(listed) != len(x) or len(grouped) != len(x):
            given = f"x {list(x.shape)}, {len(listed)} labels, {len(grouped)} groups"
            raise ValueError(f"{given}: give rows with channels, and one label and group per row")
        if not 0 < holdout < 1:
            raise ValueError(f"holdout {holdout!r}: expected the share of the groups to hold out, between 0 and 1")
        classes, codes = np.unique(listed, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"labels: all are {classes.tolist()[0]!r}; give at least two classes")
        _, group = np.unique(grouped, return_inverse=True)
        everything = torch.ones(len(x), dtype=torch.bool, device="cpu")
        split = cls(x, torch.from_numpy(codes), tuple(classes.tolist()), torch.from_numpy(group), everything)
        held = split._held_out(holdout, np.random.default_rng(seed))
        split.train[torch.from_numpy(np.isin(group, held))] = False
        for what, chosen in (("learn from", split.train), ("hold out", ~split.train)):
            if len(split.codes[chosen].unique()) < len(classes):
                raise ValueError(f"too few groups: those to {what} lack some of the classes {', '.join(map(str, classes))}")
        return split

    def rows(self, train: bool) -> Tensor:
        return self.x[self.train == train].flatten(1).double()

    def _of_groups(self) -> np.ndarray | None:
        """The class of each group, by number, where every group has only one."""
        out = np.zeros(int(self.group.max()) + 1, dtype=np.int64)
        out[self.group.numpy()] = self.codes.numpy()
        return out if (out[self.group.numpy()] == self.codes.numpy()).all() else None

    def _held_out(self, share: float, chance: np.random.Generator) -> np.ndarray:
        """Groups to hold out: of each class its share, where groups have one class."""
        own = self._of_groups()
        every = np.arange(int(self.group.max()) + 1)
        kinds = [every] if own is None else [every[own == code] for code in range(len(self.classes))]
        return np.concatenate([chance.permutation(kind)[: max(1, round(share * len(kind)))] for kind in kinds])

    def permuted(self, times: int, seed: int) -> list[Tensor]:
        """Classes of all rows, permuted over groups (over rows, where groups have several classes).

        Among those learnt from and among those held out, so that both keep all of the classes.
        """
        chance, own, group = np.random.default_rng([seed, 1]), self._of_groups(), self.group.numpy()
        codes = self.codes.numpy() if own is None else own
        train = self.train.numpy() if own is None else np.isin(np.arange(len(own)), group[self.train.numpy()])
        out: list[Tensor] = []
        for _ in range(times):
            mixed = codes.copy()
            for part in (train, ~train):
                mixed[part] = chance.permutation(codes[part])
            out.append(torch.from_numpy(mixed if own is None else mixed[group]))
        return out
