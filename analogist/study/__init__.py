"""The attention tools under their paths of version 0.1, and activations as data: `collect` and `load`.

`analogist.study.viz` is the same module as `analogist.attention.look.viz` (see names.py). New code imports from `analogist.attention`; in
`analogist.experiments` a study is an ablation.
"""

# ruff: noqa: F401

from typing import TYPE_CHECKING

from analogist.study.collected import collect as collect
from analogist.study.collected import load as load

if TYPE_CHECKING:  # for editors
    from analogist.attention import tap as tap
    from analogist.attention.capture import capture as capture
    from analogist.attention.capture import keep as keep
    from analogist.attention.capture import maps as maps
    from analogist.attention.capture import plan as plan
    from analogist.attention.capture import reduce as reduce
    from analogist.attention.capture import spill as spill
    from analogist.attention.capture import storage as storage
    from analogist.attention.edit import bind as bind
    from analogist.attention.edit import edits as edits
    from analogist.attention.edit import freeu as freeu
    from analogist.attention.edit import patch as patch
    from analogist.attention.edit import ready_edit as ready
    from analogist.attention.look import colours as colours
    from analogist.attention.look import drawing as draw
    from analogist.attention.look import viz as viz
    from analogist.attention.measure import correspond as correspond
    from analogist.attention.measure import flow as flow
    from analogist.attention.measure import heat as heat
    from analogist.attention.measure import measures as measures
    from analogist.attention.measure import site_effects as effects
    from analogist.attention.measure import sweep as sweep
    from analogist.attention.select import points as points
    from analogist.attention.select import regions as regions
    from analogist.attention.select import run_shape as run
    from analogist.attention.select import word_columns as words
    from analogist.run import known_pictures as known
