"""The pytest plugin: a fixture that measures, compares and holds against baselines, and one false-alarm rate for a run.

Nothing heavy is imported until a test uses the fixture. A run that does not use it is as if the plugin were not there.

How the rate is shared: ``alpha`` of the whole run (1e-4 by default) is divided equally by the tests that ask for the
fixture, counted when pytest has collected and deselected; the k-th statistical call of a test gets ``6 / (pi k)^2`` of
its test's part, and the parts of all calls add up to it, however many there are. Every process of pytest-xdist collects
the same tests, so that shares need no messages. Tests that are run again go on counting. By the union bound the chance
that any test of the run fails although nothing changed is at most ``alpha``, whatever the tests have in common.
"""

import json
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from estimator_lab.baseline_check import Comparison
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.estimator import Estimator
    from estimator_lab.problem import Problem
    from estimator_lab.record import Record
    from estimator_lab.sampler import GradientSampler

FIXTURE = "estimator_lab"
ALPHA = "1e-4"
MARK = "estimator_lab"
"""Name of the user properties by which entries of the ledger reach the process that prints it."""

SHOWN = 20
"""Sound calls that the ledger names, unless pytest is told to be verbose."""


# ---------------------------------------------------------------------- the ledger
@dataclass(frozen=True)
class Entry:
    """One statistical call: its share of the false-alarm rate, and what came out.

    Attributes:
        test: node id.
        call: how many of its statistical calls this was, from 1.
        what: what was done.
        rate: its share.
        result: "sound", "violated", "inconclusive" or "written".
        tests: how many tests share the rate of the run.
    """

    test: str
    call: int
    what: str
    rate: float
    result: str
    tests: int


def share(alpha: float, tests: int, call: int) -> float:
    """Rate of the k-th statistical call of one of so many tests: `alpha / tests * 6 / (pi k)^2`; all sum to alpha."""
    return alpha / tests * 6 / (math.pi * call) ** 2


@dataclass(eq=False)
class Ledger:
    """What a run may spend, and what it spent.

    Attributes:
        alpha: chance of a false alarm of the whole run.
        seed: that all seeds of the run derive from.
        tests: how many share alpha.
        counted: their node ids.
        calls: statistical calls made so far, by node id.
        entries: spent.
    """

    alpha: float
    seed: int
    tests: int = 0
    counted: frozenset[str] = frozenset()
    calls: dict[str, int] = field(default_factory=dict)
    entries: set[Entry] = field(default_factory=set)

    def grant(self, test: str) -> tuple[int, float]:
        """Number and rate of the next statistical call of a test."""
        if test not in self.counted:
            raise pytest.UsageError(
                f"{test} was not counted when the false-alarm rate was shared; ask for the fixture {FIXTURE!r} as an "
                "argument of the test or of a fixture, not by getfixturevalue"
            )
        call = self.calls[test] = self.calls.get(test, 0) + 1
        return call, share(self.alpha, self.tests, call)

    def lines(self, all_of_them: bool) -> list[str]:
        """The ledger as text; of many sound calls only their number, unless all are asked for."""
        entries = sorted(self.entries, key=lambda e: (e.test, e.call))
        sound = [e for e in entries if e.result == "sound"]
        few = all_of_them or len(sound) <= SHOWN
        rows = [(f"{e.rate:.2g}", e.result, e.test, e.what) for e in entries if few or e.result != "sound"]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join([*(v.ljust(w) for v, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        if not few:
            lines.append(f"{sum(e.rate for e in sound):.2g}  sound  {len(sound)} calls (-v shows them)")
        tests = max(e.tests for e in entries)
        return [
            *lines,
            f"at most {self.alpha:.2g}: chance that any of {tests} test{'s' * (tests != 1)} fails although nothing "
            f"changed; spent {sum(e.rate for e in entries):.2g}",
            f"replay with --estimator-lab-seed={self.seed}",
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects the entries, also those of workers, whose reports pass here with their properties."""
        if report.when == "teardown":
            self.entries |= {Entry(**json.loads(str(value))) for name, value in report.user_properties if name == MARK}


_LEDGER = pytest.StashKey[Ledger]()


# ---------------------------------------------------------------------- hooks
def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings."""
    group = parser.getgroup("estimator-lab", "quality of gradient estimators")
    group.addoption(
        "--estimator-lab-seed", type=int, metavar="N", help="replay the draws of a run (default: another seed each run)"
    )
    group.addoption("--estimator-lab-alpha", type=float, metavar="A", help="chance that the whole run fails by chance")
    group.addoption("--estimator-lab-update", action="store_true", help="write baselines and compare with none")
    group.addoption("--estimator-lab-strict", action="store_true", help="what is inconclusive fails")
    parser.addini("estimator_lab_alpha", "chance that a whole run fails although nothing changed", default=ALPHA)
    parser.addini("estimator_lab_baselines", "folder of the baselines, from the root of the tests", default="baselines")


def pytest_configure(config: pytest.Config) -> None:
    """Draws the seed of the run; a worker of pytest-xdist has that of the process that started it."""
    given = config.getoption("--estimator-lab-alpha")
    text = config.getini("estimator_lab_alpha") if given is None else given
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < 1:
        raise pytest.UsageError(f"estimator_lab_alpha is a chance between 0 and 1; found {text!r}")
    seed = config.getoption("--estimator-lab-seed")
    if seed is None:
        seed = getattr(config, "workerinput", {}).get(MARK, secrets.randbits(32))
    config.stash[_LEDGER] = Ledger(alpha, seed)
    config.pluginmanager.register(config.stash[_LEDGER], "estimator-lab-ledger")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hands the seed to a worker of pytest-xdist."""
    node.workerinput[MARK] = node.config.stash[_LEDGER].seed


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Counts the tests that share the rate."""
    ledger = session.config.stash[_LEDGER]
    ledger.counted = frozenset(i.nodeid for i in session.items if FIXTURE in getattr(i, "fixturenames", ()))
    ledger.tests = len(ledger.counted)


@pytest.fixture
def estimator_lab(request: pytest.FixtureRequest) -> Iterator["Lab"]:
    """Measures, compares and holds gradient estimators against baselines, within one false-alarm rate for the run."""
    lab = Lab(request)
    yield lab
    for entry in lab.entries:
        request.node.user_properties.append((MARK, json.dumps(asdict(entry))))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the ledger where anything was spent."""
    ledger = config.stash[_LEDGER]
    if ledger.entries:
        terminalreporter.section("estimator-lab")
        for line in ledger.lines(config.getoption("verbose") > 0):
            terminalreporter.line(line)


# ---------------------------------------------------------------------- the fixture
class Lab:
    """What the fixture ``estimator_lab`` offers.

    Attributes:
        seed: of this run; draws derive from it, the test and the number of the call.
        strict: whether what is inconclusive fails.
        update: whether baselines are written instead of compared with.
        folder: where baselines are.
        entries: what this test spent.
    """

    def __init__(self, request: pytest.FixtureRequest):
        config = request.config
        self._ledger = config.stash[_LEDGER]
        self._test = request.node.nodeid
        self.seed = self._ledger.seed
        self.strict = bool(config.getoption("--estimator-lab-strict"))
        self.update = bool(config.getoption("--estimator-lab-update"))
        self.folder = Path(config.rootpath, config.getini("estimator_lab_baselines"))
        self.entries: list[Entry] = []

    def measure(
        self, estimator: "Estimator", problem: "Problem", budget: int = 4096, wrt: tuple[str, ...] = ("unit", "weight")
    ) -> "Record":
        """Moments of so many draws, as ``lab.measure`` gives them; no test, and nothing spent."""
        from estimator_lab.measurement import measure

        return measure(problem, estimator, budget, self._seed(0), wrt)

    def diagnose(
        self, estimator: "Estimator | GradientSampler", on: "Problem | Sequence[Problem] | None" = None, **options: Any
    ) -> "Diagnosis":
        """Holds an estimator to its claim, as ``lab.diagnose`` does, at this call's share of the rate.

        Args:
            estimator: what is measured.
            on: problems; by default all toys that its families allow.
            **options: those of ``lab.diagnose``, but for seed and alpha.

        Fails the test where the claim to be unbiased is violated; with ``--estimator-lab-strict`` also where that is
        inconclusive.
        """
        from estimator_lab.study import diagnose

        call, rate = self._ledger.grant(self._test)
        found = diagnose(estimator, on, seed=self._seed(call), alpha=rate, **options)
        self._judge(call, rate, f"diagnose {estimator.label}", found.status, found.summary())
        return found

    def compare(
        self, estimators: "Sequence[Estimator]", on: "Problem | Sequence[Problem] | None" = None, **options: Any
    ) -> "Diagnosis":
        """Several estimators on the same problems, as ``lab.compare``; fails where any claim is violated."""
        from estimator_lab.study import compare

        call, rate = self._ledger.grant(self._test)
        found = compare(estimators, on, seed=self._seed(call), alpha=rate, **options)
        self._judge(call, rate, f"compare {len(estimators)} estimators", found.status, found.summary())
        return found

    def hold(
        self,
        estimator: "Estimator | GradientSampler",
        on: "Problem | None" = None,
        *,
        baseline: "str | Path | None" = None,
        budget: "int | None" = None,
        margin: float = 0.1,
        increase: float = 0.25,
        slower: float | None = None,
    ) -> "Comparison | None":
        """Fails if the estimator got worse than its baseline; with ``--estimator-lab-update`` writes it instead.

        Args:
            estimator: as it is now.
            on: the problem.
            baseline: its file, from the folder of the ini option ``estimator_lab_baselines``; by default named after
                estimator and problem.
            budget: draws of a stage at most; of a baseline that is written, 16 times as many.
            margin: relative shift of the mean that a baseline, when written, plans to find.
            increase: share by which a variance rises that it plans to find.
            slower: share by which the time of a draw may rise, on the machine of the baseline; by default not judged.

        Returns:
            What was compared; None where the baseline was written.
        """
        from estimator_lab.baseline import RATIO, Baseline, path_for
        from estimator_lab.baseline_check import check

        path = path_for(estimator, on, self.folder) if baseline is None else self.folder / baseline
        if self.update:
            most = budget and RATIO * budget
            new = Baseline.measure(estimator, on, budget=most, margin=margin, increase=increase)
            if path.exists():
                new = Baseline.load(path).succeeded(new, "--estimator-lab-update")
            new.save(path)
            self._spent(0, 0.0, f"wrote {path.name}", "written")
            return None
        if not path.exists():
            pytest.fail(f"there is no baseline {path}; write it with --estimator-lab-update", pytrace=False)
        call, rate = self._ledger.grant(self._test)
        found = check(
            Baseline.load(path), estimator, on, seed=self._seed(call), alpha=rate, budget=budget, slower=slower
        )
        self._judge(call, rate, f"{path.name}: {found.plan}", found.status, found.summary())
        return found

    def _seed(self, call: int) -> int:
        from estimator_lab.noise import derive_seed

        return derive_seed(self.seed, self._test, call)

    def _judge(self, call: int, rate: float, what: str, status: str, words: str) -> None:
        self._spent(call, rate, what, status)
        if status == "violated" or (status == "inconclusive" and self.strict):
            pytest.fail(f"{words}\nreplay with --estimator-lab-seed={self.seed}", pytrace=False)

    def _spent(self, call: int, rate: float, what: str, result: str) -> None:
        self.entries.append(Entry(self._test, call, what, rate, result, self._ledger.tests))
