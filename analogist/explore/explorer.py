"""Explorer: the finished page, shown in a notebook, saved as one HTML file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from analogist.attention.measure.contribution import Contribution
from analogist.models.numbers import plain
from analogist.run.result import Result

from .detail import Detail
from .html_page import HtmlPage, json_text
from .pack import PageTooLarge, pack
from .page import manifest, page_text, picture_entries
from .page_plan import MAX_BYTES
from .source import Source, from_folder, from_result
from .written import written


class Explorer(HtmlPage):
    """The explorer's page. notes: what it holds and what was left out. detail: the rung of the ladder that fitted."""

    title = "Attention explorer"

    def __init__(self, page: str, notes: dict[str, list[str]], detail: Detail) -> None:
        super().__init__(page)
        self.notes, self.detail = notes, detail

    def __repr__(self) -> str:
        lines = [f"Explorer: {self.nbytes / 1e6:.2f} MB, .save('look.html')", *(f"  holds {line}" for line in self.notes["holds"])]
        return "\n".join(lines + [f"  left out: {line}" for line in self.notes["left_out"]])


def explore(
    results: Result | Sequence[Result], *, labels: str | Sequence[str] | None = None,
    contribution: Contribution | Sequence[Contribution | None] | None = None, max_bytes: int = MAX_BYTES,
) -> Explorer:  # fmt: skip
    """The page of one run, or of several runs side by side with a shared pointer.

    results: of calls with captures (`for_explorer` plans them). labels: names of the runs; None: their SAC, CAM and seed.
    contribution: what `measures.contribution` gave for each run, for a table beside the share of attention; None: no such table. With
    several example pairs it may be measured between all cells (query= and key= "A1", "A1'", "A2" ... "B", "B'").
    max_bytes: of the whole file; maps that do not fit are reduced, and the page says what was left out.
    Raises ValueError if nothing was captured, PageTooLarge if not even the coarsest maps fit.
    """
    given = [results] if isinstance(results, Result) else list(results)
    if not given or not all(isinstance(one, Result) for one in given):
        raise ValueError("explore: give a Result, or a list of them, as model(grid, prompt, capture=...) returns")
    names, beside = _names(labels, len(given)), _contributions(contribution, len(given))
    sources: list[Source] = []
    for one, name, measured in zip(given, names, beside, strict=True):
        found = from_result(one, name)
        if measured is not None:
            found = [replace(source, written=written(measured, len(source.times), source.rows)) for source in found]
        sources += found
    return make_explorer(sources, max_bytes)


def explore_folder(
    folders: str | Path | Sequence[str | Path], *, labels: str | Sequence[str] | None = None, max_bytes: int = MAX_BYTES
) -> Explorer:
    """The same from folders that `analogist run --explore` wrote. Raises ValueError for a folder without captures."""
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    if not given:
        raise ValueError("explore: give at least one folder")
    names = _names(labels, len(given))
    return make_explorer([source for one, name in zip(given, names, strict=True) for source in from_folder(one, name)], max_bytes)


def make_explorer(sources: list[Source], max_bytes: int) -> Explorer:
    """The page of some sources, at most max_bytes long."""
    max_bytes = plain(max_bytes)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"max_bytes {max_bytes!r}: must be a whole number of bytes, at least 1 (default: 20_000_000)")
    sources = _told_apart(sources)
    pictures = picture_entries(sources, max_bytes)
    title = f"Attention explorer: {sources[0].prompt or sources[0].label}"
    budget = max_bytes
    while True:
        left = budget - sum(len(one["src"]) for one in pictures) - 80_000  # room for the page itself, measured below
        packed = pack(sources, max(left, 0))
        data = manifest(sources, packed, pictures, max_bytes)
        explorer = Explorer(page_text(data, packed.chunks, title), data["notes"], packed.detail)
        if explorer.nbytes <= max_bytes:
            return explorer
        over = explorer.nbytes - max_bytes + len(json_text(data)) // 50
        if over >= budget:
            raise PageTooLarge(f"the page takes more than {max_bytes} bytes even without maps; raise max_bytes (--max-mb)")
        budget -= over


def _contributions(given: Contribution | Sequence[Contribution | None] | None, count: int) -> list[Contribution | None]:
    if given is None:
        return [None] * count
    listed = list(given) if isinstance(given, list | tuple) else [cast("Contribution | None", given)]
    if len(listed) != count:
        raise ValueError(f"contribution: {len(listed)} given for {count} runs; give one for each, or None for a run without")
    return listed


def _names(labels: str | Sequence[str] | None, count: int) -> list[str | None]:
    if labels is None:
        return [None] * count
    names: list[str | None] = [labels] if isinstance(labels, str) else list(labels)
    if len(names) != count:
        raise ValueError(f"labels {names}: {count} are needed, one per run, not {len(names)}")
    return names


def _told_apart(sources: list[Source]) -> list[Source]:
    """Numbers the sources whose labels are equal."""
    labels = [source.label for source in sources]
    out = []
    for i, source in enumerate(sources):
        twice = labels.count(source.label) > 1
        out.append(replace(source, label=f"{source.label} ({labels[:i].count(source.label) + 1})") if twice else source)
    return out
