"""Experiments: ablation studies and the published evaluation, from design to report."""

from typing import TYPE_CHECKING

from analogist.names import load_on_use

if TYPE_CHECKING:
    from analogist.experiments.design.function_keys import named
    from analogist.experiments.design.study import Hypothesis, Study
    from analogist.experiments.execute.ablation import ablate

__all__ = ["Hypothesis", "Study", "ablate", "named"]

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these
    __getattr__, __dir__ = load_on_use(
        __name__,
        {
            "Study": "analogist.experiments.design.study",
            "Hypothesis": "analogist.experiments.design.study",
            "ablate": "analogist.experiments.execute.ablation",
            "named": "analogist.experiments.design.function_keys",
        },
    )
