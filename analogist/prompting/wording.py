"""The questions that a vision-language model is asked about the marked grid.

"published" is the question of the authors' script, word for word at its own settings (Gu et al. 2024, released code, MIT licence);
"json" asks for a JSON object, which can be read without guessing.
"""

from analogist.prompting.prompts import PromptError

TASK = (
    "Please help me with the image analogy task: take an image A and its transformation A', and provide any image B to produce an "
    "output B' that is analogous to A'. Or, more succinctly: A : A' :: B : B'."
)
PUBLISHED_ONE = TASK + " You should give me the most possible text prompt of image B' with no more than {words} words."
PUBLISHED_SEVERAL = (
    TASK
    + " You should give me {count} most possible text prompts of image B', each prompt should contain no more than {words} words. "
    "Please separate the prompts with comma and format your answer as follows: {form}"
)
JSON = (
    "The picture is a grid that states an analogy, A : A' :: B : B'. {rows} The black square at the bottom right is B', which is "
    "missing. Work out how A became A', apply the same change to B, and describe what B' shows: its subject and its look, as a caption "
    'would, without naming the grid, the letters or the arrows. Answer with one JSON object and nothing else: {{"prompts": [{form}]}}, '
    "holding {count}, best first, each of at most {words} words, in English."
)
STRICTER = (
    " Your answer begins with { and ends with }: no thoughts, no explanation, no apology, no markup. If you were shown no picture, "
    'answer {"prompts": []}.'
)
WORDINGS = ("published", "json")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
MAX_CANDIDATES = max(COUNTS)


def request(wording: str, *, candidates: int = 1, words: int | None = 5, pairs: int = 1) -> str:
    """The question in one of the WORDINGS. words None: no limit; the question then says 60.

    Raises PromptError for an unknown wording, or numbers outside 1..10 candidates and 1..60 words.
    """
    if wording not in WORDINGS:
        raise PromptError(f"wording {wording!r}: allowed are {', '.join(WORDINGS)}")
    check_numbers(candidates, words)
    limit = 60 if words is None else words
    if wording == "published":
        form = ", ".join(f"prompt{i + 1}" for i in range(candidates))
        text = (PUBLISHED_ONE if candidates == 1 else PUBLISHED_SEVERAL).format(
            words=limit, count=COUNTS.get(candidates), form=form
        )
        return (
            text
            if pairs == 1
            else f"{text} There are {pairs} example pairs, A1 and A1' to A{pairs} and A{pairs}', one in each row."
        )
    rows = "The first row shows A and A', the second B and B'."
    if pairs > 1:
        rows = (
            f"Its first {pairs} rows show examples of one and the same change, A1 and A1' to A{pairs} and A{pairs}'; "
            "the last row shows B and B'."
        )
    count = "one text" if candidates == 1 else f"{COUNTS[candidates]} different texts"
    return JSON.format(rows=rows, form=", ".join(['"..."'] * candidates), count=count, words=limit)


def stricter(*, candidates: int = 1, words: int | None = 5, pairs: int = 1) -> str:
    """The question after an answer without a prompt: "json" with stricter instructions. Raises as `request`."""
    return request("json", candidates=candidates, words=words, pairs=pairs) + STRICTER


def check_numbers(candidates: int, words: int | None) -> None:
    """Raises PromptError unless 1..10 candidates of 1..60 words (None: no limit) are asked for."""
    if isinstance(candidates, bool) or not isinstance(candidates, int) or not 1 <= candidates <= MAX_CANDIDATES:
        raise PromptError(f"candidates {candidates!r}: a whole number in 1..{MAX_CANDIDATES} is allowed")
    if words is not None and (isinstance(words, bool) or not isinstance(words, int) or not 1 <= words <= 60):
        raise PromptError(f"words {words!r}: a whole number in 1..60 is allowed, or None for no limit")
