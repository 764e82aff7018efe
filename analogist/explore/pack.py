"""Turns maps into what a page carries: blocks of bytes, compressed in chunks. Their size is measured, not estimated from shapes."""

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from .detail import LADDER, Detail
from .held import Held
from .quantise import encode
from .source import Source

CHUNK = 256 * 1024  # bytes of blocks compressed together: small blocks compress better together; a larger block is a chunk of its own
LEVEL = 6


class PageTooLarge(ValueError):
    """Not even the coarsest page fits into the size allowed."""


@dataclass(frozen=True)
class Packed:
    """groups: JSON-ready, one per source, map and branch. chunks: base64 of zlib streams. detail: what was kept."""

    groups: list[dict]
    chunks: list[str]
    detail: Detail

    @property
    def nbytes(self) -> int:
        """Bytes that the chunks take in the page."""
        return sum(len(chunk) for chunk in self.chunks)


@dataclass
class Chunks:
    """Joins blocks into chunks and compresses each chunk when it is full."""

    done: list[str] = field(default_factory=list)
    open: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, block: bytes) -> tuple[int, int]:
        """Adds a block and returns its place: (chunk, offset in bytes, a multiple of 4)."""
        if self.size and self.size + len(block) > CHUNK:
            self.close()
        place = (len(self.done), self.size)
        padded = block + bytes(-len(block) % 4)
        self.open.append(padded)
        self.size += len(padded)
        return place

    def close(self) -> None:
        """Compresses the open chunk."""
        if self.open:
            self.done.append(compressed(b"".join(self.open)))
        self.open, self.size = [], 0


def compressed(data: bytes) -> str:
    """zlib, then base64: a browser can unpack both without a library."""
    return base64.b64encode(zlib.compress(data, LEVEL)).decode("ascii")


def pack(sources: list[Source], budget: int) -> Packed:
    """Packs under the first detail of the ladder whose chunks take at most `budget` bytes. Raises PageTooLarge if none does.

    A detail is first estimated from one block per map; only if that fits are all blocks packed.
    """
    before = None
    for detail in LADDER:
        signature = [(one.shape(detail), one.keeps_heads(detail), block_keys(one, source, detail)) for source, one in kept(sources, detail)]
        if signature == before:
            continue  # this detail keeps the same of what was captured as the last one
        before = signature
        if estimate(sources, detail, budget) > budget:
            continue
        packed = pack_at(sources, detail)
        if packed.nbytes <= budget:
            return packed
    raise PageTooLarge(
        f"the maps take {estimate(sources, LADDER[-1], float('inf')):.0f} bytes even at their coarsest, but only {budget} are left; "
        "allow a larger page, or capture fewer sites"
    )


def kept(sources: list[Source], detail: Detail) -> Iterator[tuple[Source, Held]]:
    """Every map of every source that a detail keeps."""
    for source in sources:
        if detail.images is None or source.image < detail.images:
            yield from ((source, one) for one in source.held)


def block_keys(one: Held, source: Source, detail: Detail) -> list[tuple[int, str]]:
    """(step, branch) of each block of a map that a detail keeps."""
    branches = one.branches if detail.branches == 2 or len(one.branches) == 1 else tuple(b for b in one.branches if b == "text")
    return [(step, branch) for branch in branches for step in detail.pick_steps(one.steps, one.view)]


def estimate(sources: list[Source], detail: Detail, stop: float) -> float:
    """Estimated bytes of a page under a detail, from the middle block of each map; stops counting once above `stop`."""
    total = 0.0
    for source, one in kept(sources, detail):
        keys = block_keys(one, source, detail)
        if keys:
            step, branch = keys[len(keys) // 2]
            block, _ = block_of(source, one, step, branch, detail)
            total += len(keys) * len(compressed(block))
        if total > 1.15 * stop:  # 15 % of tolerance: small blocks compress better together than one by one
            break
    return total / 1.15


def pack_at(sources: list[Source], detail: Detail) -> Packed:
    """Everything that a detail keeps."""
    groups, chunks = [], Chunks()
    for source, one in kept(sources, detail):
        places: dict[str, list[tuple[int, int, int]]] = {}
        about = {}
        for step, branch in block_keys(one, source, detail):
            block, about = block_of(source, one, step, branch, detail)
            places.setdefault(branch, []).append((step, *chunks.add(block)))
        chunks.close()  # each chunk holds one map only, so looking at one site does not unpack another
        for branch, found in places.items():
            groups.append(
                {
                    "source": sources.index(source), "site": one.site.name, "view": one.view, "branch": branch, **about,
                    "columns": column_names(source, one, branch), "places": found,
                }  # fmt: skip
            )
    return Packed(groups, chunks.done, detail)


def block_of(source: Source, one: Held, step: int, branch: str, detail: Detail) -> tuple[bytes, dict]:
    """One map of one step and branch as bytes, and what the page needs to read it.

    Bytes: for self-attention probabilities, first the flow between cells (float32 [head query_cell key_cell]); then scales
    (float32 [1 or 2, head, row]), then values (uint8 [head row value]). A row is a query; at cross-attention, a word.
    """
    values = one.block(step, branch, source.image, detail)
    query, keys = one.shape(detail)
    parts = []
    if one.site.kind == "cross":
        values = words_first(source, one, branch, values)
    elif one.view == "probs":
        parts.append(flow(values, query, keys, source.rows).astype("<f4").tobytes())
    encoding, scales, codes = encode(values)
    about = {
        "heads": list(one.heads) if one.heads is not None and one.keeps_heads(detail) else None,
        "count": values.shape[0], "query": query, "key": keys,
        "rows": values.shape[1], "width": values.shape[2],
    }  # fmt: skip
    parts += [bytes([1 if encoding == "sqrt" else 2, 0, 0, 0]), scales.tobytes(), codes.tobytes()]
    return b"".join(parts), about


def words_first(source: Source, one: Held, branch: str, values: np.ndarray) -> np.ndarray:
    """[head query column] -> [head column query]; the padding after the prompt is summed into one column."""
    tokens = source.tokens.get(branch)
    if one.columns is None and tokens is not None and len(tokens) < values.shape[-1]:
        count = len(tokens)
        padding = values[..., count:].sum(-1, keepdims=True)
        values = np.concatenate([values[..., :count], padding], -1)
    return np.ascontiguousarray(values.transpose(0, 2, 1))


def column_names(source: Source, one: Held, branch: str) -> list[str] | None:
    """Name of each text column of a map; None at self-attention."""
    if one.site.kind != "cross":
        return None
    count, tokens = one.map.tensor.shape[-1], source.tokens.get(branch)
    numbers = list(range(count)) if one.columns is None else list(one.columns[branch])
    if tokens is None:
        return [f"token {number}" for number in numbers]
    names = ["start", *tokens[1:-1], "end"]
    if one.columns is None and len(names) < count:
        return [*names, "padding"]
    return [names[number] if number < len(names) else f"padding {number}" for number in numbers]


def flow(values: np.ndarray, query: tuple[int, int], keys: tuple[int, int], rows: int) -> np.ndarray:
    """How much attention flows between cells: [head query_cell key_cell], mean over queries, summed over keys; cells row by row.

    values: head query key. query, keys: token rows and columns of the queries and of the keys. rows: rows of cells.
    """
    maps = rearrange(
        values, "head (qr qy qc qx) (kr ky kc kx) -> head (qr qc) (qy qx) (kr kc) (ky kx)",
        qr=rows, qc=2, kr=rows, kc=2, qy=query[0] // rows, ky=keys[0] // rows, qx=query[1] // 2, kx=keys[1] // 2,
    )  # fmt: skip
    return maps.mean(2).sum(3)
