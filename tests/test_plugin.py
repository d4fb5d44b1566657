"""The pytest plugin: the fixture, the shared false-alarm rate, the seed, baselines, and runs that do not use it."""

import json
import math
import re
import traceback
from pathlib import Path

import pytest

import estimator_lab as lab
from estimator_lab import cli, pytest_plugin
from estimator_lab.baseline_diff import diff
from estimator_lab.pytest_plugin import Ledger, share

pytest_plugins = ["pytester"]

HEALTHY = """
import estimator_lab as lab
from estimator_lab.estimators import LeaveOneOut

def test_hold(estimator_lab):
    estimator_lab.hold(LeaveOneOut({paths}), lab.problems.OneBit(), budget=8192)
"""

RARELY = ("--estimator-lab-alpha", "1e-6")
"""Options of a run whose passing is asserted: the chance that it fails by chance."""

STRICT = ("-W", "error", "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:hypothesispytest")


class Doubled(lab.estimators.Reinforce):
    """Biased, although it claims not to be."""

    def surrogate(self, site, downstream):
        return 2 * super().surrogate(site, downstream)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Loads what inner runs use: they drop modules that they load, which torch does not bear."""
    estimator, problem = lab.estimators.Reinforce(), lab.problems.OneBit()
    lab.diagnose(estimator, on=problem, budget=256).summary()
    baseline = lab.Baseline.measure(estimator, problem, budget=1024)
    baseline.save(tmp_path_factory.mktemp("kept") / "a.json")
    baseline.check(estimator, problem, budget=1024).summary()
    diff(baseline, baseline)
    lab.diagnose(Doubled(), on=problem, budget=2048, exact=False).summary()


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


def test_the_list_of_fixtures_names_methods_and_options(run):
    told = run("--fixtures").stdout.str()
    for name in ("hold", "diagnose", "compare", "measure"):
        assert re.search(rf"\W{name}\(", told), name
    for option in ("seed", "alpha", "update", "strict"):
        assert f"--estimator-lab-{option}" in told
    assert "estimator_lab_baselines" in told and "budget=" in told


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
    assert data["replicates"] >= 16 * 8192 and path.stat().st_size < 4096

    held = run(*RARELY)
    held.assert_outcomes(passed=1)
    assert rates_of(held) == [pytest.approx(6.1e-7, rel=0.01)]
    assert "chance that any of 1 test fails" in held.stdout.str()
    other = run(*RARELY)
    assert seed_of(held) != seed_of(other)  # another seed each run

    # the same file, another estimator: two paths in place of four
    pytester.makepyfile(HEALTHY.format(paths=2).replace("budget", f"baseline={path.name!r}, budget"))
    broken = run("--estimator-lab-seed", "7")
    broken.assert_outcomes(failed=1)
    told = broken.stdout.str()
    assert "worse: variance of unit x" in told and "replay with --estimator-lab-seed=7" in told
    assert "if that is meant, write the baseline anew with --estimator-lab-update test_baselines" in told
    assert rates_of(broken, "violated")
    assert "Traceback" not in told

    written = run("--estimator-lab-update")
    written.assert_outcomes(passed=1)
    assert json.loads(path.read_text())["history"][0]["replaced"] == "--estimator-lab-update"
    assert f"wrote {path.name}: estimator: LeaveOneOut(paths=4) -> LeaveOneOut(paths=2)" in written.stdout.str()
    assert "unit x: variance" in written.stdout.str()

    # again: the file says so already
    text = path.read_text()
    assert "nothing but draws changed" in run("--estimator-lab-update").stdout.str()
    assert path.read_text() == text

    path.write_text(text[:100])
    torn = run()
    torn.assert_outcomes(failed=1)
    assert "is truncated or no JSON" in torn.stdout.str() and "Traceback" not in torn.stdout.str()
    assert re.search(
        r"or delete it and run --estimator-lab-update test_baselines\S+::test_hold$", torn.stdout.str(), re.M
    )


def test_what_cannot_be_read_or_written_is_not_measured(pytester, run, monkeypatch):
    pytester.makepyfile(HEALTHY.format(paths=4).replace("budget", "baseline='file/a.json', budget"))
    monkeypatch.setattr(lab.Baseline, "measure", lambda *_, **__: pytest.fail("measured"))

    def told():
        result = run("--estimator-lab-update")
        result.assert_outcomes(failed=1)
        assert "measured" not in result.stdout.str().replace("not_measured", "")
        return result.stdout.str()

    file = pytester.mkdir("baselines") / "file"
    file.write_text("")
    assert "cannot write" in told()
    file.unlink()
    file.mkdir()
    (file / "a.json").write_text("{")
    assert "is truncated or no JSON" in told()


OWN = """
from dataclasses import dataclass
import torch
import estimator_lab as lab

@dataclass(frozen=True)
class Mine(lab.estimators.Reinforce):
    pass

VOTES = lab.Objective(lab.Bernoulli(), torch.tensor([0.4, -1.3, 2.0]), lambda b: (b.sum(-1) - 1.4).square(), "votes")

def test_mine(estimator_lab):
    estimator_lab.hold(Mine(), VOTES, baseline="mine.json", budget=1024)
"""


def test_what_is_written_can_be_checked_from_the_command_line(pytester, run, monkeypatch, capsys):
    pytester.mkdir("deep")
    (pytester.path / "deep" / "test_own.py").write_text(OWN)
    run("--estimator-lab-update").assert_outcomes(passed=1)
    (path,) = pytester.path.glob("baselines/*.json")
    data = json.loads(path.read_text())
    assert (data["target"], data["on"]) == ("deep/test_own.py:Mine(baseline=None)", "deep/test_own.py:VOTES")
    monkeypatch.chdir(pytester.path.parent)  # its files are found from the baseline
    assert cli.main(["baseline", "check", str(path), "--replicates", "1024"]) in (0, 2), capsys.readouterr()
    assert "1 baseline: " in capsys.readouterr().out


PLAIN = """
import torch
import estimator_lab as lab
from more import estimators

class Mine(lab.estimators.Reinforce.__base__):
    unbiased = True
    families = (lab.Bernoulli,)

    def __init__(self, gain=1.0):
        self._gain = gain

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + self._gain * site.score(value, loss)

class Two(lab.Problem):
    sites = (lab.SiteSpec("a", lab.Bernoulli(), (1,)),)
    batch = 2

    def weights(self):
        return {"bias": torch.tensor([0.3], dtype=torch.float64)}

    def theta(self, weights, samples):
        return weights["bias"] + torch.tensor([[-1.0], [0.5]], dtype=torch.float64)

    def loss(self, weights, samples, thetas):
        return (samples[0][..., 0] - 0.3).square()

def test_mine(estimator_lab):
    estimator_lab.hold(Mine(), Two(), baseline="mine.json", budget=256)

def test_held(estimator_lab):
    estimator_lab.hold(estimators.HELD, Two(), baseline="held.json", budget=256)

def test_hidden(estimator_lab):
    found = Mine(2.0)
    found.unbiased = None
    estimator_lab.hold(found, Two(), baseline="hidden.json", budget=256)
"""


def test_plain_classes_and_objects_of_the_project_are_named(pytester, run):
    """A class without == is named where its repr makes an object with the same attributes."""
    pytester.mkpydir("more").joinpath("estimators.py").write_text(
        "import estimator_lab as lab\nHELD = lab.Callback(lambda theta, f: f((theta > 0).to(theta))[..., None])\n"
    )
    pytester.syspathinsert()
    pytester.makepyfile(test_plain=PLAIN)
    run("--estimator-lab-update").assert_outcomes(passed=3)
    found = {p.stem: json.loads(p.read_text()) for p in pytester.path.glob("baselines/*.json")}
    assert {(d["target"], d["on"]) for d in found.values()} == {
        ("test_plain.py:Mine()", "test_plain.py:Two()"),
        ("more/estimators.py:HELD", "test_plain.py:Two()"),
        ("", "test_plain.py:Two()"),
    }
    assert found["hidden"]["target"] == ""


MISTAKES = """
import estimator_lab as lab

def test_class(estimator_lab):
    estimator_lab.hold(lab.estimators.DisARM, lab.problems.OneBit())

def test_no_estimator(estimator_lab):
    estimator_lab.hold(lab.Baseline)

def test_no_problem(estimator_lab):
    estimator_lab.hold(lab.estimators.LeaveOneOut(3))

def test_few(estimator_lab):
    estimator_lab.hold(lab.estimators.DisARM(), lab.problems.OneBit(), budget=3)

def test_diagnose(estimator_lab):
    estimator_lab.diagnose(lab.estimators.DisARM)
"""


BROKEN = """
import pytest
import estimator_lab as lab

class Mine(lab.estimators.Reinforce):
    def surrogate(self, site, downstream):
        return self.inner()

    def inner(self):
        raise ValueError("of the user")

@pytest.mark.parametrize("call", ["hold", "diagnose", "measure"])
def test_it(estimator_lab, call):
    getattr(estimator_lab, call)(Mine(), lab.problems.OneBit(), budget=1024)

def test_a_fault_of_the_package(estimator_lab, monkeypatch):
    monkeypatch.setattr("estimator_lab.measurement.prepare", None)
    estimator_lab.measure(lab.estimators.Reinforce(), lab.problems.OneBit())
"""


def test_an_error_of_the_users_code_keeps_its_own_frames_alone(pytester, run):
    pytester.makepyfile(BROKEN)
    result = run("--estimator-lab-update", "-k", "test_it")
    result.assert_outcomes(failed=3)
    told = result.stdout.str()
    assert told.count("in surrogate") == told.count("E       ValueError: of the user") == 3
    assert "measurement.py" not in told and "pytest_plugin.py" not in told and "chain.py" not in told
    told = run("-k", "fault").stdout.str()
    assert "measurement.py" in told and "TypeError" in told


@pytest.mark.parametrize("own", [True, False])
def test_a_fault_of_the_package_shows_in_pythons_own_library(own):
    """Whose frames are no code of a user."""
    scope = {"json": json}
    within, user = Path(pytest_plugin.__file__).with_name("any.py"), Path("user.py").resolve()
    exec(compile("def inner(call): call()", str(within), "exec"), scope)
    exec(compile("def outer(): json.loads('{')", str(within if own else user), "exec"), scope)
    with pytest.raises(ValueError) as caught:
        scope["inner"](scope["outer"])
    trace = pytest_plugin._of_the_user(caught.value.__traceback__.tb_next)  # without the frame of this test
    told = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)}
    assert (str(within) in told, str(user) in told) == (own, not own) and json.decoder.__file__ in told


def test_rate_and_seed_are_of_the_run(pytester, run):
    pytester.makepyfile("""
        import estimator_lab as lab

        def test_it(estimator_lab):
            estimator_lab.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit(), alpha=0.1, seed=3)
    """)
    told = run()
    told.assert_outcomes(failed=1)
    assert "\nalpha and seed: of the whole run, and not of a call" in told.stdout.str()
    assert "estimator-lab-seed=" not in told.stdout.str()  # nothing was spent


@pytest.mark.parametrize("update", [[], ["--estimator-lab-update"]])
def test_mistakes_are_told_once_and_before_anything_else(pytester, run, update):
    pytester.makepyfile(MISTAKES)
    result = run("--tb=long", *update)
    result.assert_outcomes(failed=5)
    told = result.stdout.str().split("short test summary")[0]
    for words in (
        "\nDisARM is a class; pass an object of it, such as DisARM()\n",
        "\nBaseline is a class",
        "\nname the problem that LeaveOneOut(paths=3) is measured on: hold(estimator, problem)\n",
        "\na budget of at least 256 draws is needed; found 3\n",
    ):
        assert words in told, words
    assert told.count("DisARM is a class") == 2 and told.count("a budget of at least") == 1
    assert "During handling" not in told and "Traceback" not in told and "no baseline" not in told


def test_what_an_update_refuses_is_not_said_to_be_meant(pytester, run):
    def outcome(body, claim=True):
        pytester.makepyfile(longer.format(claim=claim, gain=body))
        result = run()
        result.assert_outcomes(failed=1)
        return result.stdout.str()

    longer = BLESSED.replace("1024", "2**15")
    pytester.makepyfile(longer.format(claim=True, gain=1))
    run("--estimator-lab-update").assert_outcomes(passed=1)
    for body, words in (("3", "worse: bias of unit x"), ("float('nan')", "NaN or infinite")):
        told = outcome(body)
        assert words in told and "if that is meant" not in told
        assert "float" in body or "\n  looks like: the surrogate's value is not the loss" in told
    told = outcome("1", claim=None)
    assert "the claim to be unbiased was taken back" in told and "if that is meant, delete" in told


def test_a_baseline_that_is_too_short_says_how_many_draws_would_do(pytester, run):
    """And with so many it is long enough."""

    def written(budget, margin=0.1):
        pytester.makepyfile(HEALTHY.format(paths=4).replace("8192", f"{budget}, margin={margin}"))
        result = run("--estimator-lab-update")
        result.assert_outcomes(passed=1)
        return result.stdout.str()

    told = written(256)
    (more,) = re.findall(r"find a variance up by 25 % and a mean off by 10 %: budget=(\d+) .*would do", told)
    (margin,) = re.findall(r"or margin=(\S+) would do", written(1024))
    assert "too short" not in written(1024, margin)
    assert "too short" not in written(int(1.1 * int(more)))  # planned from the few draws that there are
    run("--estimator-lab-strict", *RARELY).assert_outcomes(passed=1)


def test_long_calls_say_how_far_they_are(pytester, run, monkeypatch):
    monkeypatch.setattr("estimator_lab.pytest_plugin.PATIENCE", 0.0)
    pytester.makepyfile(HEALTHY.format(paths=4))
    for options in (["--estimator-lab-update"], RARELY):
        told = run(*options).stdout.str()
        assert re.search(r"^test_long\S+::test_hold: \S+.*, [\d,]+ of [\d,]+ draws after \d+ s$", told, re.M), told


BLESSED = """
import estimator_lab as lab
from estimator_lab.estimators import Reinforce

class Mine(Reinforce):
    unbiased = {claim}

    def surrogate(self, site, downstream):
        return {gain} * super().surrogate(site, downstream)

def test_mine(estimator_lab):
    estimator_lab.hold(Mine(), lab.problems.OneBit(), baseline="mine.json", budget=1024)
"""


def test_an_update_does_not_bless_a_biased_estimator(pytester, run):
    def update(**told):
        pytester.makepyfile(BLESSED.format(**told))
        return run("--estimator-lab-update")

    update(claim=True, gain=1).assert_outcomes(passed=1)
    path = pytester.path / "baselines" / "mine.json"
    text = path.read_text()
    twice = update(claim=True, gain=2)
    twice.assert_outcomes(failed=1)
    assert "claims to be unbiased and is not at unit x" in twice.stdout.str()
    withdrawn = update(claim=None, gain=2)
    withdrawn.assert_outcomes(failed=1)
    assert "the claim to be unbiased was taken back; if that is meant, delete" in withdrawn.stdout.str()
    assert path.read_text() == text


def test_a_failure_is_replayed_by_itself(pytester, run):
    """The command that a failure prints gives the same draws at the same rate, without the other tests."""
    pytester.makepyfile("""
        import pytest
        import estimator_lab as lab

        class Doubled(lab.estimators.Reinforce):
            def surrogate(self, site, downstream):
                return 2 * super().surrogate(site, downstream)

        @pytest.mark.parametrize("paths", [1, 2, 3])
        def test_bug(estimator_lab, paths):
            if paths == 2:
                estimator_lab.diagnose(Doubled(), on=lab.problems.OneBit(), exact=False, budget=2**16)
    """)
    told = run().stdout.str()
    (line,) = set(re.findall(r"^.*replay with (.*)$", told, re.M))  # where CI is set, the summary has it once more
    seed, alpha, test = line.split(" ", 2)
    again = run(seed, alpha, test.strip("'")).stdout.str()
    for pattern in (r"bias .* %", r"^\S+  violated"):
        assert re.findall(pattern, told, re.M) == re.findall(pattern, again, re.M) != []


FEW = """
import estimator_lab as lab
from estimator_lab.estimators import Reinforce

def test_few(estimator_lab):
    found = estimator_lab.diagnose(Reinforce(), on=lab.problems.OneBit(), budget=64, exact=False)
    assert found.status == "inconclusive"
"""


def test_the_command_of_a_failure_holds_where_pytest_was_started(pytester, run, monkeypatch):
    pytester.makeini("[pytest]")
    (pytester.mkdir("deep") / "test_it.py").write_text(FEW)
    pytester.mkdir("beside")
    for folder, path in (("deep", "test_it.py"), ("beside", "../deep/test_it.py"), (".", "deep/test_it.py")):
        monkeypatch.chdir(pytester.path / folder)
        told = run(path, "--estimator-lab-strict").stdout.str()
        assert re.search(rf"^replay with --\S+ --\S+ {path}::test_few$", told, re.M), told


def test_classes_skips_and_other_failures(pytester, run):
    pytester.makepyfile("""
        import unittest
        import pytest
        import estimator_lab as lab

        class TestGroup:
            @pytest.fixture(autouse=True)
            def kept(self, estimator_lab):
                self.lab = estimator_lab

            def test_indirect(self):
                self.lab.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit(), exact=False, budget=2048)

            def test_other_reason(self):
                self.lab.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit(), exact=False, budget=2048)
                assert 1 == 2

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def kept(self, estimator_lab):
                self.lab = estimator_lab

            def test_unittest(self):
                self.lab.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit(), exact=False, budget=2048)

        @pytest.mark.skip
        def test_skipped(estimator_lab):
            pass

        def test_skips_itself(estimator_lab):
            pytest.skip("later")
    """)
    result = run("--estimator-lab-alpha", "1e-6")
    result.assert_outcomes(passed=2, failed=1, skipped=2)
    assert rates_of(result, "inconclusive") == [pytest.approx(2e-7 * 6 / math.pi**2, rel=0.02)] * 3
    assert "any of 5 tests" in result.stdout.str()  # what is skipped was counted: its part is not spent


def test_it_can_be_left_out(pytester, apart):
    pytester.makepyfile("def test_nothing(): pass\ndef test_uses(estimator_lab): pass")
    result = apart("-p", "no:estimator_lab")
    result.assert_outcomes(passed=1, errors=1)
    assert "fixture 'estimator_lab' not found" in result.stdout.str()


def test_reruns_go_on_counting(pytester, apart):
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(CLAIMS)
    result = apart("--reruns", "2", "-k", "bug", "--estimator-lab-alpha", "1e-3")
    assert result.ret == 1
    rates = [1e-3 * 6 / (math.pi * k) ** 2 for k in (3, 2, 1)]
    assert sorted(rates_of(result, "violated")) == [pytest.approx(r, rel=0.02) for r in rates]


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
    result = run("--estimator-lab-alpha", "9e-7")
    result.assert_outcomes(passed=3, failed=1)
    told = result.stdout.str()
    assert "Claims to be unbiased and is not: bias 100 %" in told
    rates = sorted(rates_of(result) + rates_of(result, "inconclusive") + rates_of(result, "violated"))
    first = 3e-7 * 6 / math.pi**2  # three tests ask for the fixture
    assert rates == [pytest.approx(r, rel=0.02) for r in (first / 4, first / 4, first, first, first)]
    assert "any of 3 tests" in told
    alone = run("--estimator-lab-alpha", "9e-7", "-k", "bug")  # what is deselected spends nothing
    assert rates_of(alone, "violated") == [pytest.approx(3 * first, rel=0.02)]


def test_strict_fails_what_could_not_have_been_seen(pytester, run):
    pytester.makepyfile(HEALTHY.format(paths=4).replace("8192", "256"))
    run("--estimator-lab-update").assert_outcomes(passed=1)
    found = run(*RARELY)
    found.assert_outcomes(passed=1)
    assert rates_of(found, "inconclusive")
    strict = run("--estimator-lab-strict", *RARELY)
    strict.assert_outcomes(failed=1)
    assert "256 draws find a shift of 10 % with probability" in strict.stdout.str()


def test_strict_makes_inconclusive_a_failure(pytester, run):
    pytester.makepyfile(FEW)
    run(*RARELY).assert_outcomes(passed=1)
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
    result = apart("-n", "2", "--estimator-lab-alpha", "9e-7", "--estimator-lab-seed", "11")
    result.assert_outcomes(passed=3, failed=1)
    told = result.stdout.str()
    assert "any of 3 tests" in told and "replay with --estimator-lab-seed=11" in told
    first = 3e-7 * 6 / math.pi**2
    rates = sorted(rates_of(result) + rates_of(result, "inconclusive") + rates_of(result, "violated"))
    assert rates == [pytest.approx(r, rel=0.02) for r in (first / 4, first / 4, first, first, first)]
