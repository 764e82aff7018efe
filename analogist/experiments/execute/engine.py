"""Computes groups of jobs: once what they share (texts, encoded pictures, noise, first steps), and the rest in batches through the UNet."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from analogist.attention.capture.maps import Maps
from analogist.config import with_suffix
from analogist.experiments.execute.histories import Histories
from analogist.experiments.execute.jobs import Group, Job
from analogist.experiments.execute.taps import tap_of
from analogist.models.control import AttentionControl, index_of
from analogist.models.text import PreparedText
from analogist.pipeline import Analogist
from analogist.run.denoise import guided, not_finite
from analogist.run.sampling import GridPosteriors, Start, grid_posteriors
from analogist.run.seeds import Randomness
from analogist.run.transfer import Arriving

KEPT = 64  # texts and pictures that are remembered from group to group


@dataclass(frozen=True, eq=False)
class Sampled:
    """The outcome of a group. latents: job 4 h w, the last ones. failed: job position -> why, for latents that are not finite.

    times: the executed time indices. calls: UNet calls. images: images that went through them in all.
    maps: of the group's only job, what the captures of own metrics kept, by metric.
    """

    latents: Tensor
    failed: dict[int, str]
    times: list[int]
    calls: int
    images: int
    maps: Mapping[str, Maps] = field(default_factory=dict)


class Engine:
    """Runs groups on one model. What it remembers (encoded texts and pictures) changes no result."""

    def __init__(self, model: Analogist) -> None:
        self.model = model
        self._texts: OrderedDict[Hashable, PreparedText] = OrderedDict()
        self._pictures: OrderedDict[Hashable, GridPosteriors] = OrderedDict()

    def _text(self, job: Job) -> PreparedText:
        """Keys and values of a job's two prompts, branch 0 negative and 1 prompt."""
        p = job.prompts
        prompt = with_suffix(p["prompt"], p["prompt_suffix"])
        return _remember(
            self._texts, (prompt, p["negative_prompt"], job.grid.size),
            lambda: self.model.unet.prepare_text(self.model.encode_text(prompt, p["negative_prompt"], size=job.grid.size)),
        )  # fmt: skip

    def _start(self, job: Job) -> tuple[Start, Randomness]:
        key = job.content["grid"]["sha256"], job.grid.size, job.grid.rows
        model = self.model
        posteriors = _remember(self._pictures, key, lambda: grid_posteriors(model.vae, job.grid))
        randomness = Randomness([job.seed])
        h, w = (side // model.vae.config.factor for side in job.grid.known_size)
        return posteriors.start(randomness.draw(model.vae.config.latent_channels, h, w)), randomness

    @torch.no_grad()
    def sample(self, group: Group, *, seen: Callable[[int, int], None] | None = None) -> Sampled:
        """Last latents of every job of a group.

        Jobs whose steps are the same up to some step share them: at each step every distinct history is computed once, in
        UNet calls of at most group.batch images. With group.share off each job carries its own latents through calls of
        the same shapes, which gives the same bits. seen: called after each step with (step, steps).
        """
        run = _GroupRun(self, group)
        maps: Mapping[str, Maps] = {}
        try:
            for i in range(len(run.times)):
                run.step(i)
                if seen is not None:
                    seen(i + 1, len(run.times))
        finally:
            if run.tap is not None:
                maps = run.tap.close()
        run.note_failures(wait=True)
        return Sampled(torch.cat(run.latents), run.failed, [t for t, _ in run.times], run.calls, run.images, maps)

    def count(self, group: Group) -> int:
        """Images that will go through the UNet for a group, shared beginnings counted once; nothing is computed."""
        histories = Histories(group.jobs, self.model.unet.sites)
        return sum(len(histories.advance(i)) for i in range(group.jobs[0].config.sampling.executed))


def _remember(kept: OrderedDict, key: Hashable, make: Callable[[], object]):
    if key not in kept:
        kept[key] = make()
        if len(kept) > KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


class _GroupRun:
    """The state of one group while it is sampled: the latents of every job, and which jobs still share a history."""

    def __init__(self, engine: Engine, group: Group) -> None:
        model, jobs = engine.model, group.jobs
        self.model, self.group, self.jobs = model, group, jobs
        sampling = jobs[0].config.sampling
        self.times = model.schedule.times(sampling.steps, sampling.strength)
        self.eta, self.branches = sampling.eta, sampling.branches
        self.pure_noise = sampling.strength == 1
        self.guidance = torch.tensor([job.config.sampling.guidance for job in jobs], device=model.device)
        self.texts = [engine._text(job) for job in jobs]
        made: dict[Hashable, int] = {}  # (grid, seed) -> source
        self.source = [made.setdefault((job.content["grid"]["sha256"], job.seed), len(made)) for job in jobs]
        firsts = [self.source.index(number) for number in range(len(made))]
        starts = [engine._start(jobs[first]) for first in firsts]
        self.randomness = [randomness for _, randomness in starts]
        self.fixed = [starts[number][0].fixed for number in self.source]
        begun = [self._begin(start) for start, _ in starts]
        self.latents = [begun[number] for number in self.source]  # replaced, never written into
        self.histories = Histories(jobs, model.unet.sites)
        self.tap = tap_of(model, jobs[0]) if len(jobs) == 1 else None  # jobs that look or edit are in groups of their own
        self.failed: dict[int, str] = {}
        self._waiting: list[tuple[int, Arriving]] = []  # whether latents were finite, by step
        self.calls = self.images = 0
        self._stacked: tuple[tuple[int, ...], PreparedText] | None = None

    def _begin(self, start: Start) -> Tensor:
        if self.pure_noise:
            return start.noise
        return self.model.schedule.add_noise(start.z0, start.noise, self.times[0][0])

    def step(self, i: int) -> None:
        """One executed step of every job."""
        nodes = self.histories.advance(i)
        noises = self._step_noises()
        if self.group.share:
            for node, z in zip(nodes, self._advance([members[0] for members in nodes], i, noises), strict=True):
                for j in node:
                    self.latents[j] = z
        else:
            # Every job is computed, in calls of the same shapes as above (the shapes decide the bits): round k takes the k-th job of every
            # history. A history with fewer jobs repeats its last one, and that result is dropped.
            for k in range(max(map(len, nodes))):
                chosen = [members[min(k, len(members) - 1)] for members in nodes]
                for members, z in zip(nodes, self._advance(chosen, i, noises), strict=True):
                    if k < len(members):
                        self.latents[members[k]] = z
        finite = torch.stack([torch.isfinite(z).all() for z in self.latents])
        self._waiting.append((i, Arriving(finite)))
        self.note_failures(wait=False)

    def _step_noises(self) -> list[Tensor | None]:
        if self.eta == 0:
            return [None] * len(self.randomness)
        like = self.latents[0]
        return [randomness.step_noise(like) for randomness in self.randomness]

    def _advance(self, chosen: Sequence[int], i: int, noises: list[Tensor | None]) -> Iterator[Tensor]:
        """Latents [1 4 h w] after step i of the chosen jobs, in UNet calls of at most `batch` images."""
        schedule, (t, t_prev) = self.model.schedule, self.times[i]
        for first in range(0, len(chosen), self.group.batch):
            part = list(chosen[first : first + self.group.batch])
            out = self._guided(part, i)
            for position, j in enumerate(part):
                one = out[position : position + 1]
                z, _ = schedule.step(self.latents[j], one, t, t_prev, eta=self.eta, noise=noises[self.source[j]])
                yield z

    def _guided(self, part: list[int], i: int) -> Tensor:
        n = len(part)
        z_t, fixed = (torch.cat([tensors[j] for j in part]) for tensors in (self.latents, self.fixed))
        control = AttentionControl(
            step=i, t=self.times[i][0], branches=self.branches, images=n, sac=[self.jobs[j].config.sac for j in part],
            cam=[self.jobs[j].config.cam for j in part], rows=self.jobs[0].grid.rows, attention=self.jobs[0].content["attention"],
            tap=self.tap,
        )  # fmt: skip
        self.calls, self.images = self.calls + 1, self.images + n
        guidance = self.guidance[index_of(tuple(part), self.guidance.device)]
        return guided(self.model.unet, z_t, fixed, self._stack(part), control, guidance)

    def _stack(self, part: list[int]) -> PreparedText:
        """The prepared texts of some jobs as one batch [(branch image) ...]; the last one is remembered."""
        key = tuple(part)
        if self._stacked is not None and self._stacked[0] == key:
            return self._stacked[1]

        def rows(pick: Callable[[PreparedText], Tensor]) -> Tensor:
            branches = range(2) if self.branches == 2 else (1,)
            return torch.cat([pick(self.texts[j])[branch : branch + 1] for branch in branches for j in part])

        names = self.texts[part[0]].keys_values
        stacked = PreparedText(
            rows(lambda text: text.text),
            {n: (rows(lambda text, n=n: text.keys_values[n][0]), rows(lambda text, n=n: text.keys_values[n][1])) for n in names},
            None if self.texts[part[0]].added is None else rows(lambda text: cast(Tensor, text.added)),
        )
        self._stacked = (key, stacked)
        return stacked

    def note_failures(self, *, wait: bool) -> None:
        """Reads which jobs' latents were finite after which step, where that is known without waiting for the device, or all of it."""
        while self._waiting and (wait or self._waiting[0][1].here):
            i, finite = self._waiting.pop(0)
            for j, fine in enumerate(finite.read()):
                if not fine:
                    self.failed.setdefault(j, not_finite(i, self.times[i][0], self.model.dtype))
