"""``estimator-lab check``: what it prints, saves and exits with.

A command has a false-alarm rate of 1e-6; the healthy ones here are four.
"""

import json
import re
import subprocess
import sys

import pytest

from estimator_lab.cli import main

FILE = """
import torch
import estimator_lab as lab

class Doubled(lab.Estimator):
    unbiased = True
    families = (lab.Bernoulli,)
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + 2 * site.score(value, loss)

class Raises(lab.Estimator):
    families = (lab.Bernoulli,)
    def surrogate(self, site, downstream):
        return self.inner()
    def inner(self):
        raise ZeroDivisionError("of the user")

class Leaves(lab.Estimator):
    families = (lab.Bernoulli,)
    def surrogate(self, site, downstream):
        raise SystemExit(0)

class Shapeless(lab.Estimator):
    families = (lab.Bernoulli,)
    def surrogate(self, site, downstream):
        return downstream(site.sample()).sum()

class Refuses(lab.Estimator):
    def refuses(self, site):
        return "no law will do"
    def surrogate(self, site, downstream):
        return downstream(site.sample())

class OneLaw(lab.estimators.Rebar):
    families = (lab.Categorical,)

class Scaled(lab.Estimator):
    unbiased, families = True, (lab.Bernoulli,)
    def __init__(self, gain=2.0, why=""):
        self.factor = gain
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + self.factor * site.score(value, loss)

class Long(lab.Estimator):
    unbiased, families = True, (lab.Normal,)
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + 2 * site.score(value, loss)
    def refuses(self, site):
        return ""

made = Scaled(3.0)

def noisy(gain=1.0):
    return {"w": gain * torch.ones(2) + 0.4 * torch.randn(2)}

step = lab.GradientSampler(noisy, {"w": torch.ones(2)}, unbiased=True)
wrong = lab.GradientSampler(lambda: noisy(2.0), {"w": torch.ones(2)}, "wrong", unbiased=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def test_a_sound_estimator(capsys):
    assert main(["check", "DisARM"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("DisARM(): ") and " failed" not in lines[0] and "(false-alarm rate 1e-06)" in lines[0]
    assert all(line.startswith("  skipped: ") for line in lines[1:]) and "\x1b" not in "".join(lines)


def test_failures_come_first_with_their_cause(capsys):
    assert main(["check", "mine.py:Doubled"]) == 1
    _, *lines, last = capsys.readouterr().out.splitlines()
    kinds = [line.strip().partition(":")[0] for line in lines]
    assert kinds[:2] == ["looks like", "failed"]
    assert kinds == sorted(kinds, key=["looks like", "failed", "skipped"].index)
    assert "gain of 2" in lines[0] and kinds.count("failed") == 1
    assert "claims to be unbiased and is not" in lines[1] and "; and 9 more: unequal units" in lines[1]
    assert last.startswith("  estimator-lab diagnose mine.py:Doubled prints the smallest problem")


def test_a_gradient_sampler_reaches_the_draws_that_are_asked_for(capsys):
    assert main(["check", "mine.py:step", "--draws", "256"]) == 2
    assert "256 draws were made, of the 256" in capsys.readouterr().out
    assert main(["check", "mine.py:step", "--draws", "4096"]) == 0
    assert main(["check", "mine.py:wrong"]) == 1
    out = capsys.readouterr().out
    assert "looks like: " in out and "gain" in out.partition("looks like: ")[2].split("\n")[0]


WIDE = "Scaled(gain=3.0, why='a reason that is long enough to break a line of eighty characters')"


@pytest.mark.parametrize(
    "target", ["mine.py:Doubled", f"mine.py:{WIDE}", "wide:Scaled", "mine.py:Long", "mine.py:made"]
)
def test_the_witness_of_diagnose_is_a_test_as_it_is_printed(target, capsys, folder, monkeypatch):
    """On a terminal of 80 columns, which wraps words."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (folder / "wide.py").write_text(FILE)
    assert main(["diagnose", target, "--on", "OneBit"]) == 1
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    code = shown.partition("as a test:\n")[2].split("\n\n\n\n")[0].partition("at most")[0]
    assert "estimator = ..." not in code
    if target != f"mine.py:{WIDE}":
        assert max(map(len, code.splitlines())) < 80
    room = {}
    monkeypatch.syspath_prepend(str(folder))
    exec(compile(code, "pasted", "exec"), room)
    (test,) = (v for k, v in room.items() if k.startswith("test_"))
    with pytest.raises(AssertionError):
        test()
    sys.modules.pop("mine", None), sys.modules.pop("wide", None)


def test_python_m_finds_a_module_of_the_folder(folder):
    done = subprocess.run(
        [sys.executable, "-m", "estimator_lab", "check", "mine:Shapeless"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1 and "failed: has the right shapes" in done.stdout, done.stderr


def test_a_module_of_the_folder_is_found_as_python_finds_it(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    (folder / "ofthefolder.py").write_text(FILE)
    assert main(["check", "ofthefolder:Shapeless"]) == 1
    assert main(["check", "nowhere:Shapeless"]) == 3
    assert "go to the folder that holds it" in capsys.readouterr().err
    del sys.modules["ofthefolder"]


def test_a_file_of_a_package_imports_what_is_beside_it(folder, monkeypatch, capsys):
    """Also in a folder `src` that is on no path; and a package names what its modules hold."""
    package = folder / "src" / "coins_beside"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .mine import Mine\n")
    (package / "base.py").write_text(FILE)
    (package / "mine.py").write_text("from .base import Shapeless\n\nclass Mine(Shapeless):\n    pass\n")
    before = list(sys.path)
    assert main(["check", "src/coins_beside/mine.py:Mine"]) == 1
    assert "Mine(): 1 failed" in capsys.readouterr().out and sys.path == before
    (package / "mine.v2.py").write_text(FILE)  # no name that can be imported
    assert main(["check", "src/coins_beside/mine.v2.py:Shapeless"]) == 1
    assert main(["check", "src/coins_beside/__init__.py:Gone"]) == 3
    assert "has no 'Gone'; it has Mine\n" in capsys.readouterr().err
    for name in [n for n in sys.modules if n.startswith("coins_beside")]:
        del sys.modules[name]
    # where Python finds another package by that name, the file stands for itself
    monkeypatch.setitem(sys.modules, "coins_beside", type(sys)("coins_beside"))
    (package / "alone.py").write_text(FILE)
    assert main(["check", "src/coins_beside/alone.py:Shapeless"]) == 1
    assert main(["check", "src/coins_beside/mine.py:Mine"]) == 3
    assert "relative import" in capsys.readouterr().err


def test_an_interrupt_has_the_code_of_its_signal(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("estimator_lab.conformance.check_estimator", interrupted)
    assert main(["check", "DisARM"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "130 interrupted" in capsys.readouterr().out


def test_several_targets_share_the_rate_and_are_counted(capsys, folder):
    assert main(["check", "StraightThrough", "mine.py:Doubled", "--json", "found.json", "--alpha", "1e-4"]) == 1
    out = capsys.readouterr().out
    assert "2 estimators: 1 sound, 1 violated, 0 inconclusive" in out and "(false-alarm rate 5e-05)" in out
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert found["schema"] == 1 and found["alpha"] == 1e-4 and found["seed"] == 0
    first, second = found["estimators"]
    assert (first["status"], second["status"]) == ("sound", "violated")
    assert second["counts"]["failed"] == sum(c["status"] == "failed" for c in second["checks"]) > 0
    assert sum(first["counts"].values()) == len(first["checks"]) and second["looks_like"]


def test_what_the_draws_leave_open(capsys):
    assert main(["check", "mine.py:OneLaw", "--draws", "256"]) == 2
    out = capsys.readouterr().out
    assert "inconclusive: is unbiased on" in out and "failed" not in out


def test_another_implementation(capsys):
    assert main(["check", "StraightThrough", "--like", "StraightThrough"]) == 0
    assert "has the mean of the other" not in capsys.readouterr().out
    assert main(["check", "StraightThrough(derivative='identity')", "--like", "StraightThrough"]) == 1
    assert "failed: has the mean of the other: its mean is not that of StraightThrough" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "words"), [("Raises", "ZeroDivisionError: of the user"), ("Leaves", "SystemExit: 0")])
def test_an_error_of_the_users_code_is_shown_with_its_own_frames(name, words, capsys):
    assert main(["check", f"mine.py:{name}"]) == 1
    shown = capsys.readouterr()
    (line,) = [x for x in shown.out.splitlines() if x.startswith("  failed")]
    assert f"shapes: raises {words}" in line and "looks like" not in shown.out
    assert "mine.py" in shown.err and "estimator_lab/" not in shown.err and shown.err.count("Traceback") == 1


def test_a_wrong_shape_is_no_error_of_the_lab(capsys):
    assert main(["check", "mine.py:Shapeless"]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "raises" not in shown.out and "found []" in shown.out
    assert "looks like" not in shown.out and "more): fails 'has the right shapes'" in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine.py:Refuses"], "refuses every law of the package"),
        (["mine.py"], "mine.py holds 11 estimators"),
        (["Nothing"], "no estimator is called 'Nothing'"),
        (["DisARM", "--draws", "10"], "draws is a whole number of replicates, at least 256"),
        (["DisARM", "--alpha", "2"], "give a positive number below 1"),
        (["DisARM", "--like", "Nothing"], "no estimator is called 'Nothing'"),
        (["DisARM", "--json", "no/such/folder.json"], "cannot write"),
        ([], "required: TARGET"),
    ],
)
def test_wrong_usage(arguments, words, capsys):
    assert main(["check", *arguments]) == 3
    shown = capsys.readouterr()
    assert words in shown.err and "Traceback" not in shown.err


def test_a_file_that_does_not_import(folder, capsys):
    (folder / "broken.py").write_text("import estimator_lab\n1 / 0\n")
    assert main(["check", "broken.py"]) == 3
    assert "broken.py failed to import on ZeroDivisionError" in capsys.readouterr().err
