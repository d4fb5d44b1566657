"""The command line: every command, every exit code, what is printed and what is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import estimator_lab as lab
from estimator_lab import cli
from estimator_lab.cli import _Progress, main
from estimator_lab.diagnosis import Diagnosis
from estimator_lab.loading import load_problems

SCRIPT = Path(sys.executable).with_name("estimator-lab")

BIASED = """
import estimator_lab as lab
class Leaning(lab.Estimator):
    unbiased = True
    def surrogate(self, site, downstream):
        p = site.mean
        return downstream(site.sample() + p - p.detach())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(path):
    """A saved result without what differs from run to run."""
    data = json.loads(Path(path).read_text())
    for name in ("created", "command"):
        del data[name]
    for finding in data["findings"]:
        del finding["seconds"]
    return data


def small(target, *more, on="OneBit"):
    return ["diagnose", target, "--on", on, "--replicates", "512", *more]


# ---------------------------------------------------------------------- the start
def clean(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=60)


def test_help_is_quick():
    took = []
    for _ in range(3):
        before = os.times()
        done = clean(SCRIPT, "--help")
        after = os.times()  # of processor time: a busy machine does not make it slower
        took.append(sum(after[2:4]) - sum(before[2:4]))
        assert done.returncode == 0 and "exit codes: 0 sound" in done.stdout and not done.stderr
    assert min(took) < 0.3


def test_importing_the_command_line_loads_nothing_heavy():
    heavy = "{'torch', 'seaborn', 'pandas', 'scipy', 'matplotlib', 'numpy', 'rich'}"
    code = f"import estimator_lab, estimator_lab.cli, sys; assert not {heavy} & set(sys.modules)"
    assert clean(sys.executable, "-c", code).returncode == 0


def test_the_script_exits_with_the_code_of_main():
    done = clean(SCRIPT, "diagnose")
    assert done.returncode == 3 and done.stderr.startswith("estimator-lab: ") and not done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["diagnose", "--help"], ["report", "--help"]])
def test_help_and_version(arguments, capsys):
    assert main(arguments) == 0
    assert "estimator-lab" in capsys.readouterr().out


# ---------------------------------------------------------------------- list
@pytest.mark.parametrize("what", ["estimators", "problems", "families"])
def test_lists_are_complete(what, capsys):
    assert main(["list", what]) == 0
    out = capsys.readouterr().out
    names = {line.split()[0] for line in out.splitlines()}
    expected = {
        "estimators": {type(e).__name__ for e in lab.estimators.ESTIMATORS},
        "problems": {type(p).__name__ for p in (*lab.problems.TOYS, *lab.problems.NETWORKS)},
        "families": {"Bernoulli", "Categorical", "Normal"},
    }[what]
    assert expected <= names
    assert "  what it is" in out.splitlines()[0]


def test_listed_problems_are_told_apart(capsys):
    assert main(["list", "problems"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("SigmoidBeliefNetwork ") for line in lines) == 1
    assert any(line.startswith("SigmoidBeliefNetwork(hidden=(32, 32))") for line in lines)


def test_the_names_of_variants_lead_to_them():
    firsts = {}
    for p in (*lab.problems.TOYS, *lab.problems.NETWORKS):
        first = firsts.setdefault(type(p), p)
        name = f"{type(p).__name__}({cli._changed(p, first)})"
        assert repr(load_problems(name)[0]) == repr(p)


def test_a_parameter_may_have_any_name():
    assert load_problems("OneBit(target=0.3)") == [lab.problems.OneBit(target=0.3)]


def test_replicates_as_a_power_of_ten():
    main(["diagnose", "Reinforce", "--on", "OneBit", "--replicates", "1.024e3", "--out", "r.json", "--sampled"])
    assert Diagnosis.load("r.json").findings[0].planned == 1024


# ---------------------------------------------------------------------- diagnose
@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("LocalExpectation", 0, "Equal to the truth"),
        ("localexpectation", 0, "Equal to the truth"),
        ("MeanField()", 0, "Biased, as declared"),
        ("estimator_lab.estimators:MeanField", 0, "Biased, as declared"),
        ("Rebar(temperature=0.1, eta=0.5)", 0, "η = 0.5"),
        ("lean.py", 1, "Claims to be unbiased and is not"),
        ("lean.py:Leaning", 1, "Claims to be unbiased and is not"),
        ("Reinforce", 0, "Exactly unbiased"),
        ("Reinforce --sampled", 2, "replicates would decide it"),
    ],
)
def test_verdicts_are_exit_codes(target, code, words, capsys):
    Path("lean.py").write_text(BIASED)
    target, *more = target.split(" --")
    assert (
        main(
            small(target, on="OneBit" if "Local" not in target and "local" not in target else "Additive")
            + [f"--{m}" for m in more]
        )
        == code
    )
    assert words in capsys.readouterr().out


def test_the_worst_verdict_counts():
    Path("lean.py").write_text(BIASED)
    options = ["--on", "OneBit", "--replicates", "512", "--sampled"]
    assert main(["compare", "Reinforce", "MeanField", *options]) == 2
    assert main(["compare", "Reinforce", "lean.py", *options]) == 1


def test_options_reach_the_measurement():
    options = ["--seed", "7", "--margin", "0.5", "--alpha", "0.2", "--units-only", "--out", "r.json"]
    main(small("Reinforce", *options))
    found = Diagnosis.load("r.json")
    assert (found.margin, found.alpha, found.findings[0].seed) == (0.5, 0.2, 7)
    assert {r.level for r in found.findings[0].rows} <= {"site", "total"}
    assert found.findings[0].replicates == 512


def test_a_table_of_problems_and_a_problem_of_ones_own():
    Path("ours.py").write_text(
        "import torch, estimator_lab as lab\n"
        "class Ours(lab.OneSite):\n"
        "    family = lab.Bernoulli()\n"
        "    def weights(self): return {'theta': torch.tensor([0.3, 0.1], dtype=torch.float64)}\n"
        "    def f(self, x): return x.sum(-1) ** 2\n"
    )
    command = ["diagnose", "DisARM", "--on", "ours.py", "--on", "OneBit", "--units-only", "--replicates", "64"]
    main([*command, "--out", "r.json"])
    assert Diagnosis.load("r.json").findings[0].problem == "Ours()"
    main(["diagnose", "Pathwise", "--units-only", "--replicates", "64", "--out", "r.json"])
    found = Diagnosis.load("r.json")
    assert len(found.findings) == 3 and len(found.skipped) == 1


def test_a_sampler_from_a_file(capsys):
    Path("box.py").write_text(
        "import torch, estimator_lab as lab\n"
        "def noisy(): return {'w': torch.ones(2) + torch.randn(2)}\n"
        "box = lab.GradientSampler(noisy, {'w': torch.ones(2)}, unbiased=True)\n"
    )
    assert main(["diagnose", "box.py:box", "--replicates", "8192"]) == 0
    assert "noisy on black box: Unbiased" in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------------- compare, files, report
def test_compare_writes_what_report_writes_again(capsys):
    command = ["compare", "Reinforce", "DisARM", "--on", "OneBit", "--replicates", "256"]
    main([*command, "--out", "r.json", "--report", "at_once.pdf"])
    out = capsys.readouterr().out
    assert out.endswith("wrote r.json\nwrote at_once.pdf\n")
    found = Diagnosis.load("r.json")
    assert [f.estimator for f in found.findings] == ["Reinforce(baseline=None)", "DisARM()"] and found.ratios
    assert main(["report", "r.json"]) == 0
    assert main(["report", "r.json", "--out", "named.pdf"]) == 0
    at_once, beside, named = (Path(p).read_bytes() for p in ("at_once.pdf", "r.pdf", "named.pdf"))
    assert at_once.startswith(b"%PDF") and at_once == beside == named
    assert {p.name for p in Path().iterdir()} == {"r.json", "at_once.pdf", "r.pdf", "named.pdf"}


def test_a_saved_result_loads_equal():
    found = lab.compare([lab.estimators.Reinforce(), lab.estimators.MeanField()], lab.problems.OneBit(), budget=256)
    found.save("r.json")
    loaded = Diagnosis.load("r.json")
    assert loaded.to_json() == found.to_json() and loaded.digest == found.digest
    assert loaded.summary() == found.summary() and (loaded.status, loaded.verdict) == (found.status, found.verdict)
    loaded.save("again.json")
    assert Path("again.json").read_bytes() == Path("r.json").read_bytes()


def test_same_seed_same_result():
    for path, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        main(["compare", "Reinforce", "Rebar", "--on", "TwoLayer", "--replicates", "64", "--seed", seed, "--out", path])
    assert same("a") == same("b") != same("c")


# ---------------------------------------------------------------------- what is printed
def test_progress_is_a_plain_line_where_no_terminal_is(capsys):
    with _Progress("truth") as progress:
        progress.update("REINFORCE on one bit", 32, 512)
        assert capsys.readouterr().err == ""  # not at once
        progress._said -= 6
        progress.update("REINFORCE on one bit", 64, 512)
    assert capsys.readouterr().err == "REINFORCE on one bit: 64 of 512 replicates\n"


def test_names_are_not_read_as_markup(capsys):
    Path("odd.py").write_text(BIASED.replace("unbiased = True", "label = '[/b] x[red]'"))
    assert main(small("odd.py")) in (0, 1, 2)
    assert "[/b] x[red]" in capsys.readouterr().out


def test_a_closed_pipe_keeps_the_exit_code():
    Path("lean.py").write_text(BIASED)
    with subprocess.Popen([SCRIPT, *small("lean.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 1
        assert b"BrokenPipe" not in process.stderr.read()


def test_exit_codes_are_those_of_the_design():
    assert cli.EXIT == {"sound": 0, "violated": 1, "inconclusive": 2}
    assert (lab.UsageError.exit_code, lab.MeasurementError.exit_code) == (3, 4)


def test_ratios_come_as_a_frame():
    pair = [lab.estimators.Reinforce(), lab.estimators.DisARM()]
    exact = lab.compare(pair, on=lab.problems.Parity(), budget=64).ratio_frame()
    found = lab.compare(pair, on=lab.problems.Parity(), budget=4096, exact=False)
    frame = found.ratio_frame()
    assert set(frame["reference"]) == {"REINFORCE"} and set(frame["estimator"]) == {"DisARM"}
    assert ((frame["variance_low"] < frame["variance"]) & (frame["variance"] < frame["variance_high"])).all()
    assert ((frame["variance_low"] < exact["variance"]) & (exact["variance"] < frame["variance_high"])).all()
    assert (exact["variance_low"] == exact["variance_high"]).all() and frame["paired"].all()
    assert frame["work"].to_numpy() == pytest.approx(2 * frame["variance"].to_numpy())


# ---------------------------------------------------------------------- baselines
@pytest.fixture
def saved(folder, capsys):
    """A baseline of a file's own estimator."""
    (folder / "mine.py").write_text("import estimator_lab as lab\nclass Mine(lab.estimators.DisARM): pass\n")
    few = ["--replicates", "1024"]
    assert main(["baseline", "save", "mine.py:Mine", "--on", "OneBit", "--on", "OneBit", *few]) == 0
    (path,) = (folder / "baselines").iterdir()
    assert capsys.readouterr().out.count("wrote ") == 1  # what is named twice is measured once
    return path


@pytest.mark.parametrize(
    "action", [["save", "mine.py:Mine", "--folder", "file/b"], ["accept", "file/b", "--reason", "r"]]
)
def test_what_cannot_be_written_is_not_measured(action, saved, folder, capsys, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setattr(lab.Baseline, "measure", lambda *_, **__: pytest.fail("measured"))
    assert main(["baseline", *action]) == 3
    assert "cannot write file/b" in capsys.readouterr().err


def test_a_mistake_names_the_baseline_that_it_belongs_to(saved, folder, capsys):
    shown = saved.relative_to(folder)
    (folder / "mine.py").write_text((folder / "mine.py").read_text().replace("Mine", "Other"))
    for command in (["check"], ["accept", str(shown), "--reason", "r"]):
        assert main(["baseline", *command]) == 3
        assert f"estimator-lab: {shown}: mine.py has no 'Mine'; it has Other\n" in capsys.readouterr().err
    assert main(["baseline", "check", "--replicates", "3"]) == 3
    assert "\n" not in capsys.readouterr().err.strip()
    assert main(["baseline", "accept", "baselines", "--reason", "r"]) == 3
    assert "baselines is a folder; name the files" in capsys.readouterr().err


def test_a_bias_that_appeared_is_not_said_to_be_meant(saved, folder, capsys):
    (folder / "mine.py").write_text(
        "import estimator_lab as lab\n"
        "class Mine(lab.estimators.DisARM):\n"
        "    def surrogate(self, site, downstream): return 2 * super().surrogate(site, downstream)\n"
    )
    assert main(["baseline", "check"]) == 1
    told = capsys.readouterr().out
    assert "worse: bias" in told and "if that is meant" not in told
    assert "\n  estimator-lab diagnose mine.py:Mine --on OneBit says what it looks like\n" in told


def test_a_baseline_after_an_editor_and_after_a_merge(saved, capsys):
    text = saved.read_text(encoding="utf-8")
    saved.write_text(text, encoding="utf-8-sig")
    assert main(["baseline", "diff", str(saved), str(saved)]) == 0
    saved.write_text(text.replace(' "seed"', '<<<<<<< HEAD\n "seed": 1,\n=======\n "seed"', 1))
    assert main(["baseline", "diff", str(saved), str(saved)]) == 3
    assert "holds the marks of a merge conflict; take one side" in capsys.readouterr().err
    saved.write_text(text.replace('"schema": 1', '"schema": "1"'))
    assert main(["baseline", "diff", str(saved), str(saved)]) == 3
    assert "has schema '1', this version reads" in capsys.readouterr().err
