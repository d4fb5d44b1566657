"""The smallest problem that shows a bias, and the lines that put it into a test."""

import ast
import inspect
import math
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estimator_lab import doors, estimators, families, loading
from estimator_lab.chain import Chain
from estimator_lab.conformance.suite import laws
from estimator_lab.errors import MeasurementError, NotConverged, TooLarge
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Callback, DropIn, Exact
from estimator_lab.families import Bernoulli, Categorical, Family
from estimator_lab.moments import Array
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import DRAWS, Seen, exactly, see

SHAPES = ((1,), (2,), (3,), (1, 1), (1, 2), (2, 1), (1, 1, 1))
"""Units of the layers that are tried."""

PROBLEMS = 168
"""Problems that are tried, at most: they share the false-alarm rate of drawn means."""

WIDTH = 79
"""Characters of a line, where they can be chosen."""

USER = "estimator_lab_user_"
"""What the modules of files that were named on the command line are called by."""


@dataclass(frozen=True)
class Witness:
    """A problem on which the mean of an estimator is not the gradient.

    Attributes:
        estimator: whose mean it is.
        problem: the smallest.
        site: where the bias is largest.
        truth: gradient there, flat.
        mean: of the estimate there; nan where it has none, or where replicates depend on each other.
        exact: whether that is its expectation, and no mean of draws.
    """

    estimator: Estimator
    problem: SmallProblem
    site: str
    truth: Array
    mean: Array
    exact: bool = True

    @property
    def code(self) -> str:
        """A test in Python that fails as long as the bias is there."""
        imports, name, made = _written(self.estimator)
        budget = 4096 if self.exact else 2 * DRAWS
        about = "the mean of the estimate" if self.exact else f"the mean of {DRAWS} estimates"
        told = f"the gradient at {self.site} is {_shown(self.truth)}, {about} {_shown(self.mean)}"
        call = f"    found = lab.diagnose({made}, on=problem, budget={budget})"
        given = []
        if len(call) > WIDTH and made != "estimator":
            given = _broken(f"    estimator = {made}")
            call = f"    found = lab.diagnose(estimator, on=problem, budget={budget})"
        lines = [
            "import estimator_lab as lab",
            *imports,
            "",
            "",
            f"def test_{name}_is_unbiased():",
            *textwrap.wrap(told, WIDTH, initial_indent="    # ", subsequent_indent="    # "),
            *_broken(f"    problem = lab.{self.problem!r}"),
            *given,
            call,
            '    assert found.verdict != "biased"',
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Witness against {self.estimator!r}: {self.problem!r}>"


def _broken(line: str) -> list[str]:
    """A line that ends with a call, on three lines where it is too long."""
    if len(line) <= WIDTH or not line.endswith(")"):
        return [line]
    head, _, rest = line.partition("(")
    return [f"{head}(", f"        {rest[:-1]}", "    )"]


def _shown(numbers: Array) -> str:
    return f"[{', '.join(f'{x:.4g}' for x in numbers)}]"


# ---------------------------------------------------------------------- in Python
def _written(estimator: Estimator) -> tuple[list[str], str, str]:
    """Lines that import what an expression needs, a name for a test, and the expression.

    What has no name that could be imported, such as a lambda in a function, is left to the reader, in a comment.
    """
    kind: Any = type(estimator)
    subject = estimator.function if isinstance(estimator, DropIn | Callback) else kind
    owner = getattr(subject, "__self__", None)  # of what autograd.Function.apply is bound to
    subject, tail = (owner, ".apply") if isinstance(owner, type) else (subject, "")
    title = getattr(subject, "__qualname__", type(subject).__qualname__)
    home, name = _home(getattr(subject, "__module__", None)), _snake(title.rpartition("<locals>.")[2])
    if kind in (DropIn, Callback):
        made, used = f"lab.{kind.__name__}({title}{tail}, unbiased={estimator.unbiased})", []
    else:
        made = repr(estimator)
        known = {*_known(), title}
        used = [n for n in dict.fromkeys(re.findall(r"\w+", made)) if n in known and n != title]
    if home and _is_call(made, kind, {"lab", title.partition(".")[0], *used}):
        own = f"from {_known().get(title, home[0])} import {title.partition('.')[0]}{home[1]}"
        return [own, *(f"from {_known()[n]} import {n}" for n in used)], name, made
    room = vars(sys.modules[subject.__module__]) if home else {}
    named = next((k for k, v in room.items() if v is estimator), None)
    if home and named:
        return [f"from {home[0]} import {named}{home[1]}"], _snake(named), named
    if (known_as := loading.origin(estimator)) and (place := _home(known_as.module)):
        return [f"from {place[0]} import {known_as.name}{place[1]}"], name, known_as.expression
    if home and title.isidentifier() and subject is kind and _makes(type(estimator), made):
        return [f"from {home[0]} import {title}{home[1]}"], name, f"{title}()"
    return [f"estimator = ...  # {made}, as it was made"], name, "estimator"


def _makes(kind: type, shown: str) -> bool:
    """Whether a class without arguments makes what has this repr; where it takes none, it makes no other."""
    try:
        return not inspect.signature(kind).parameters or repr(kind()) == shown
    except Exception:  # of the user's class
        return False


def _known() -> dict[str, str]:
    """Where names that a repr may hold are imported from."""
    rooms = {"estimator_lab.estimators": estimators, "estimator_lab.families": families}
    return {name: room for room, module in rooms.items() for name in module.__all__}


def _home(module: str | None) -> tuple[str, str] | None:
    """The module that a test would import, with a remark; None where there is none."""
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        stem = Path(file).stem if file else ""
        return (stem, "  # runs the script, unless that is under __main__") if stem.isidentifier() else None
    found = (module or "").removeprefix(USER)
    return (found, "") if found and all(map(str.isidentifier, found.split("."))) else None


def _is_call(made: str, kind: type, names: set[str]) -> bool:
    """Whether text is a call in Python that uses these names, with arguments that the type takes."""
    try:
        tree = ast.parse(made, mode="eval").body
        assert isinstance(tree, ast.Call)
        inspect.signature(kind).bind(*tree.args, **{k.arg or "": k.value for k in tree.keywords})
    except (SyntaxError, AssertionError, TypeError, ValueError):
        return False
    return all(n.id in names for n in ast.walk(tree) if isinstance(n, ast.Name))


def _snake(name: str) -> str:
    words = re.sub(r"\W+", "_", name).strip("_") or "it"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower()


# ---------------------------------------------------------------------- the search
def _problems(family: Family) -> Iterator[SmallProblem]:
    """From small to large: random numbers, then layers, then examples, then the degree of the loss."""
    every = [SmallProblem(u, d, n, family) for u in SHAPES for d in (1, 2, 3) for n in (1, 2)]
    yield from sorted(every, key=_size)


def _size(problem: SmallProblem) -> tuple[int, int, int, int]:
    return sum(problem.units) * problem.examples, len(problem.units), problem.examples, problem.degree


def smallest_witness(
    estimator: Estimator, *, families: Sequence[Family] | None = None, seconds: float = math.inf
) -> Witness | None:
    """The smallest problem that refutes an estimator's claim; None if none of those tried does.

    Problems have one to three units in one to three layers, one or two examples and a loss of degree one to three,
    Bernoulli units first. They are tried from small to large, so that the first whose mean is not the exact gradient
    is the smallest: by the number of units times examples, then by layers, examples and degree. Means are exact where
    the random numbers can be summed; else they are those of 16384 draws, and a bias is called one at a rate of 1e-6 for
    all problems together: a smaller problem may then have a bias that so many draws do not show. Equal estimators have
    equal witnesses.

    Args:
        estimator: any that does not declare a bias.
        families: laws of the units; by default the first three that it applies to, and five classes if three are among
            them; for `DropIn` and `Callback` Bernoulli.
        seconds: after which no further problem is tried.

    Cost: some 0.05 s for each problem tried, of 42 for every law.
    """
    estimator = doors.an_estimator(estimator, "smallest_witness(estimator)")
    if estimator.unbiased is False:
        return None
    end = time.monotonic() + seconds
    own = sorted(laws(estimator, families)[:3], key=lambda f: not isinstance(f, Bernoulli))
    if families is None and any(isinstance(f, Categorical) for f in own):
        own.append(Categorical(5))
    for family in own:
        for problem in _problems(family):
            if time.monotonic() > end:
                return None
            if found := _refuted(estimator, problem):
                return found
    return None


def _refuted(estimator: Estimator, problem: SmallProblem) -> Witness | None:
    ends = np.cumsum([problem.batch * math.prod(s.theta_shape) for s in problem.sites])[:-1]
    truth = exactly(Chain(problem, Exact(), ("unit",)), Exact())
    try:
        seen = see(problem, estimator)
        if not seen.minus(Seen.known(truth)).differs(PROBLEMS).any():
            return None
    except (TooLarge, NotConverged):
        return None
    except MeasurementError:  # there is no mean
        seen = Seen.known(np.full_like(truth, math.nan))
    parts = list(zip(problem.sites, np.split(truth, ends), np.split(seen.mean, ends), strict=True))
    site, target, mean = max(parts, key=lambda part: float(np.linalg.norm(part[2] - part[1])))
    return Witness(estimator, problem, site.name, target, mean, seen.batches is None)
