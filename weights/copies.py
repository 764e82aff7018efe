"""Parts and tensors that a checkpoint holds twice, under old and new names, as some merges write them: one of equal copies is taken.

Compares the copies' numbers, so it reads weights before the load. It reads nothing from a checkpoint without copies.
Place in the flow: after parts.to_ours, in load.open_checkpoint and survey.survey.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from . import parts
from .errors import WeightsError
from .files import Found
from .header import FLOATS
from .parts import Group, Mapped, Piece
from .reader import open_unchanged, read_piece


def settle_names(found: Found, mapped: Mapped) -> Mapped:
    """The part with one of each pair of equal tensors for the same parameter. Differing pairs stay, and strict loading refuses them."""
    twice = {name: theirs for name, theirs in mapped.twice.items() if not _all_equal(found, [Piece(info) for info in theirs])}
    settled = mapped.twice.keys() - twice.keys()
    unused = [info.name for name in settled for info in mapped.twice[name] if info != mapped.pieces[name].info]
    return replace(mapped, twice=twice, unused=[*mapped.unused, *unused])


def one_of(found: Found, groups: Sequence[Group], name: str) -> tuple[Group, list[str]]:
    """The most complete of several groups that are one part under different prefixes, and a note per ignored copy.

    name: the part's, in words. Raises WeightsError, naming the part, if a copy differs or holds a tensor that the other lacks.
    """
    mapped = {id(group): parts.to_ours(group) for group in groups}
    best, *rest = sorted(groups, key=lambda group: -len(mapped[id(group)].pieces))
    notes = []
    for copy in rest:
        ours, theirs = mapped[id(best)].pieces, mapped[id(copy)].pieces
        where = f"under {best.prefix!r} and under {copy.prefix!r}"
        alone = [piece.info.name for key, piece in theirs.items() if key not in ours]
        if alone:
            raise WeightsError(
                f"{found.label}: the {name} is present in two forms, {where}; {len(alone)} tensors are only in the smaller one (the first: "
                f"{alone[0][:160]}): remove one form"
            )
        differing = [piece.info.name for key, piece in theirs.items() if not _all_equal(found, [ours[key], piece])]
        if differing:
            raise WeightsError(
                f"{found.label}: the {name} is present twice, {where}, and {len(differing)} tensors differ (the first: "
                f"{differing[0][:160]}): it is unclear which one is meant; remove one"
            )
        notes.append(f"{name}: present twice, {where}, with equal numbers; the first was taken")
    return best, notes


def _all_equal(found: Found, pieces: Iterable[Piece]) -> bool:
    """Whether all tensors have the same shape and numbers."""
    first, *others = pieces
    if any(piece.shape != first.shape for piece in others) or any(piece.info.dtype not in FLOATS for piece in (first, *others)):
        return False
    with ExitStack() as stack:
        files = {header.path: stack.enter_context(open_unchanged(header)) for header in found.headers}
        numbers = read_piece(files, first)
        return all(torch.equal(numbers, read_piece(files, piece)) for piece in others)
