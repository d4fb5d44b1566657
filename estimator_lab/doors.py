"""What is given at the doors of the package, held against what they take."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.problem import Problem


def a_problem(given: object, call: str) -> Problem:
    """The problem that was given.

    Args:
        given: by a user.
        call: how the function is called, such as ``"measure(problem, estimator, replicates)"``.

    Raises:
        UsageError: it is none.
    """
    if isinstance(given, Problem):
        return given
    _refuse_class(given)
    if isinstance(given, nn.Module):
        told = f"{type(given).__name__} is a torch module and no Problem; wrap a module with lab.from_module"
    elif isinstance(given, Estimator):
        told = f"{given!r} is an estimator and no Problem; the order is {call}"
    elif isinstance(given, str):
        told = f"{given!r} is a text and no Problem; give an object, such as lab.problems.OneBit()"
    elif isinstance(given, list | tuple):
        told = f"found a {type(given).__name__} of {len(given)}, no Problem; give one at a time: {call}"
    else:
        told = f"found {type(given).__name__}, no Problem; give an object, such as lab.problems.OneBit()"
    raise UsageError(told)


def an_estimator(given: object, call: str, several: str = "") -> Estimator:
    """The estimator that was given.

    Args:
        given: by a user.
        call: how the function is called.
        several: what to use for a list of estimators.

    Raises:
        UsageError: it is none.
    """
    if isinstance(given, Estimator):
        return given
    _refuse_class(given)
    if isinstance(given, Problem):
        told = f"{given!r} is a problem and no estimator; the order is {call}"
    elif isinstance(given, list | tuple):
        told = f"found a {type(given).__name__} of {len(given)} and no estimator; {several or 'give one at a time'}"
    else:
        what = repr(given) if isinstance(given, str) else type(given).__name__
        told = f"{what} is no estimator; pass an object of it, such as lab.estimators.DisARM()"
    raise UsageError(told)


def estimators(given: object, call: str) -> list[Estimator]:
    """The list of estimators that was given."""
    return [an_estimator(e, call) for e in _listed(given, "estimators", call)]


def problems(given: object, call: str) -> list[Problem]:
    """The list of problems that was given."""
    return [a_problem(p, call) for p in _listed(given, "problems", call)]


def _listed(given: object, what: str, call: str) -> Iterable[Any]:
    if isinstance(given, str | Mapping | nn.Module) or not isinstance(given, Iterable):
        named = repr(given) if isinstance(given, str | Estimator | Problem) else type(given).__name__
        raise UsageError(f"give a list of {what}; found {named}: {call}")
    return given


def _refuse_class(given: object) -> None:
    if isinstance(given, type):
        raise UsageError(f"{given.__name__} is a class; pass an object of it, such as {given.__name__}()")


def numbers_by_key(given: object) -> Mapping[Any, Any]:
    """Gradients by key, or what has them as its ``mean``, such as a ``Truth``.

    Raises:
        UsageError: it is neither.
    """
    found = given if isinstance(given, Mapping) else getattr(given, "mean", None)
    if not isinstance(found, Mapping) or isinstance(given, Tensor):
        raise UsageError(f'a reference is a Truth, or gradients under ("weight", name); found {type(given).__name__}')
    return found
