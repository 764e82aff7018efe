"""The tap of one run: edits first, then captures. Each run has its own tap.

Place in the flow: `AttentionControl(tap=...)`; every attention module and block passes its tensors through it.
"""

import shutil
import warnings
import weakref
from collections.abc import Sequence

from torch import Tensor

from analogist.attention.capture.capture import Capture, CaptureTooLarge, make_plan
from analogist.attention.capture.keep import Keeper
from analogist.attention.capture.maps import Maps
from analogist.attention.capture.plan import Plan, human_bytes
from analogist.attention.edit.bind import BoundEdit, bind_edits
from analogist.attention.edit.edits import Edits
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At
from analogist.models.placement import MAP_POINTS, Site
from analogist.models.unet import UNet

__all__ = ["CaptureLost", "RunShape", "StudyTap"]


class CaptureLost(UserWarning):
    """A captured tensor could not be written. The run's result is not affected."""


class StudyTap:
    """Implements the Tap protocol of models/control.py for one run.

    Everything is checked here, before the first UNet call. Raises ValueError for selectors that match nothing, steps outside the run,
    regions outside the picture, and words that are not in the prompt; CaptureTooLarge above max_bytes or the free disk space.
    """

    def __init__(
        self,
        capture: Capture | str | Sequence[Capture | str] | None,
        edit: Edits | None,
        unet: UNet,
        run: RunShape,
    ) -> None:
        self.run = run
        self._edits: dict[tuple[str, str], list[BoundEdit]] = bind_edits(edit, unet, run)
        self.plan: Plan = make_plan(capture, unet, run)
        self._check_disk()
        self._keepers: list[Keeper] = []
        self._at: dict[tuple[str, str], list[Keeper]] = {}
        self._finish = weakref.finalize(self, _finish, self._keepers)  # also if close is never called
        try:
            for item in self.plan.items:
                keeper = Keeper(item, run)
                self._keepers.append(keeper)
                self._at.setdefault((item.site.name, item.point), []).append(keeper)
        except BaseException:
            self._finish()
            raise

    def _check_disk(self) -> None:
        folders = {item.request.spill for item in self.plan.items if item.request.spill is not None}
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"spill: the folder {folder} cannot be created ({error.strerror})") from error
            needed = sum(item.nbytes for item in self.plan.items if item.request.spill == folder)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise CaptureTooLarge(f"spill: {folder} has {human_bytes(free)} free, this capture would write {human_bytes(needed)}")

    def wants(self, site: Site, point: str, step: int) -> bool:
        """Whether the point is captured or edited in this step."""
        place = (site.name, point)
        edits, keepers = self._edits.get(place), self._at.get(place)
        if edits is None and keepers is None:  # almost everywhere: asked for every point of every site in every step
            return False
        return any(edit.acts(step) for edit in edits or ()) or any(step in keeper.item.steps for keeper in keepers or ())

    def whole(self, site: Site, step: int) -> bool:
        """Whether map points must come with all heads, because an edit or a user's reduction may mix heads."""
        places = [(site.name, point) for point in MAP_POINTS]
        edits = (edit for place in places for edit in self._edits.get(place, ()))
        return any(edit.acts(step) and not edit.by_head for edit in edits) or any(
            keeper.item.needs_whole and step in keeper.item.steps for place in places for keeper in self._at.get(place, ())
        )

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        """The tensor that the next line of forward uses."""
        place = (at.site.name, at.point)
        for edit in self._edits.get(place, ()):
            if edit.acts(at.step):
                tensor = edit(tensor, at)
        for keeper in self._at.get(place, ()):
            if at.step in keeper.item.steps:
                before = keeper.lost
                keeper.see(tensor, at)
                if keeper.lost and not before:
                    kept = len(keeper.done)
                    warnings.warn(f"{keeper.item.name}: {keeper.lost}; {kept} steps are kept", CaptureLost, stacklevel=2)
        return tensor

    @property
    def maps(self) -> Maps:
        """The maps captured so far, complete steps only; after an interrupt, those from before it."""
        return self._gather(None)

    def step_maps(self, step: int) -> Maps:
        """The maps captured in one step, with a step axis of length 1; sums over steps as they are so far."""
        return self._gather(step)

    def _gather(self, step: int | None) -> Maps:
        found = {keeper.item.name: keeper.map(step) for keeper in self._keepers}
        lost = {k.item.name: f"{k.lost}; {len(k.done)} of {len(k.item.steps)} steps are kept" for k in self._keepers if k.lost}
        return Maps({name: m for name, m in found.items() if m is not None}, lost)

    def close(self) -> None:
        """Completes spilled files; called automatically when the tap is deleted. Nothing can be captured afterwards."""
        self._finish()


def _finish(keepers: list[Keeper]) -> None:
    for keeper in keepers:
        keeper.finish()
