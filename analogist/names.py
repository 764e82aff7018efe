"""Names: public ones that load on first use, and the module paths of version 0.1, which stay importable.

An old path is not a copy: `analogist.study.measures` is the very module `analogist.attention.measure.measures`.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Room -> the modules of version 0.1 that are now in it; `old:new` where the file has another name now.
_ROOMS = {
    "disk": "files:writing cache:cache_folder",
    "grid": "fit layout marks pictures",
    "checkpoints": "devices hub hub_files loras text:text_encoder text_xl:text_encoder_xl tokenizer_files verify",
    "run": "arguments memory output record result sampling seeds tasks cli.layers study.known:known_pictures",
    "attention": "study.tap",
    "attention.select": "study.points study.regions study.run:run_shape study.words:word_columns",
    "attention.capture": "study.capture study.keep study.maps study.plan study.reduce study.spill study.storage",
    "attention.edit": "study.bind study.edits study.freeu study.patch study.ready:ready_edit",
    "attention.measure": "study.correspond study.effects:site_effects study.flow study.heat study.measures study.sweep",
    "attention.look": "study.colours study.draw:drawing study.viz",
    "explore": "explore.plan:page_plan explore.reduce:coarse",
    "experiments.design": (
        "experiments.claims experiments.factors experiments.inputs experiments.levels experiments.ready:ready_studies "
        "experiments.space experiments.study"
    ),
    "experiments.score": "experiments.distances experiments.metrics experiments.networks",
    "experiments.execute": (
        "experiments.ablation experiments.cluster experiments.dry_run experiments.engine experiments.histories experiments.jobs "
        "experiments.merge experiments.store experiments.table experiments.worker"
    ),
    "experiments.decide": "experiments.effects:level_effects experiments.statistics",
    "experiments.report": "experiments.outputs experiments.plots experiments.sheet",
    "experiments.evaluate": "experiments.data experiments.evaluation experiments.evaluation_report experiments.fetch experiments.published",
    "weights": "weights.families:model_families",
}

MOVED: dict[str, str] = {}  # old module -> new module
for _room, _modules in _ROOMS.items():
    for _module in _modules.split():
        _old, _, _new = _module.partition(":")
        MOVED[f"analogist.{_old}"] = f"analogist.{_room}.{_new or _old.rpartition('.')[2]}"


class _MovedModules(MetaPathFinder, Loader):
    """Finds an old path of MOVED and hands out the module at the new one."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__  # the import system sets the old path's in its place
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # it has run under its new path already


def keep_old_paths() -> None:
    """Makes the old paths importable; called once, by the package."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


def load_on_use(package: str, places: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names are imported on first use.

    So importing a package costs nothing, and a module in it does not import its neighbours. places: name -> module that defines it.
    """

    def get(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(places[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(set(vars(sys.modules[package])) | set(places))

    return get, names
