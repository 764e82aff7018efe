"""Layer arguments of the command line: none | 3-10 | 3,5,8 | site patterns, or a mix joined by commas."""

import re

HELP = "none, layer numbers with both ends included (3-10; 3,5,8) or site patterns ('up.*'), joined by commas"


def parse_layers(text: str, flag: str):
    """A Placement, or None for "none". Ranges include both ends here (3-10 is Placement.layers(3, 11) in Python)."""
    from analogist.models.placement import Placement

    if text.strip().lower() == "none":
        return None
    numbers: list[int] = []
    patterns: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        if span:
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise ValueError(f"{flag} {part}: the range runs backwards; write {last}-{first}")
            if last > 999:
                raise ValueError(f"{flag} {part}: layers are numbered 0..15 in Stable Diffusion")
            numbers += range(first, last + 1)
        elif part.isdigit():
            numbers.append(int(part))
        elif re.fullmatch(r"[\w.*?\[\]!-]+", part) and not re.fullmatch(r"[\d-]+", part):
            patterns.append(part)
        else:
            raise ValueError(f"{flag} {text!r}: allowed are {HELP}")
    if not numbers:
        return Placement(*patterns)
    by_number = Placement.layers(numbers)
    return by_number | Placement(*patterns) if patterns else by_number
