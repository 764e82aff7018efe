"""A researcher's own metrics and edits in a study: found by `module:function`, named, and hashed into the job keys."""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from analogist.experiments.design.function_keys import fingerprint
from analogist.experiments.design.levels import StudyError

if TYPE_CHECKING:
    from analogist.attention.capture.capture import Capture


@dataclass(frozen=True, eq=False)
class OwnMetric:
    """A function metric(b_prime, truth, example) -> number; one with `capture` gets the captured Maps as a fourth argument.

    b_prime, truth: pictures of one size without border; truth is None for an input without one. example: the study's Input.
    key: of everything that the function does. text: the first line of its docstring. better: its attribute `better`, "lower", "higher"
    or "" (neither). capture: its attribute `capture`, a Capture or what stands for one in a call of the model.
    """

    name: str
    key: str
    function: Callable = field(repr=False)
    text: str = ""
    better: str = ""
    capture: "Capture | str | Sequence[Capture | str] | None" = None

    @classmethod
    def of(cls, function: Callable) -> "OwnMetric":
        """The metric of a function. Raises StudyError where it has no name, takes other arguments, or cannot be hashed."""
        name = getattr(function, "__name__", "<none>")
        if not callable(function) or not name.isidentifier():
            raise StudyError(f"metric {function!r}: give a function with a name, def my_metric(b_prime, truth, example): ...")
        capture, better = getattr(function, "capture", None), getattr(function, "better", "")
        if better not in ("", "lower", "higher"):
            raise StudyError(f'metric {name}: better {better!r}; allowed are "lower", "higher" and ""')
        given = ["b_prime", "truth", "example", *(["maps"] if capture is not None else [])]
        try:
            inspect.signature(function).bind(*given)
        except (TypeError, ValueError) as error:
            why = "since it declares a capture" if capture is not None else "maps too where it has an attribute `capture`"
            raise StudyError(f"metric {name}: it is called with ({', '.join(given)}), {why}; {error}") from error
        what = f"metric {name}"
        key = fingerprint([fingerprint(function, what), better, fingerprint(capture, f"the capture of {what}")], what)
        text = (inspect.getdoc(function) or "a metric of this study").splitlines()[0].rstrip(".")
        return cls(name, key, function, text, better, capture)

    def measure(self, b_prime: Image.Image, truth: Image.Image | None, example: object, maps: object = None) -> float:
        """The value. Raises StudyError where the function fails or returns no finite number."""
        extra = () if self.capture is None else (maps,)
        try:
            value = self.function(b_prime, truth, example, *extra)
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise StudyError(f"metric {self.name} failed: {type(error).__name__}: {said}") from error
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise StudyError(f"metric {self.name} returned {type(value).__name__}; it must return a number") from error
        if not math.isfinite(number):
            raise StudyError(f"metric {self.name} returned {number}; it must return a finite number")
        return number


@dataclass(frozen=True)
class OwnEdit:
    """A level of the factor `edit`: what model(..., edit=) takes. Two are equal where they do the same, whatever their labels."""

    key: str
    label: str = field(compare=False)
    edits: Mapping | None = field(compare=False, repr=False)

    @classmethod
    def of(cls, label: str, given: object, folder: Path | None = None) -> "OwnEdit":
        """A level from what a study lists. given: None, or selector -> function(s); each may be the text "module:function".

        Raises StudyError where it is no such thing or cannot be hashed.
        """
        if given is None:
            return cls("", label, None)
        if isinstance(given, str):
            given = found_at(given, folder)
        if not isinstance(given, Mapping) or not given:
            raise StudyError(f'edit {label!r}: {given!r}; give None or {{"up.1.*.self:probs": function}}')
        edits = {}
        for selector, functions in given.items():
            listed = functions if isinstance(functions, list | tuple) else [functions]
            edits[selector] = [found_at(one, folder) if isinstance(one, str) else one for one in listed]
            if not all(callable(one) for one in edits[selector]):
                raise StudyError(f"edit {label!r} at {selector!r}: {functions!r} is no function (tensor, at) -> tensor")
        walked = [(selector, [fingerprint(one, f"edit {label!r}") for one in functions]) for selector, functions in edits.items()]
        return cls(fingerprint(walked, f"edit {label!r}"), label, edits)

    def described(self) -> dict[str, list[str]]:
        """Selectors and what acts there, in words, for records."""
        return {} if self.edits is None else {selector: [_said(one) for one in given] for selector, given in self.edits.items()}


def is_place(text: object) -> bool:
    """Whether a text has the form "module:function"."""
    if not isinstance(text, str):
        return False
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def found_at(place: str, folder: Path | None = None) -> object:
    """What stands at "module:function". The module is looked for in `folder` (None: the current one) and where Python looks.

    Raises StudyError where it is not there.
    """
    if not is_place(place):
        raise StudyError(f'{place!r}: give "module:function", such as "my_metrics:warmth"')
    name, _, path = place.partition(":")
    folder = (Path.cwd() if folder is None else folder).resolve()
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        found: object = importlib.import_module(name)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise StudyError(f"{place}: the module {name} cannot be imported from {folder.name}/: {type(error).__name__}: {said}") from error
    finally:
        sys.path.remove(str(folder))
    there, loaded = folder.joinpath(*name.split(".")).with_suffix(".py"), getattr(found, "__file__", None)
    if there.is_file() and loaded is not None and Path(loaded).resolve() != there:
        raise StudyError(f"{place}: a module {name} was imported from elsewhere before; give yours another name")
    for part in path.split("."):
        if not hasattr(found, part):
            raise StudyError(f"{place}: {name} has no {path}")
        found = getattr(found, part)
    return found


def own_metric(given: object, folder: Path | None = None) -> "str | OwnMetric":
    """A metric as a study lists it: a name stays, a function or "module:function" becomes an OwnMetric."""
    if isinstance(given, OwnMetric) or isinstance(given, str) and ":" not in given:
        return given
    return OwnMetric.of(cast(Callable, found_at(given, folder) if isinstance(given, str) else given))


def metric_name(given: object) -> str:
    """The name of a metric in whatever form it is listed."""
    if isinstance(given, str):
        return given.rpartition(":")[2].rpartition(".")[2]
    return given.name if isinstance(given, OwnMetric) else getattr(given, "__name__", repr(given))


def _said(function: object) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return repr(function) if name is None or module is None else f"{module}:{name}"
