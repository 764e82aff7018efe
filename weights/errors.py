"""The one error of this package."""


class WeightsError(ValueError):
    """A checkpoint that cannot be used as it is: says what was given, what is allowed and what to do."""
