"""The training loop that VAE and UNet share: optimiser, moving average, log, checkpoints, time limit.

Every step's random numbers come from (seed, step) alone, so an interrupted and resumed training computes what an
uninterrupted one computes, bit for bit on a CPU with the same number of workers.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .optimiser import Optimiser
from .recipe import Optimisation
from .state import TrainingError, append_log, load_state, prepare_folder, save_state
from .workers import Workers


class Task(Protocol):
    """A training task: a network and its loss at a step."""

    @property
    def name(self) -> str:
        """Of the files that the training writes."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def batch(self, seed: int, step: int) -> tuple[Tensor, ...]:
        """All inputs of a step's loss, random numbers included. Leading axis: grid."""
        ...

    @property
    def loss(self) -> Callable[..., tuple[Tensor, dict[str, float]]]:
        """loss(run, *batch): mean loss over the grids of (a part of) a batch, and figures for the log. run: the network, at the training's
        precision.
        """
        ...

    def check(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Figures on held-out pictures with the given (averaged) weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to train, and how often to save, log and check."""

    minutes: float | None = None  # wall-clock time of this call; None: until the last step
    save_every: float = 120.0  # seconds
    log_every: int = 20  # steps
    check_every: int = 500  # steps
    progress: bool = True
    by_clock: bool = False  # True: `minutes`, not the recipe's steps, is the whole length, and the learning rate falls towards its end


def learning_rate(step: int, o: Optimisation, left: float | None = None) -> float:
    """The learning rate: rises over the warm-up, stays level, falls to 0 over the last part.

    left: part of the training that remains, in [0, 1]; None: computed from the steps.
    """
    falling = (o.steps - step) / max(1, round(o.steps * o.decay)) if left is None else left / max(o.decay, 1e-6)
    return o.learning_rate * min(1.0, (step + 1) / max(1, o.warmup), max(0.0, falling))


def step_seed(seed: int, step: int) -> int:
    """Seed of one step, always below evaluation's seeds. Raises TrainingError for a seed above 98."""
    if not 0 <= seed <= 98:
        raise TrainingError(f"seed {seed}: give one from 0 to 98 (higher ones are reserved for evaluation)")
    return seed * 10_000_000 + step


def train(task: Task, o: Optimisation, identity: dict, folder: Path, *, limits: Limits, device: torch.device,
          precision: torch.dtype = torch.bfloat16, workers: int = 1) -> bool:
    """Trains until the last step, the time limit or an interrupt. State and log are kept in `folder`.

    workers: CPU threads, each with a part of the batch (see `Workers`).
    Returns whether it came to its end; False after an interrupt or the end of the time of a training that is counted in steps.
    Raises TrainingError if the training cannot start or diverges.
    """
    if limits.by_clock and limits.minutes is None:
        raise ValueError("by_clock needs minutes, the length of the whole training")
    seconds = limits.minutes * 60 if limits.by_clock and limits.minutes is not None else None  # of the whole training
    prepare_folder(folder)
    path, log = folder / f"{task.name}.safetensors", folder / f"{task.name}.jsonl"
    network = task.network.to(device).train()
    names = dict(network.named_parameters())
    optimiser = Optimiser(names, o.optimiser, o.weight_decay)
    ema = {name: p.detach().clone() for name, p in names.items()}
    start = 0
    if path.exists():
        groups, start = load_state(path, identity)
        network.load_state_dict(groups.get("model", groups["ema"]))  # a state that was made small holds the averaged weights alone
        ema = {name: groups["ema"][name].to(device, torch.float32) for name in names}
        if start and "first" in groups:
            optimiser.restore(groups["first"], groups.get("second", {}))

    def save(step: int) -> None:
        groups = {"model": dict[str, Tensor](names), "ema": ema, "first": optimiser.first, "second": optimiser.second}
        save_state(path, groups, step, identity)

    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    previous = [(s, signal.signal(s, ask_to_stop)) for s in (signal.SIGINT, signal.SIGTERM)]
    began = saved = time.monotonic()
    team = Workers(network, workers, precision)
    sums: dict[str, float] = {}
    counted = 0
    step = start
    total = None if limits.by_clock else o.steps
    try:
        steps = count(start) if total is None else range(start, total)
        bar = tqdm(steps, initial=start, total=total, desc=task.name, disable=not limits.progress, mininterval=5)
        for step in bar:
            left = None if seconds is None else 1 - (time.monotonic() - began) / seconds
            rate = learning_rate(step, o, left)
            loss, figures = team.gradient(task.loss, task.batch(step_seed(o.seed, step), step))
            norm = nn.utils.clip_grad_norm_(network.parameters(), o.clip)
            if not torch.isfinite(norm):
                raise TrainingError(f"step {step}: the gradient is not finite; start from the last state with a lower learning rate")
            optimiser.step(rate, step + 1, team.each)
            network.zero_grad(set_to_none=True)
            weight = 1 - min(o.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.values()), [p.detach() for p in names.values()], weight)
            step += 1
            for key, value in {"loss": loss.item(), "gradient": norm.item(), **figures}.items():
                sums[key] = sums.get(key, 0.0) + value
            counted += 1  # fewer than log_every just after resuming
            if step % limits.log_every == 0:
                entry = {"step": step, "pictures": step * o.batch, "rate": rate, "seconds": round(time.monotonic() - began, 2)}
                entry |= {k: round(v / counted, 6) for k, v in sums.items()}
                sums, counted = {}, 0
                if step % limits.check_every == 0:
                    entry |= {k: round(v, 6) for k, v in task.check(ema).items()}
                append_log(log, entry)
                bar.set_postfix({k: f"{v:.4g}" for k, v in entry.items() if k == "loss"})
            if time.monotonic() - saved > limits.save_every:
                save(step)
                saved = time.monotonic()
            if stop or (limits.minutes is not None and time.monotonic() - began > limits.minutes * 60):
                break
        bar.close()
        save(step)
    finally:
        team.close()
        for number, handler in previous:
            signal.signal(number, handler)
    return not stop and (limits.by_clock or step == o.steps)
