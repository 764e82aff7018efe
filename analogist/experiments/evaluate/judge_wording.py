"""What a judge is asked about a painted analogy, and on which scale it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

CRITERIA: Mapping[str, tuple[str, ...]] = {  # with the words that models, and the published wordings, use for them
    "preservation": ("preservation", "consistency"),
    "accuracy": ("accuracy",),
}
ASKED = (
    "The picture is a grid that states an analogy, A : A' :: B : B'. The first row shows A and A', the second B and B'. A was changed "
    "into A'. A method was to make the same change to B; B' is what it painted, and it may have failed. First say what the change from A "
    "to A' is, and which parts of it B' has, lacks or adds. Then rate B' twice, in whole numbers from {low} (worst) to {high} (best). "
    "accuracy: how closely the change from B to B' is the change from A to A': nothing missing, nothing added, in the right place, as "
    "strong. preservation: how well B' keeps everything of B that the change does not concern: identity, objects, layout. End with one "
    'JSON object: {{"accuracy": <number>, "preservation": <number>}}'
)
STRICTER = " Answer with that JSON object and nothing else."


@dataclass(frozen=True)
class Scale:
    """Whole numbers from low to high, as a benchmark's judge gives them."""

    low: int = 1
    high: int = 10

    def question(self) -> str:
        """What the judge is asked first."""
        return ASKED.format(low=self.low, high=self.high)

    def stricter(self) -> str:
        """What it is asked if its answer holds no scores."""
        return self.question() + STRICTER
