"""The pytest plugin: the fixture, the shared false-alarm rate, the seed, baselines, and runs that do not use it."""

import json
import math
import re

import pytest

import estimator_lab as lab
from estimator_lab.pytest_plugin import Ledger, share

pytest_plugins = ["pytester"]

HEALTHY = """
import estimator_lab as lab
from estimator_lab.estimators import LeaveOneOut

def test_hold(estimator_lab):
    estimator_lab.hold(LeaveOneOut({paths}), lab.problems.OneBit(), budget=4096)
"""


STRICT = ("-W", "error", "-p", "no:cacheprovider", "-p", "no:benchmark")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Loads what inner runs use: they drop modules that they load, which torch does not bear."""
    estimator, problem = lab.estimators.Reinforce(), lab.problems.OneBit()
    lab.diagnose(estimator, on=problem, budget=256).summary()
    baseline = lab.Baseline.measure(estimator, problem, budget=1024)
    baseline.save(tmp_path_factory.mktemp("kept") / "a.json")
    baseline.check(estimator, problem, budget=1024).summary()


@pytest.fixture
def run(pytester, loaded):
    """A pytest run of its own, with all warnings as errors."""
    return lambda *arguments: pytester.runpytest_inprocess(*STRICT, *arguments)


@pytest.fixture
def apart(pytester, monkeypatch):
    """The same in a process of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *arguments: pytester.runpytest_subprocess(*STRICT, *arguments, timeout=120)


def seed_of(result):
    return re.search(r"--estimator-lab-seed=(\d+)", result.stdout.str())[1]


def rates_of(result, word="sound"):
    return [float(x) for x in re.findall(rf"^(\S+)  {word}", result.stdout.str(), re.M)]


# ---------------------------------------------------------------------- the rate
def test_shares_add_up_to_alpha_and_never_exceed_it():
    spent = [math.fsum(share(1e-4, 7, k) for k in range(1, n)) * 7 for n in (2, 10, 10_000)]
    assert spent[0] == pytest.approx(1e-4 * 6 / math.pi**2)
    assert spent == sorted(spent) and spent[-1] <= 1e-4
    assert spent[-1] == pytest.approx(1e-4, rel=1e-4)


def test_a_test_that_was_not_counted_gets_nothing():
    ledger = Ledger(1e-4, 0, 1, frozenset({"a"}))
    assert [ledger.grant("a")[0] for _ in range(3)] == [1, 2, 3]  # a test that is run again goes on
    with pytest.raises(pytest.UsageError, match="as an argument"):
        ledger.grant("b")


# ---------------------------------------------------------------------- runs that do not use it
def test_a_run_without_the_fixture_loads_nothing_and_prints_nothing(pytester, apart):
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            heavy = {"torch", "numpy", "scipy", "pandas", "matplotlib", "rich", "typst"} & set(sys.modules)
            assert "estimator_lab.pytest_plugin" in sys.modules
            assert not heavy, heavy
    """)
    pytester.makepyfile("def test_nothing(): assert 1 + 1 == 2")
    result = apart()
    result.assert_outcomes(passed=1)
    assert result.ret == 0 and not result.stderr.str()
    assert "estimator-lab" not in re.sub("plugins: .*", "", result.stdout.str())


def test_collecting_tests_that_ask_for_the_fixture_loads_nothing(pytester, apart):
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            assert "torch" not in sys.modules
    """)
    pytester.makepyfile("def test_later(estimator_lab): pass")
    result = apart()
    result.assert_outcomes(passed=1)
    assert "estimator-lab" not in re.sub("plugins: .*", "", result.stdout.str())  # asked for, and spent nothing


def test_the_fixture_and_the_options_are_documented(run):
    assert "within one false-alarm rate for the run" in run("--fixtures").stdout.str()
    told = run("--help").stdout.str()
    for option in ("seed", "alpha", "update", "strict"):
        assert f"--estimator-lab-{option}" in told


def test_an_alpha_that_is_no_chance_is_refused(apart):
    result = apart("--estimator-lab-alpha", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "between 0 and 1; found 2.0" in result.stderr.str()


# ---------------------------------------------------------------------- baselines
def test_baselines_are_written_held_and_broken(pytester, run):
    pytester.makepyfile(HEALTHY.format(paths=4))
    missing = run()
    missing.assert_outcomes(failed=1)
    assert "write it with --estimator-lab-update" in missing.stdout.str()

    run("--estimator-lab-update").assert_outcomes(passed=1)
    (path,) = pytester.path.glob("baselines/*.json")
    data = json.loads(path.read_text())
    assert data["replicates"] >= 16 * 1024 and path.stat().st_size < 4096

    held = run()
    held.assert_outcomes(passed=1)
    assert rates_of(held) == [pytest.approx(6.1e-5, rel=0.01)]
    assert "chance that any of 1 test fails" in held.stdout.str()
    other = run()
    assert seed_of(held) != seed_of(other)  # another seed each run

    # the same file, another estimator: two paths in place of four
    pytester.makepyfile(HEALTHY.format(paths=2).replace("budget", f"baseline={path.name!r}, budget"))
    broken = run("--estimator-lab-seed", "7")
    broken.assert_outcomes(failed=1)
    told = broken.stdout.str()
    assert "worse: variance of unit x" in told and "replay with --estimator-lab-seed=7" in told
    assert rates_of(broken, "violated")
    assert "Traceback" not in told

    run("--estimator-lab-update").assert_outcomes(passed=1)
    assert json.loads(path.read_text())["history"][0]["replaced"] == "--estimator-lab-update"
    run().assert_outcomes(passed=1)


def test_a_seed_replays_the_draws(pytester, run):
    pytester.makepyfile("""
        import estimator_lab as lab
        from estimator_lab.estimators import Reinforce

        def test_draws(estimator_lab):
            record = estimator_lab.measure(Reinforce(), lab.problems.OneBit(), 64)
            print("mean is", repr(float(record.mean(("unit", "x")).item())), estimator_lab.seed)
    """)
    means = [
        re.search(r"mean is \S+ \d+", run("-s", *seed).stdout.str())[0] for seed in ([], ["--estimator-lab-seed=5"])
    ]
    again = run("-s", f"--estimator-lab-seed={means[0].split()[-1]}").stdout.str()
    assert means[0] in again and means[1] not in again


# ---------------------------------------------------------------------- claims
CLAIMS = """
import pytest
import estimator_lab as lab
from estimator_lab.estimators import DisARM, Reinforce

class Doubled(Reinforce):
    def surrogate(self, site, downstream):
        return 2 * super().surrogate(site, downstream)

@pytest.mark.parametrize("budget", [1024, 2048])
def test_claims(estimator_lab, budget):
    estimator_lab.compare([Reinforce(), DisARM()], on=lab.problems.OneBit(), budget=budget, exact=False)
    estimator_lab.diagnose(DisARM(), on=lab.problems.OneBit(), budget=256, exact=False)

def test_bug(estimator_lab):
    estimator_lab.diagnose(Doubled(), on=lab.problems.OneBit())

def test_other(): pass
"""


def test_tests_share_one_rate_and_calls_of_a_test_share_theirs(pytester, run):
    pytester.makepyfile(CLAIMS)
    result = run("--estimator-lab-alpha", "3e-3")
    result.assert_outcomes(passed=3, failed=1)
    told = result.stdout.str()
    assert "Claims to be unbiased and is not: bias 100 %" in told
    rates = sorted(rates_of(result) + rates_of(result, "inconclusive") + rates_of(result, "violated"))
    first = 1e-3 * 6 / math.pi**2  # three tests ask for the fixture
    assert rates == [pytest.approx(r, rel=0.02) for r in (first / 4, first / 4, first, first, first)]
    assert "any of 3 tests" in told
    alone = run("--estimator-lab-alpha", "3e-3", "-k", "bug")  # what is deselected spends nothing
    assert rates_of(alone, "violated") == [pytest.approx(3 * first, rel=0.02)]


def test_strict_makes_inconclusive_a_failure(pytester, run):
    pytester.makepyfile("""
        import estimator_lab as lab
        from estimator_lab.estimators import Reinforce

        def test_few(estimator_lab):
            found = estimator_lab.diagnose(Reinforce(), on=lab.problems.OneBit(), budget=64, exact=False)
            assert found.status == "inconclusive"
    """)
    run().assert_outcomes(passed=1)
    strict = run("--estimator-lab-strict")
    strict.assert_outcomes(failed=1)
    assert "Undecided" in strict.stdout.str()


def test_getfixturevalue_is_told_to_be_an_argument(pytester, run):
    pytester.makepyfile("""
        import estimator_lab as lab

        def test_dynamic(request):
            held = request.getfixturevalue("estimator_lab")
            held.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit())
    """)
    result = run()
    result.assert_outcomes(failed=1)
    assert "ask for the fixture 'estimator_lab' as an" in result.stdout.str()


def test_workers_share_seed_and_ledger(pytester, apart):
    pytest.importorskip("xdist")
    pytester.makepyfile(CLAIMS)
    result = apart("-n", "2", "--estimator-lab-alpha", "3e-3", "--estimator-lab-seed", "11")
    result.assert_outcomes(passed=3, failed=1)
    told = result.stdout.str()
    assert "any of 3 tests" in told and "replay with --estimator-lab-seed=11" in told
    first = 1e-3 * 6 / math.pi**2
    rates = sorted(rates_of(result) + rates_of(result, "inconclusive") + rates_of(result, "violated"))
    assert rates == [pytest.approx(r, rel=0.02) for r in (first / 4, first / 4, first, first, first)]
