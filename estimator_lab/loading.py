"""From what a user types to an object: table names, ``file.py:Name``, ``package.module:Name``."""

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from estimator_lab.errors import LabError, UsageError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler


class ImportFailed(UsageError):
    """A user's file raised while it was imported; the cause is the user's own exception."""


@dataclass(frozen=True)
class Origin:
    """How what was loaded is made in Python.

    Attributes:
        made: the object.
        module: that holds what makes it.
        name: of that in the module.
        expression: that makes it.
    """

    made: object
    module: str
    name: str
    expression: str


_ORIGINS: dict[int, Origin] = {}


def origin(made: object) -> Origin | None:
    """How an object that was loaded is made; None for any other."""
    return _ORIGINS.get(id(made))


def load_estimator(target: str) -> Estimator | GradientSampler:
    """The estimator that a target names.

    Args:
        target: a name of the table, ``file.py``, ``file.py:Name`` or ``package.module:Name``; a name may carry keyword
            arguments, as in ``Rebar(temperature=0.1)``, and may be that of a function without arguments.

    Raises:
        UsageError: unknown name, no estimator or several in a file, or arguments that do not fit.
        ImportFailed: the file raised while it was imported.
    """
    from estimator_lab import estimators

    table = {name: getattr(estimators, name) for name in estimators.__all__ if name != "ESTIMATORS"}
    found = _load(target, table, (Estimator, GradientSampler), "estimator", "estimators")
    assert isinstance(found, Estimator | GradientSampler)
    return found


def load_problems(target: str) -> list[Problem]:
    """The problems that a target names: ``toys``, ``networks``, or one as for estimators."""
    from estimator_lab import problems

    tables = {"toys": problems.TOYS, "networks": problems.NETWORKS}
    if target.lower() in tables:
        return list(tables[target.lower()])
    table = {name: getattr(problems, name) for name in problems.__all__ if name not in ("TOYS", "NETWORKS")}
    found = _load(target, table, (Problem,), "problem", "problems")
    assert isinstance(found, Problem)
    return [found]


def _load(target: str, table: Mapping[str, Any], kinds: tuple[type, ...], word: str, plural: str) -> object:
    place, _, name = target.partition(":") if "(" not in target.partition(":")[0] else ("", "", target)
    if not name and not place.endswith(".py"):
        place, name = "", place
    name, arguments = _call(name, target)
    if not place:
        known = {key.lower(): key for key in table}
        if name.lower() not in known:
            near = [known[k] for k in difflib.get_close_matches(name.lower(), known, 3, 0.5)]
            hint = f"did you mean {' or '.join(near)}?" if near else f"see estimator-lab list {plural}"
            raise UsageError(f"no {word} is called {name!r}; {hint} (your own goes by file.py:Name)")
        return _make(table[known[name.lower()]], arguments, target)
    module = _module(place)
    if name:
        if not hasattr(module, name):
            raise UsageError(
                f"{place} has no {name!r}; it has {_names(_candidates(module, kinds) | _functions(module))}"
            )
        found = getattr(module, name)
        if inspect.isfunction(found):
            if inspect.signature(found).parameters:
                raise UsageError(
                    f"{target} is no {word}, but {found.__name__}{inspect.signature(found)}; "
                    "a function must take no arguments"
                )
            made = _called(found, target)
            _ORIGINS[id(made)] = Origin(made, found.__module__, found.__name__, f"{found.__name__}()")
            found = made
        elif not inspect.isclass(found):
            _ORIGINS[id(found)] = Origin(found, module.__name__, name, name)
        if not _fits(found, kinds):
            raise UsageError(f"{target} is no {word}: derive it from estimator_lab.{kinds[0].__name__}")
        return _make(found, arguments, target)
    found = _candidates(module, kinds)
    if not found and (makers := _functions(module)):
        raise UsageError(
            f"{place} holds no {word}, but functions without arguments ({_names(makers)}); name the one that makes it, "
            f"as in {place}:{next(iter(makers))}"
        )
    if len(found) != 1:
        problem = f"holds no {word}" if not found else f"holds {len(found)} {plural} ({_names(found)})"
        remedy = (
            f"derive one from estimator_lab.{kinds[0].__name__}"
            if not found
            else f"name one, as in {place}:{next(iter(found))}"
        )
        raise UsageError(f"{place} {problem}; {remedy}")
    return _make(next(iter(found.values())), arguments, target)


@dataclass(frozen=True)
class _Arguments:
    """Literal arguments of a call."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


def _call(text: str, target: str) -> tuple[str, _Arguments]:
    """A name with literal arguments."""
    if "(" not in text:
        return text, _Arguments()
    try:
        call = ast.parse(text, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        named = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}
        return call.func.id, _Arguments(tuple(map(ast.literal_eval, call.args)), named)
    except (SyntaxError, ValueError):
        raise UsageError(f"cannot read {target!r}; write Name(key=value, ...) with plain numbers and strings") from None


def _make(found: object, arguments: _Arguments, target: str) -> object:
    if not inspect.isclass(found):
        if arguments != _Arguments():
            raise UsageError(f"{target}: an object takes no arguments; name its class")
        return found
    try:
        inspect.signature(found).bind(*arguments.positional, **arguments.named)
    except TypeError as error:
        signature = str(inspect.signature(found)).removesuffix(" -> None")
        raise UsageError(f"{target}: {error}; write it as {found.__name__}{signature}, with values") from None
    made = _called(found, target, *arguments.positional, **arguments.named)
    shown = [*map(repr, arguments.positional), *(f"{k}={v!r}" for k, v in arguments.named.items())]
    _ORIGINS[id(made)] = Origin(made, found.__module__, found.__name__, f"{found.__name__}({', '.join(shown)})")
    return made


def _called(make: Callable[..., object], target: str, /, *positional: Any, **named: Any) -> object:
    """What a user's class or function makes."""
    try:
        return make(*positional, **named)
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"{target} cannot be made: {in_a_line(error)}; mend its arguments or its code") from error


def _fits(found: object, kinds: tuple[type, ...]) -> bool:
    if inspect.isclass(found):
        return issubclass(found, kinds) and not inspect.isabstract(found)
    return isinstance(found, kinds)


def _candidates(module: ModuleType, kinds: tuple[type, ...]) -> dict[str, object]:
    """Public classes and objects that fit, of the module's own or, in a package, of its modules."""
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and _fits(v, kinds)}
    return {k: v for k, v in own.items() if not inspect.isclass(v) or _owns(module, v)}


def _functions(module: ModuleType) -> dict[str, object]:
    """Public functions of the module's own, or of its modules, that take no arguments."""
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and inspect.isfunction(v)}
    return {k: v for k, v in own.items() if _owns(module, v) and not inspect.signature(v).parameters}


def _owns(module: ModuleType, made: Any) -> bool:
    """Whether a class or function was written in the module, or in one of the package that it is."""
    return f"{made.__module__}.".startswith(f"{module.__name__}.")


def _names(found: Mapping[str, object]) -> str:
    return ", ".join(found) or "nothing that fits"


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.insert(0, os.getcwd())  # as `python -m` does; a script's own folder is that of the script
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name and (place == error.name or place.startswith(f"{error.name}.")):
                raise UsageError(
                    f"there is no module {place!r}; install it, go to the folder that holds it, or name a file: "
                    "path/to/file.py:Name"
                ) from None
            raise ImportFailed(f"{place} failed to import on {in_a_line(error)}; mend it there") from error
        except (Exception, SystemExit) as error:
            raise ImportFailed(f"{place} failed to import on {in_a_line(error)}; mend it there") from error
    path = Path(place)
    if not path.is_file():
        raise UsageError(f"there is no file {place}")
    folder, dotted = _place(path.resolve())
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(dotted) if dotted else _executed(path)
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"{place} failed to import on {in_a_line(error)}; mend it there") from error
    finally:
        sys.path.remove(str(folder))


def _place(path: Path) -> tuple[Path, str]:
    """The folder that a file is imported from, and its dotted name if it belongs to a package.

    By it the file may import what is beside it as the package does. No name where Python finds another package by it.
    """
    names, folder = [path.stem] * (path.stem != "__init__"), path.parent
    while (folder / "__init__.py").is_file():
        names, folder = [folder.name, *names], folder.parent
    if folder == path.parent or "." in path.stem:  # which an import takes for that of a package
        return path.parent, ""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.find_spec(names[0])
    except (ImportError, ValueError):
        spec = None
    finally:
        sys.path.remove(str(folder))
    same = spec is not None and Path(spec.origin or "").resolve() == folder / names[0] / "__init__.py"
    return (folder, ".".join(names)) if same else (path.parent, "")


def _executed(path: Path) -> ModuleType:
    """A file that belongs to no package, as a module of its own."""
    name = f"estimator_lab_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
