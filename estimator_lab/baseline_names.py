"""Names by which the command line finds an estimator and a problem again: given, and resolved."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from estimator_lab.errors import LabError, UsageError
from estimator_lab.loading import load_estimator, load_problems


def estimator_name(estimator: object, root: Path, near: ModuleType | None = None) -> str:
    """A target that ``load_estimator`` makes an equal estimator of; empty where there is none.

    Its repr, if that names an entry of the table; else the global that holds it, or the repr, in the module of its
    class, in one that is near, or in any below the root that was imported. A module below the root is named by its
    file, relative to the root. Equal are objects that say so, and those of a class without ``==`` whose attributes are.

    Args:
        estimator: what is to be named.
        root: of the project.
        near: where it is used.
    """
    return _name(estimator, load_estimator, root, near)


def problem_name(problem: object, root: Path, near: ModuleType | None = None) -> str:
    """The same for a problem and ``load_problems``."""
    return _name(problem, lambda target: load_problems(target)[0], root, near)


def located(target: str, path: Path) -> str:
    """A target whose file is found: from the working directory, or else from the nearest folder above a baseline.

    Args:
        target: as it stands in the baseline.
        path: of the baseline.

    Raises:
        UsageError: the file is in neither.
    """
    place, colon, name = target.partition(":")
    if "(" in place or not place.endswith(".py") or Path(place).is_file():
        return target
    for folder in path.resolve().parents:
        if (folder / place).is_file():
            return f"{folder / place}{colon}{name}"
    raise UsageError(
        f"{path} names {target}, and there is no file {place} in the working directory or beside a folder of the "
        "baseline; put it there, or save the baseline again"
    )


def _name(thing: object, load: Callable[[str], object], root: Path, near: ModuleType | None) -> str:
    if _loads(repr(thing), load, thing):
        return repr(thing)
    first = [m for m in (sys.modules.get(type(thing).__module__), near) if m is not None]
    others = sorted((m for m in list(sys.modules.values()) if _own(m, root)), key=lambda m: m.__name__)
    for module in (*first, *others):
        if module.__name__ == "__main__":
            continue
        held = [name for name, value in vars(module).items() if value is thing and not name.startswith("_")]
        for name in (*held, *[repr(thing)] * (module in first)):
            if _loads(f"{module.__name__}:{name}", load, thing):
                place = Path(module.__file__ or "").relative_to(root).as_posix() if _own(module, root) else ""
                return f"{place or module.__name__}:{name}"
    return ""


def _own(module: ModuleType, root: Path) -> bool:
    """Whether a module is a file of the project."""
    file = Path(getattr(module, "__file__", None) or "")
    return file.suffix == ".py" and file.is_relative_to(root) and "site-packages" not in file.parts


def _loads(target: str, load: Callable[[str], object], thing: object) -> bool:
    """Whether a target gives an equal object; one that cannot be made, or compared, as with tensors, is not."""
    try:
        found = load(target)
        if found is thing or type(found) is not type(thing):
            return found is thing
        return bool(vars(found) == vars(thing)) if type(thing).__eq__ is object.__eq__ else bool(found == thing)
    except (LabError, RuntimeError, TypeError, ValueError):
        return False
