"""Every mistake ends in one clear line that names the thing and the remedy; nothing measured is lost."""

import json
from pathlib import Path

import pytest
import torch

import estimator_lab as lab
from estimator_lab.cli import PARTIAL, main
from estimator_lab.diagnosis import Diagnosis

HEAD = "import torch, numpy, estimator_lab as lab\nfrom estimator_lab.estimators import Reinforce\n"


def surrogate(*lines: str, name: str = "Mine") -> str:
    """A file with one estimator."""
    body = "\n".join(f"        {line}" for line in lines)
    return f"{HEAD}class {name}(lab.Estimator):\n    def surrogate(self, site, downstream):\n{body}\n"


def problem(theta: str = "w['t']", loss: str = "s[0].sum(-1)", weights: str = "{'t': torch.zeros(1, 2)}") -> str:
    """A file with one problem: one site of two Bernoulli units."""
    return (
        f"{HEAD}class Ours(lab.Problem):\n    sites = (lab.SiteSpec('x', lab.Bernoulli(), (2,)),)\n    batch = 1\n"
        f"    def weights(self): return {weights}\n    def theta(self, w, s): return {theta}\n"
        f"    def loss(self, w, s, t): return {loss}\n"
    )


SCORE = ("b = site.sample()", "loss = downstream(b)")
OWN = "b = (u < site.theta.detach().sigmoid()).to(site.theta)"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail with a code and end in one line holding all of some words."""

    def run(code, arguments, *words, trace=None):
        assert main([str(a) for a in arguments]) == code
        err = capsys.readouterr().err
        lines = err.strip().splitlines()
        assert lines[-1].startswith("estimator-lab: "), err
        for word in words:
            assert word in lines[-1], (word, lines[-1])
        assert ("Traceback" in err) == (trace is not None), err
        if trace is not None:
            assert trace in err
            assert f"{Path(lab.__file__).parent}/" not in err and "/torch/" not in err and "<frozen" not in err
        return err

    return run


def small(target, on="OneBit", *more):
    return ["diagnose", target, "--on", on, "--replicates", "512", *more]


# ---------------------------------------------------------------------- files and names
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD, ("mine.py holds no estimator", "derive one from estimator_lab.Estimator")),
        (
            HEAD + "a, b = Reinforce(), Reinforce('mean')\n",
            ("holds 2 estimators (a, b)", "name one, as in mine.py:a"),
        ),
        (
            surrogate("return 0").replace("    def surr", "    def __init__(self, gain): pass\n    def surr"),
            ("missing a required argument: 'gain'", "write it as Mine(gain)"),
        ),
    ],
)
def test_a_file_without_exactly_one_estimator(fails, text, words):
    Path("mine.py").write_text(text)
    fails(3, small("mine.py"), *words)


@pytest.mark.parametrize(
    ("text", "kind", "trace"),
    [
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError", 'mine.py", line 2, in f'),
        ("def f(:\n", "SyntaxError", None),
        ("import nothing_like_it\n", "ModuleNotFoundError", 'mine.py", line 1'),
        ("raise SystemExit(0)\n", "SystemExit", 'mine.py", line 1'),
        (HEAD + "lab.GradientSampler(dict, 3)\n", "is no dict of tensors", 'mine.py", line 3'),
    ],
)
def test_a_file_that_fails_to_import_shows_its_own_traceback(fails, text, kind, trace):
    Path("mine.py").write_text(text)
    err = fails(3, small("mine.py"), "mine.py failed to import", kind, trace=trace)
    assert kind in err.splitlines()[-2] or trace


def test_a_constructor_that_raises(fails):
    Path("mine.py").write_text(
        surrogate("return 0").replace(
            "    def surr", "    def __init__(self):\n        raise ValueError('no')\n    def surr"
        )
    )
    fails(3, small("mine.py:Mine"), "mine.py:Mine cannot be made: ValueError: no", trace="in __init__")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("Rebr", ("no estimator is called 'Rebr'", "did you mean Rebar?")),
        ("qqqq", ("no estimator is called 'qqqq'", "estimator-lab list estimators", "file.py:Name")),
        ("", ("no estimator is called ''",)),
        ("Rebar(temperature=-1)", ("temperature of Rebar is positive", "-1")),
        ("Rebar(tempurature=1)", ("unexpected keyword argument 'tempurature'", "Rebar(temperature: float = 0.5")),
        ("Rebar(temperature='hot')", ("Rebar(temperature='hot') cannot be made",)),
        ("Rebar(x=y)", ("cannot read 'Rebar(x=y)'", "Name(key=value, ...)")),
        ("Rebar(temperature=", ("cannot read",)),
        ("DropIn", ("missing a required argument: 'function'",)),
        ("absent.py", ("there is no file absent.py",)),
        ("absent_module:Name", ("there is no module 'absent_module'", "path/to/file.py:Name")),
        ("os.path:join", ("os.path:join is no estimator",)),
        ("estimator_lab.estimators:Nope", ("has no 'Nope'",)),
    ],
)
def test_targets_that_name_nothing(fails, target, words):
    fails(3, small(target), *words)


def test_unknown_problems(fails):
    fails(3, small("Reinforce", "OneBitt"), "no problem is called 'OneBitt'", "did you mean OneBit?")


def test_an_estimator_on_the_wrong_family(fails):
    fails(3, small("Pathwise"), "Pathwise applies to Reparameterised sites", "list problems")


# ---------------------------------------------------------------------- the command line
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("COMMAND", "estimator-lab --help")),
        (["diagnos", "Rebar"], ("diagnos",)),
        (["diagnose"], ("TARGET",)),
        (["list", "people"], ("people",)),
        *[
            (["diagnose", "Rebar", f"--{option}", value], (f"--{option}", repr(value)))
            for option, values in {
                "replicates": ["0", "-3", "1.5", "1e-3", "x", "nan", "inf"],
                "margin": ["0", "-1", "nan", "inf", "x"],
                "alpha": ["0", "1", "1.5", "nan", "-0.1"],
                "seed": ["x"],
            }.items()
            for value in values
        ],
    ],
)
def test_a_wrong_command_line_is_one_line(fails, arguments, words):
    assert len(fails(3, arguments, *words).splitlines()) == 1


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("place", ["nowhere/x", "file/x", ".", "/proc/x", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_refused_before_measuring(fails, monkeypatch, option, place):
    Path("file").touch()
    monkeypatch.setattr("estimator_lab.loading.load_estimator", lambda target: pytest.fail("too late"))
    fails(3, small("Reinforce", "OneBit", option, place), f"cannot write {place}", "name a file in")


def test_one_file_is_not_written_twice(fails):
    fails(3, small("Reinforce", "OneBit", "--out", "x", "--report", "./x"), "x would be written twice")


# ---------------------------------------------------------------------- shapes
SHAPES = {
    "surrogate": (
        surrogate("return downstream(site.sample()).sum(-1)"),
        "the surrogate of Mine()",
        "[1, 8, 1]; found [1, 8]",
    ),
    "nothing": (surrogate("downstream(site.sample())"), "the surrogate of Mine()", "found NoneType"),
    "value": (surrogate("return downstream(site.sample()[..., 0])"), "Mine() passed a value", "found [1, 8, 1]"),
    "array": (surrogate("return downstream(site.sample().numpy())"), "Mine() passed a value", "found ndarray"),
    "bool": (surrogate("return downstream(site.sample() > 0)"), "passed torch.bool", "value.to(theta)"),
    "dropin": (HEAD + "m = lab.DropIn(lambda t: t.sum(-1))", "DropIn(<lambda>) passed a value", "found [1, 8, 1]"),
    "callback": (
        HEAD + "m = lab.Callback(lambda t, f: t.sum(-1))",
        "shaped like theta",
        "[1, 8, 1, 1]; found [1, 8, 1]",
    ),
    "none": (HEAD + "m = lab.Callback(lambda t, f: None)", "shaped like theta", "found NoneType"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_wrong_shapes_from_an_estimator(fails, case):
    text, *words = SHAPES[case]
    Path("mine.py").write_text(text)
    fails(3, small("mine.py"), *words)


def test_a_wrong_shape_at_a_later_site_is_told_there(fails):
    Path("mine.py").write_text(surrogate("return downstream(site.sample()).mean()"))
    fails(3, small("mine.py", "TwoLayer"), "site 'h2'", "[1, 8, 2]; found []")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (problem(theta="w['t'][0]"), ("theta() of site 'x' on Ours()", "[batch, *units, *theta] = [1, 2]; found [2]")),
        (problem(loss="s[0].sum()"), ("loss() on Ours()", "[batch] = [1]; found []")),
        (problem(loss="1.0"), ("loss() on Ours()", "found float")),
        (problem(weights="{}"), ("Ours() lacks weights or sites",)),
        (problem(weights="{'t': 3}"), ("no floating-point tensors: ['t']",)),
    ],
)
def test_wrong_shapes_from_a_problem(fails, text, words):
    Path("ours.py").write_text(text)
    fails(3, small("Reinforce", "ours.py"), *words)


def test_an_error_of_torch_shows_the_users_line(fails):
    Path("ours.py").write_text(problem(loss="torch.nn.functional.linear(s[0], torch.ones(4, 3))"))
    fails(4, small("Reinforce", "ours.py"), "stopped on RuntimeError: mat1 and mat2", trace="ours.py")


def test_an_error_without_a_line_of_the_users_is_one_line(fails):
    Path("mine.py").write_text(surrogate("x = (site.theta * 1).exp()", "y = x.exp()", "return downstream(y.mul_(2))"))
    err = fails(4, small("mine.py"), "Mine on one bit stopped on RuntimeError", "inplace operation")
    assert len(err.splitlines()) == 1


# ---------------------------------------------------------------------- gradients that cannot be measured
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_gradients_that_are_not_finite(fails, bad):
    Path("mine.py").write_text(surrogate(*SCORE, f"return loss + site.score(b, loss * float('{bad}'))"))
    fails(
        4, small("mine.py"), "Mine() on OneBit", "of the gradient ('unit', 'x')", "probability of 1 or more", "log(0)"
    )
    sampled = [*small("mine.py"), "--sampled"]
    fails(4, sampled, "Mine() on OneBit", "of the gradient ('unit', 'x')", "first at replicate", "log(0)")


MIXED = {
    "differentiably": (("b = site.mean", "l = downstream(b)", "return l * l.mean(-2, keepdim=True)"), "-2"),
    "baseline": ((*SCORE, "return loss + site.score(b, loss - loss.detach().mean(-2, keepdim=True))"), "-2"),
    "shared": (
        ("u = torch.rand(())", OWN, "loss = downstream(b)", "return loss + site.score(b, loss)"),
        "per replicate",
    ),
    "shared in part": (
        (*SCORE, "return loss + site.score(b, loss) + site.inject(torch.randn(()).expand_as(site.theta))"),
        "one random number per replicate",
    ),
    "seeded": (
        (
            "g = torch.Generator().manual_seed(0)",
            "u = torch.rand(site.theta.shape, generator=g, dtype=site.theta.dtype)",
            *(OWN, "loss = downstream(b)", "return loss + site.score(b, loss)"),
        ),
        "seeds a generator itself",
    ),
    "reseeded": (
        ("torch.manual_seed(0)", "u = torch.rand_like(site.theta)", *(OWN, "loss = downstream(b)"),
         "return loss + site.score(b, loss)"),
        "seeds a generator itself",
    ),
    "unseeded": (
        ("return downstream(site.sample() + site.theta * float(numpy.random.rand()))",),
        "cannot be repeated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("budget", ["256", "8192"])
@pytest.mark.parametrize("case", MIXED)
def test_replicates_that_are_not_independent(fails, case, budget):
    lines, remedy = MIXED[case]
    if case in ("shared", "shared in part") and budget == "256":
        budget = "1024"
    Path("mine.py").write_text(surrogate(*lines))
    on = "QuadraticForm" if case == "shared in part" else "OneBit"
    fails(4, ["diagnose", "mine.py", "--on", on, "--replicates", budget], "Mine()", remedy)


@pytest.mark.parametrize("estimator", ["Exact", "MeanField", "Sample", "StraightThrough", "Pathwise"])
def test_estimators_whose_draws_are_all_equal_are_no_mistake(estimator, capsys):
    on = "GaussianPolynomial" if estimator == "Pathwise" else "Additive"
    assert main(["diagnose", estimator, "--on", on, "--replicates", "512"]) in (0, 1, 2), capsys.readouterr().err


def test_an_error_of_the_surrogate_keeps_the_findings_before_it(fails):
    Path("mine.py").write_text(
        surrogate("return self.rest(site, downstream)", "").rstrip()
        + "\n    def rest(self, site, downstream):\n        return missing(site)\n"
    )
    command = ["compare", "Reinforce", "mine.py", "--on", "OneBit", "--replicates", "256"]
    err = fails(4, command, "Mine on one bit stopped on NameError: name 'missing'", trace="in rest")
    assert f"kept the 1 findings made before in {PARTIAL}" in err and "in surrogate" in err
    fails(4, [*command, "--out", "kept.json"], "Mine on one bit", trace="in rest")
    for path in (PARTIAL, "kept.json"):
        kept = Diagnosis.load(path)
        assert [f.estimator_label for f in kept.findings] == ["Reinforce"] or len(kept.findings) == 1
        assert "not measured: the study stopped at Mine on one bit" in kept.skipped


@pytest.mark.parametrize("what", ["KeyboardInterrupt", "SystemExit(0)"])
def test_an_interrupt_keeps_the_findings_before_it(fails, what):
    Path("mine.py").write_text(surrogate(f"raise {what}"))
    command = ["compare", "Reinforce", "mine.py", "--on", "OneBit", "--replicates", "256", "--out", "kept.json"]
    interrupt = what == "KeyboardInterrupt"
    fails(
        130 if interrupt else 4,
        command,
        "interrupted" if interrupt else "SystemExit",
        trace=None if interrupt else "in surrogate",
    )
    assert len(Diagnosis.load("kept.json").findings) == 1


def test_findings_are_kept_over_a_violated_shape_too(fails):
    Path("mine.py").write_text(SHAPES["value"][0])
    err = fails(3, ["compare", "Reinforce", "mine.py", "--on", "OneBit", "--replicates", "256"], "passed a value")
    assert "kept the 1 findings" in err and Path(PARTIAL).exists()


# ---------------------------------------------------------------------- too large, unknown sites
def test_a_problem_too_large_to_enumerate(fails):
    theta = "torch.zeros(30, dtype=torch.float64)"
    Path("ours.py").write_text(HEAD + f"p = lab.Objective(lab.Bernoulli(), {theta}, lambda x: x.sum(-1) ** 2)\n")
    fails(3, small("Exact", "ours.py"), "site 'x' brings 1.07e+09 joint states", "use an estimator that samples")
    assert main(small("LocalExpectation", "ours.py")) in (0, 2)  # its truth is estimated instead


def test_per_site_with_an_unknown_name(fails):
    Path("mine.py").write_text(HEAD + "m = lab.PerSite({'h9': Reinforce()}, default=Reinforce())\n")
    fails(3, small("mine.py", "TwoLayer"), "has no site ['h9']", "its sites are ['h1', 'h2']")


# ---------------------------------------------------------------------- black boxes
SAMPLER = HEAD + "def f(): return {'w': torch.randn(3)}\nt = {'w': torch.ones(3)}\nm = lab.GradientSampler(%s)\n"


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (3, "f, {'v': torch.ones(3)}", ("truth has [('weight', 'v')] besides", "same names")),
        (3, "lambda: f() | {'v': torch.ones(1)}, t", ("the truth lacks the gradient ('weight', 'v')",)),
        (3, "f, {'w': torch.ones(4)}", ("the truth has shape [4]", "the estimates have shape [3]")),
        (3, "dict, t", ("returned at call 0 is no dict of tensors by name", "found {}")),
        (3, "lambda: None, t", ("no dict of tensors", "NoneType")),
        (3, "lambda: {'w': 3.0}, t", ("no dict of tensors", "'w': 'float'")),
        (4, "lambda: f() if torch.rand(()) < 0.5 else {'u': torch.ones(3)}, t", ("at call 0", "same names and shapes")),
        (4, "lambda: {'w': torch.full((3,), torch.nan)}, t", ("NaN or infinite", "('weight', 'w')")),
    ],
)
def test_misused_samplers(fails, code, arguments, words):
    Path("mine.py").write_text(SAMPLER % arguments)
    fails(code, ["diagnose", "mine.py", "--replicates", "64"], "GradientSampler(", *words) if "truth " not in words[
        0
    ] else fails(code, ["diagnose", "mine.py", "--replicates", "64"], *words)


def test_a_sampler_that_raises_shows_the_users_line(fails):
    Path("mine.py").write_text(SAMPLER % "lambda: 1 / 0, t")
    fails(4, ["diagnose", "mine.py", "--replicates", "64"], "stopped on ZeroDivisionError", trace='mine.py", line 5')


def test_a_sampler_stands_alone(fails):
    Path("mine.py").write_text(SAMPLER % "f, t")
    fails(3, ["compare", "mine.py", "Rebar"], "GradientSampler(f) brings its own problem", "on its own")
    fails(3, small("mine.py"), "without --on")


def test_a_truth_of_zero_is_measured(capsys):
    Path("mine.py").write_text(SAMPLER % "f, {'w': torch.zeros(3)}")
    assert main(["diagnose", "mine.py", "--replicates", "512"]) in (0, 2), capsys.readouterr().err


# ---------------------------------------------------------------------- results
@pytest.fixture(scope="module")
def saved():
    return lab.diagnose(lab.estimators.Reinforce(), lab.problems.OneBit(), budget=256).to_json()


def edit(change):
    def apply(text):
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return apply


RESULTS = {
    "truncated": (lambda text: text[: len(text) // 2], "is truncated or no JSON"),
    "empty": (lambda text: "", "is truncated or no JSON"),
    "binary": (lambda text: "\udcff\udc80", "is truncated or no JSON"),
    "foreign": (lambda text: "[1]", "not a result of estimator-lab"),
    "other": (lambda text: '{"format": "x"}', "not a result of estimator-lab"),
    "newer": (edit(lambda d: d.update(schema=99)), "has schema 99, this version reads 2"),
    "lacks ratios": (edit(lambda d: d.pop("ratios")), "lacks something a result has (KeyError: 'ratios')"),
    "lacks words": (edit(lambda d: d["findings"][0].pop("words")), "words"),
    "lacks p": (edit(lambda d: d["findings"][0]["rows"][0].pop("p")), "lacks something a result has (KeyError: 'p')"),
    "text for findings": (edit(lambda d: d.update(findings="abc")), "lacks something"),
    "text for numbers": (edit(lambda d: d["findings"][0]["units"]["x"].update(mean="a")), "lacks something"),
    "no date": (edit(lambda d: d.update(created="yesterday")), "no report can be made"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_results_that_cannot_be_read(fails, saved, case):
    change, words = RESULTS[case]
    Path("r.json").write_bytes(change(saved).encode(errors="surrogateescape"))
    fails(3, ["report", "r.json"], "r.json", words)
    assert not Path("r.pdf").exists()


def test_results_that_are_not_there(fails, saved):
    fails(3, ["report", "nowhere/r.json"], "cannot read nowhere/r.json", "saved with --out")
    fails(3, ["report", "."], "cannot read .")
    Path("r.json").write_text(saved)
    fails(3, ["report", "r.json", "--out", "r.json"], "would replace the result")
    fails(3, ["report", "r.json", "--out", "nowhere/r.pdf"], "cannot write nowhere/r.pdf")


def test_saving_from_python_leaves_no_part_behind(folder):
    found = lab.diagnose(lab.estimators.MeanField(), lab.problems.OneBit(), budget=64)
    Path("taken").mkdir()
    for place in ("nowhere/x", "taken"):
        with pytest.raises(lab.UsageError, match=f"cannot write {place}"):
            found.save(place)
    assert [p.name for p in folder.iterdir()] == ["taken"]


def test_threads_are_left_alone():
    assert torch.get_num_threads() == 1


def test_a_class_in_the_place_of_an_object():
    with pytest.raises(lab.UsageError, match=r"DisARM is a class; pass an object of it, such as DisARM\(\)"):
        lab.diagnose(lab.estimators.DisARM, on=lab.problems.OneBit())
    with pytest.raises(lab.UsageError, match="OneBit is a class"):
        lab.diagnose(lab.estimators.DisARM(), on=lab.problems.OneBit)


ST, P = lab.estimators.StraightThrough(), lab.problems.OneBit()
SGD = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
MODULE = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: lab.diagnose([ST, ST], on=P), "use lab.compare for several"),
        (lambda: lab.diagnose(P, on=ST), r"the order is diagnose\(estimator, on=problem\)"),
        (lambda: lab.diagnose(ST, on=ST), "is an estimator and no Problem"),
        (lambda: lab.diagnose(ST, on=MODULE), "no Problem; wrap a module with lab.from_module"),
        (lambda: lab.diagnose(ST, on=[MODULE]), "lab.from_module"),
        (lambda: lab.diagnose(ST, on=torch.nn.Sequential(MODULE)), "lab.from_module"),
        (lambda: lab.diagnose(ST, on="OneBit"), "'OneBit' is a text and no Problem"),
        (lambda: lab.diagnose(ST, on=3), "found int, no Problem"),
        (lambda: lab.diagnose("ST", on=P), "'ST' is no estimator"),
        (lambda: lab.compare(ST), r"give a list of estimators; found ST|give a list of estimators; found Straight"),
        (lambda: lab.compare([ST, P], on=P), "is a problem and no estimator"),
        (lambda: lab.compare("ST", on=P), "give a list of estimators; found 'ST'"),
        (lambda: lab.compare([], on=P), "at least one estimator"),
        (lambda: lab.compare([ST], on=[]), "one problem"),
        (lambda: lab.Probe(P, ST), "give a list of estimators"),
        (lambda: lab.Probe(MODULE, [ST]), "lab.from_module"),
        (lambda: lab.Probe([P], [ST]), "give the problem"),
        (lambda: lab.Probe(ST, [P]), r"the order is Probe\(problem"),
        (lambda: lab.deepening(ST, P), "give a list of problems"),
        (lambda: lab.deepening([P], ST), "no estimator"),
        (lambda: lab.Training(MODULE, ST), "lab.from_module"),
        (lambda: lab.Training(ST, P), r"the order is Training\(problem, estimator\)"),
        (
            lambda: lab.Training(P, ST, optimiser=SGD),
            "a function of the weights, such as .*; found SGD",
        ),
        (lambda: lab.Training(P, ST, batches=P), "batches is a function of the step"),
        (lambda: lab.expected_loss(MODULE), "lab.from_module"),
        (lambda: lab.split_noise(ST, P, minibatch=1), r"the order is split_noise\(problem, estimator"),
        (lambda: lab.layer_statistics(ST, P, 64), r"the order is layer_statistics\(problem, estimator"),
        (lambda: lab.weight_moments(ST, P, 64), r"the order is weight_moments\(problem, estimator"),
        (lambda: lab.measure(ST, P, 64), r"the order is measure\(problem, estimator"),
        (lambda: lab.exact_moments(ST, P), r"the order is exact_moments\(problem, estimator\)"),
        (lambda: lab.exact_moments(P, "ST"), "pass an object of it"),
        (lambda: lab.attribute(P, ST), r"the order is attribute\(estimator, on=problem\)"),
        (lambda: lab.attribute(ST, MODULE), "lab.from_module"),
        (
            lambda: lab.Objective(lab.Bernoulli(), [0.1, 0.2], torch.sum),
            "a tensor of real numbers, .*; found list",
        ),
        (lambda: lab.Objective(lab.Bernoulli(), torch.tensor([1]), torch.sum), "found torch.int64"),
        (lambda: lab.Objective(lab.Bernoulli, torch.zeros(2), torch.sum), r"such as lab.Bernoulli\(\)"),
        (lambda: P.at({"theta": torch.zeros(3)}, "x"), r"'theta' has shape \[1\], found \[3\]; give"),
        (lambda: P.at({"module.theta": torch.zeros(1)}, "x"), "give those of model.module"),
        (lambda: P.at({}, "x"), r"has weights \['theta'\], which were not given"),
        (lambda: P.at({**P.weights(), "b": torch.zeros(1)}, "x"), r"has no weights \['b'\]"),
        (lambda: lab.DropIn(Spike), "give Spike.apply"),
        (lambda: lab.DropIn(3), "found int"),
    ],
)
def test_what_is_no_estimator_or_problem_is_told_at_every_door(ask, words):
    with pytest.raises(lab.UsageError, match=words) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_only_the_weights_that_differ_are_named():
    problem = lab.problems.TwoLayer()
    wrong = dict(problem.weights())
    name = next(iter(wrong))
    wrong[name] = torch.zeros(9)
    with pytest.raises(lab.UsageError) as caught:
        problem.at(wrong, "x")
    assert repr(name) in str(caught.value) and not any(repr(k) in str(caught.value) for k in list(wrong)[1:])


class Spike(torch.autograd.Function):
    """A step with the derivative of the identity."""

    @staticmethod
    def forward(ctx, theta):
        return (theta > 0).to(theta)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_labels_name_the_function_and_stay_short():
    assert lab.DropIn(Spike.apply).label == "DropIn(Spike)"
    many = lab.PerSite({f"h{i}": lab.estimators.Rebar(temperature=0.1 * (i + 1)) for i in range(20)}, ST)
    assert len(many.label) < 120 and "18 more" in many.label and len(repr(many)) > 500
    assert "elsewhere" in many.label and "at 2 sites" in lab.PerSite({"a": ST, "b": ST}).label


def test_functions_are_among_the_candidates(fails):
    Path("mine.py").write_text(
        HEAD + "def make(): return lab.problems.OneBit()\ndef sized(n): return lab.problems.OneBit()\n"
    )
    fails(3, small("Reinforce", "mine.py:nope"), "mine.py has no 'nope'; it has make")
    fails(3, small("Reinforce", "mine.py"), "(make)", "name the one that makes it, as in mine.py:make")
    fails(3, small("Reinforce", "mine.py:sized"), "sized(n); a function must take no arguments")
    assert main(small("Reinforce", "mine.py:make")) == 0
