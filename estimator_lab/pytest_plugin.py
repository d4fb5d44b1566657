"""The pytest plugin: a fixture that measures, compares and holds against baselines, and one false-alarm rate for a run.

Nothing heavy is imported until a test uses the fixture. A run that does not use it is as if the plugin were not there.

How the rate is shared: ``alpha`` of the whole run (1e-4 by default) is divided equally by the tests that ask for the
fixture, counted when pytest has collected and deselected; the k-th statistical call of a test gets ``6 / (pi k)^2`` of
its test's part, and the parts of all calls add up to it, however many there are. Every process of pytest-xdist collects
the same tests, so that shares need no messages. Tests that are run again (pytest-rerunfailures) go on counting. By the
union bound the chance that any test of the run fails although nothing changed is at most ``alpha``, whatever the tests
have in common. Later calls of one test have ever smaller shares, and need more draws: parametrize rather than loop.
"""

import json
import math
import os
import secrets
import shlex
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from estimator_lab.baseline import Baseline
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

WIDER = (0.15, 0.2, 0.3, 0.5, 1.0)
"""Margins that are proposed where the draws do not do for a smaller one."""

SECONDS = 20.0
"""Time that the cause of a failure is looked for, at most."""

PATIENCE = 5.0
"""Seconds after which a call that goes on says how far it is, each time."""


# ---------------------------------------------------------------------- the ledger
@dataclass(frozen=True)
class Entry:
    """One statistical call: its share of the false-alarm rate, and what came out.

    Attributes:
        test: node id.
        call: how many of its statistical calls this was, from 1.
        what: what was done.
        rate: its share.
        result: "sound", "violated", "inconclusive", "written" or "kept".
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
        rows = [("rate", "result", "test", "what"), *rows] if rows else []
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join([*(v.ljust(w) for v, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        if not few:
            lines.append(f"{sum(e.rate for e in sound):.2g}  sound  {len(sound)} calls (-v shows them)")
        tests = max(e.tests for e in entries)
        return [
            *lines,
            f"at most {self.alpha:.2g}: chance that any of {tests} test{'s' * (tests != 1)} fails although nothing "
            f"changed; spent {sum(e.rate for e in entries):.2g}",
            f"replay the whole run with --estimator-lab-seed={self.seed}",
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
    """Measures, compares and holds gradient estimators against baselines, within one false-alarm rate for the run.
    `estimator_lab.hold(estimator, problem)` fails if it got worse than its baseline, a file in the folder of the ini
    option `estimator_lab_baselines` (default: baselines); also `hold(a_gradient_sampler)`; `budget=` limits the draws.
    `.diagnose(estimator, on=...)` and `.compare([...], on=...)` fail if a claim to be unbiased is violated;
    `.measure(estimator, problem)` gives moments, and spends nothing.
    Options: `--estimator-lab-update` writes baselines, `--estimator-lab-strict` fails what is inconclusive,
    `--estimator-lab-seed=N` replays a run, `--estimator-lab-alpha=A` (ini `estimator_lab_alpha`) sets the rate.
    """  # noqa: D205 (pytest --fixtures shows the first paragraph)
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
        root: of the tests; files that the command line loads are named from there.
        folder: where baselines are.
        entries: what this test spent.
    """

    def __init__(self, request: pytest.FixtureRequest):
        config = request.config
        self._ledger = config.stash[_LEDGER]
        self._test = request.node.nodeid
        self._module = getattr(request.node, "module", None)
        self._config = config
        self._again = shlex.quote(_selected(request.node, config))
        self.seed = self._ledger.seed
        self.strict = bool(config.getoption("--estimator-lab-strict"))
        self.update = bool(config.getoption("--estimator-lab-update"))
        self.root = config.rootpath
        self.folder = Path(self.root, config.getini("estimator_lab_baselines"))
        self.entries: list[Entry] = []

    def measure(
        self, estimator: "Estimator", problem: "Problem", budget: int = 4096, wrt: tuple[str, ...] = ("unit", "weight")
    ) -> "Record":
        """Moments of so many draws, as ``lab.measure`` gives them; no test, and nothing spent."""
        from estimator_lab.measurement import measure

        with _Told():
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

        _own(options)
        call, rate = self._ledger.grant(self._test)
        with _Told():
            found = diagnose(estimator, on, seed=self._seed(call), alpha=rate, **options)
        self._judge(call, rate, f"diagnose {estimator.label}", found.status, found.summary())
        return found

    def compare(
        self, estimators: "Sequence[Estimator]", on: "Problem | Sequence[Problem] | None" = None, **options: Any
    ) -> "Diagnosis":
        """Several estimators on the same problems, as ``lab.compare``; fails where any claim is violated."""
        from estimator_lab.study import compare

        _own(options)
        call, rate = self._ledger.grant(self._test)
        with _Told():
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

        What is written is tested first, as far as it can be: a claim of unbiasedness that is violated, taken back, or
        at odds with the baseline before fails the test, and the file stays as it was. The ledger tells what changed.
        Where estimator and problem can be loaded by name, the file says so and ``estimator-lab baseline`` takes it.

        Args:
            estimator: as it is now.
            on: the problem.
            baseline: its file, from the folder of the ini option ``estimator_lab_baselines``; by default named after
                estimator and problem.
            budget: draws of a stage at most, 256 or more; of a baseline that is written, 16 times as many, and 4 times
                as many for a ``GradientSampler``. By default as many as it takes to find what is planned, up to 65,536,
                or 16,384 for gradients of over 1000 coordinates. The ledger tells where a budget is too small for that,
                and how many would do.
            margin: shift of the mean, relative to its length or the gradient's, that a baseline, when written, plans
                to find. The draws that it needs go with its inverse square: 0.3 takes a ninth of those of 0.1.
            increase: share by which a variance rises that it plans to find.
            slower: share by which the time of a draw may rise, on the machine of the baseline; by default not judged.

        Returns:
            What was compared; None where the baseline was written.
        """
        from estimator_lab.baseline import Baseline, a_pair, enough, ratio
        from estimator_lab.baseline_names import estimator_name, problem_name
        from estimator_lab.baseline_origin import path_for
        from estimator_lab.cli import _require_writable
        from estimator_lab.diagnosis import writable
        from estimator_lab.estimator import Estimator

        with _Told():
            a_pair(estimator, on, "hold(estimator, problem)")
            enough(budget)
            path = path_for(estimator, on, self.folder) if baseline is None else self.folder / baseline
            progress = _Progress(self._config, self._test)
            old = self._kept(path) if path.exists() else None
            if self.update:
                with writable(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                _require_writable(path)  # now, and not after minutes of drawing
                most = budget and ratio(estimator) * budget
                target = estimator_name(estimator, self.root, self._module)
                name = "" if on is None else problem_name(on, self.root, self._module)
                new = Baseline.measure(
                    estimator,
                    on,
                    budget=most,
                    margin=margin,
                    increase=increase,
                    target=target,
                    named=name,
                    progress=progress,
                )
                self._write(path, old, new, self._short(new, budget, ratio(estimator)))
                return None
            if old is None:
                pytest.fail(f"there is no baseline {path}; write it with --estimator-lab-update", pytrace=False)
            call, rate = self._ledger.grant(self._test)
            found = old.check(
                estimator, on, seed=self._seed(call), alpha=rate, budget=budget, slower=slower, progress=progress
            )
        words = found.summary()
        if any(m.name == "claim" for m in found.of("vanished")):
            words += f"\nif that is meant, delete {path} and write it anew with --estimator-lab-update {self._again}"
        elif found.status == "violated" and found.acceptable:
            words += f"\nif that is meant, write the baseline anew with --estimator-lab-update {self._again}"
        elif found.status == "violated" and on is not None and isinstance(estimator, Estimator):
            words += _looks_like(estimator, on)
        better = "".join(f"; better: {m.words}" for m in found.of("better"))
        self._judge(call, rate, f"{path.name}: {found.plan}{better}", found.status, words)
        return found

    def _short(self, new: "Baseline", budget: "int | None", ratio: int) -> str:
        """That later checks will not find what is planned, and what would do instead; empty where they will."""
        from estimator_lab.conclusion import percent, rounded_up

        rate = share(self._ledger.alpha, max(self._ledger.tests, 1), 1)
        needed, do = new.needed(rate), new.needed(rate, stored=ratio)
        if needed <= (budget or math.inf) and math.isfinite(needed):
            return ""
        aims = f"a variance up by {percent(new.increase)} and a mean off by {percent(new.margin)}"
        have = budget or new.replicates // ratio
        wider = (m for m in WIDER if m > new.margin and replace(new, margin=m).needed(rate) <= have)
        remedies = [f"budget={rounded_up(do)}"] * math.isfinite(do) + [f"margin={m}" for m in wider][:1]
        remedy = f"{' or '.join(remedies) or 'no budget'} would do"
        return f"; too short to find {aims}: {remedy}"

    def _kept(self, path: Path) -> "Baseline":
        """The baseline of a file, or what to do where it cannot be read."""
        from estimator_lab.baseline import Baseline
        from estimator_lab.errors import UsageError

        try:
            return Baseline.load(path)
        except UsageError as error:
            remedy = f"in a test: restore a copy, or delete it and run --estimator-lab-update {self._again}"
            raise UsageError(f"{error}; {remedy}") from None

    def _write(self, path: Path, old: "Baseline | None", new: "Baseline", short: str) -> None:
        """Writes a baseline, and says in the ledger what changed; a file that says the same already stays as it is.

        Args:
            path: of the file.
            old: what it holds, if it is there.
            new: what is written.
            short: what is to be said of its length.
        """
        from estimator_lab.baseline_diff import diff, successor
        from estimator_lab.errors import UsageError

        what = f"wrote {path.name}"
        if old is not None:
            if old.claim and not new.claim:
                raise UsageError(f"the claim to be unbiased was taken back; if that is meant, delete {path} first")
            changes = diff(old, replace(new, versions=old.versions))
            if not changes and (old.target, old.on) == (new.target, new.on):
                return self._spent(0, 0.0, f"{path.name}: nothing but draws changed{short}", "kept")
            new = successor(old, new, "--estimator-lab-update")
            what += ": " + ("; ".join(changes.splitlines()) or "with names for the command line")
        new.save(path)
        self._spent(0, 0.0, what + short, "written")

    def _seed(self, call: int) -> int:
        from estimator_lab.noise import derive_seed

        return derive_seed(self.seed, self._test, call)

    def _judge(self, call: int, rate: float, what: str, status: str, words: str) -> None:
        self._spent(call, rate, what, status)
        if status == "violated" or (status == "inconclusive" and self.strict):
            alone = f"--estimator-lab-alpha={self._ledger.alpha / self._ledger.tests!r}"  # its part, if run by itself
            replay = f"replay with --estimator-lab-seed={self.seed} {alone} {self._again}"
            pytest.fail(f"{words}\n{replay}", pytrace=False)

    def _spent(self, call: int, rate: float, what: str, result: str) -> None:
        self.entries.append(Entry(self._test, call, what, rate, result, self._ledger.tests))


def _selected(node: pytest.Item, config: pytest.Config) -> str:
    """A test as pytest takes it in the folder where it was started; its id is told from the root."""
    here = config.invocation_params.dir
    if here == config.rootpath:
        return str(node.nodeid)
    return f"{os.path.relpath(node.path, here)}::{node.nodeid.partition('::')[2]}"


def _own(options: Mapping[str, Any]) -> None:
    """Refuses what the run decides."""
    if taken := [name for name in ("alpha", "seed") if name in options]:
        raise pytest.fail.Exception(
            f"{' and '.join(taken)}: of the whole run, and not of a call; leave it out, and see "
            "--estimator-lab-alpha and --estimator-lab-seed",
            pytrace=False,
        )


def _looks_like(estimator: "Estimator", problem: "Problem") -> str:
    """A line on what makes a claim fail; empty where nothing is known."""
    from estimator_lab.causes import looks_like
    from estimator_lab.errors import in_a_line

    try:
        causes = looks_like(estimator, problem, seconds=SECONDS)
    except Exception as error:  # of the user's code, on small problems that it was not written for
        causes = (f"no cause could be examined: {in_a_line(error)}",)
    return f"\n  looks like: {'; or '.join(causes)}" if causes else ""


class _Told:
    """A failure that its message explains whole, as that of the test; others keep the traceback of the user's code."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Raises the failure of a test, or lets the error pass."""
        from estimator_lab.errors import LabError

        if isinstance(error, LabError) and error.__cause__ is None:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if isinstance(error, Exception):
            error.__traceback__ = _of_the_user(trace)


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this package; all of it where no code of a user was running."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    paths = [Path(entry.tb_frame.f_code.co_filename) for entry in entries]
    inside = [Path(__file__).parent in path.parents for path in paths]
    users = not all(within or _installed(path) for path, within in zip(paths, inside, strict=True))
    shown = None
    for entry, within in zip(reversed(entries), reversed(inside), strict=True):
        if not (users and within):
            shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown


def _installed(path: Path) -> bool:
    """Whether a file is one of Python's own, or of a package that was installed."""
    own = Path(sysconfig.get_path("stdlib")) in path.parents or str(path).startswith("<")
    return own or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


class _Progress:
    """Lines on the terminal, beside what pytest captures, while a call goes on; none in a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, test: str):
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._test, self._began = test, time.monotonic()
        self._said = self._began

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._terminal is None or now - self._said < PATIENCE or not done:
            return
        self._said = now
        told = f"{label}, {done:,} of {total:,} draws after {now - self._began:.0f} s"
        with self._capture.global_and_fixture_disabled() if self._capture else nullcontext():
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{self._test}: {told}")
