"""The analysis of the corpus of mistakes on a few of them: the file says what its docstring promises, the PDF shows it.

Outcomes of exact sums and of structure are certain here; what rests on draws has a false-alarm rate of 1e-6 a call.
"""

import copy
import json
import sys
from pathlib import Path

import pytest
from mutants import KINDS

import estimator_lab as lab
from estimator_lab.conformance import means
from estimator_lab.conformance.points import points
from estimator_lab.estimators import HeldMask
from estimator_lab.report.study import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))

import mutation
import mutation_report

CHOSEN = ("DoubledScore", "DefaultPrecision", "MirroredPair")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The analysis of three mutants, one equivalent, one more held out, and a healthy one, at two points of a law."""
    path = tmp_path_factory.mktemp("mutation")
    kinds = [k for k in KINDS if k.__name__ in CHOSEN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutation, "KINDS", kinds)
        patch.setattr(mutation, "HELD_OUT", [k for k in KINDS if k.__name__ == "ExtraDetach"])
        patch.setattr(mutation, "THIRD_SET", [])
        patch.setattr(mutation, "ESTIMATORS", (HeldMask(),))
        for module in (mutation, means):
            patch.setattr(module, "points", lambda family: points(family)[:2])
        patch.setattr(mutation, "warm", lambda: None)
        mutation.main(["--out", str(path / "found.json")])
    return path


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def words(blocks):
    """Everything that blocks say."""
    return json.dumps(blocks, ensure_ascii=False)


def blank():
    return Study("", "", "", "2026-01-01", "", "")


def test_the_file_holds_what_is_promised(found):
    for row in (found, *found["mutants"], *found["checks"].values(), *found["healthy"], found["summary"]):
        assert all(f"``{key}``" in mutation.__doc__ for key in row), row.keys()
    assert found["schema"] == 1 and not found["quick"] and found["seconds"] > 0
    for row in (*found["mutants"][0]["outcomes"], *found["mutants"][0]["named"]):
        assert all(f"``{key}``" in mutation.__doc__ for key in row), row.keys()


def test_numbers_mean_what_they_say(found):
    doubled, stateful, mirrored = found["mutants"]
    assert doubled["first"].startswith(mutation.CLAIM) and doubled["sampled"] >= 256 and not doubled["unseen"]
    assert doubled["named"][0]["label"] == "gain 2"
    assert stateful["first"] == "touches no global state" and stateful["sampled"] is None
    assert stateful["unseen"] == "no mean is wrong at these points"
    assert not mirrored["killed"] and mirrored["same"]["points"] == 2 and mirrored["same"]["gap"] < 1e-12
    for m in (doubled, stateful):
        assert m["first"] == next(o["check"] for o in m["outcomes"] if o["status"] == "failed")
        until = [o["check"] for o in m["outcomes"]].index(m["first"]) + 1
        spent = [o["seconds"] for o in m["outcomes"]]
        assert sum(spent[:until]) - 0.01 <= m["seconds"] <= sum(spent[:until]) + 1
    s = found["summary"]
    assert (s["mutants"], s["equivalent"], s["killed"], s["rate"], s["alarms"], s["misnamed"]) == (2, 1, 2, 1.0, 0, 0)
    assert s["seconds"] == pytest.approx(doubled["seconds"] + stateful["seconds"], abs=0.01)
    assert (s["held_out"]["mutants"], s["held_out"]["killed"]) == (1, 1)


def test_rates_of_checks(found):
    """Over those that a check has something to say of, and over all that are mistakes."""
    first = found["mutants"][0]["first"]
    one = found["checks"][first]
    assert (one["run"], one["kills"], one["rate"], one["share"], one["first"], one["certain"]) == (2, 1, 0.5, 0.5, 1, 1)
    assert one["only"] == [] and one["draws"] is None and one["seconds"] > 0
    assert found["checks"]["touches no global state"]["only"] == ["DefaultPrecision"]
    other = found["checks"]["has the mean of the other"]
    assert other["run"] == 0 and other["rate"] is None
    rows = copy.deepcopy(found["mutants"])
    for row, draws in zip(rows, (256, 1024, 4096), strict=True):  # the last one is equivalent
        row["outcomes"] = [{"check": "a", "status": "failed", "told": "", "draws": draws, "seconds": 1.0}]
    (drawn,) = mutation.by_check(rows).values()
    assert (drawn["run"], drawn["kills"], drawn["certain"], drawn["draws"]) == (2, 2, 0, 640)


def test_a_claim_at_one_point_is_one_check_for_all_laws(found):
    """A kill on either law is one kill, of a check that was run once."""
    two = copy.deepcopy(found)
    outcome = {"status": "failed", "told": "", "seconds": 1.0}
    names = [f"{mutation.CLAIM}one unit ({laws})" for laws in ("Bernoulli()", "Normal()", "Normal(), Bernoulli()")]
    two["mutants"][0]["outcomes"] = [{**outcome, "check": name, "draws": 512} for name in names]
    two["mutants"][1]["outcomes"] = [{**outcome, "check": names[0], "draws": 0}]
    two["checks"] = mutation.by_check(two["mutants"])
    c = mutation_report.tally(two)["unbiased: one unit"]
    assert (c["run"], c["kills"], c["only"], c["certain"], c["draws"]) == (2, 2, 2, 1, 512)


def test_the_matrix_shows_what_fails_first(found):
    names = list(dict.fromkeys(mutation_report.column(c) for c in found["checks"]))
    (mesh,) = mutation_report.matrix(found["mutants"][:2], names).axes[0].collections
    grid = mesh.get_array().reshape(2, -1)
    doubled, stateful = found["mutants"][:2]
    state = dict.fromkeys(range(len(names)), mutation_report.SILENT)
    for outcome in doubled["outcomes"]:
        j = names.index(mutation_report.column(outcome["check"]))
        state[j] = max(state[j], mutation_report.STATES.get(outcome["status"], mutation_report.SILENT))
    state[names.index(mutation_report.column(doubled["first"]))] = mutation_report.FIRST
    assert grid[0].tolist() == list(state.values())
    assert grid[0, names.index("has the mean of the other")] == mutation_report.SILENT
    assert grid[1, names.index(stateful["first"])] == mutation_report.FIRST


def test_the_pdf_is_a_function_of_the_json(folder):
    first = (folder / "found.pdf").read_bytes()
    mutation.main(["--report", "--out", str(folder / "found.json")])
    assert (folder / "found.pdf").read_bytes() == first and first.startswith(b"%PDF")


def test_the_first_page_says_so_where_something_is_wrong(found):
    tone, head, lines = mutation_report.verdict(found)
    assert tone == "good" and head.startswith("All 2 broken estimators are found") and "no false alarm" in head
    assert any("2 of them (100 %)" in line for line in lines)
    worse = copy.deepcopy(found)
    worse["mutants"][0] |= {"killed": False, "first": None}
    worse["healthy"][0]["failed"] = ["can be repeated"]
    worse["summary"] |= {"killed": 1, "alarms": 1}
    tone, head, lines = mutation_report.verdict(worse)
    assert tone == "bad" and head.startswith("1 of 2 broken estimators") and "1 false alarm on 1 healthy one" in head
    assert "Not found: DoubledScore." in lines
    assert "1 alarm" in words(mutation_report.healthy(worse)) and "can be repeated" in words(
        mutation_report.healthy(worse)
    )
    assert '"not found"' in words(mutation_report.corpus(worse))
    silent = copy.deepcopy(found)
    silent["mutants"][0]["named"] = []
    silent["summary"]["named"] = 1
    assert mutation_report.verdict(silent)[0] == "open"
    assert "DoubledScore" in words(mutation_report.named(silent)) and "DoubledScore" not in words(
        mutation_report.named(found)
    )
    assert mutation_report.checks(blank(), worse)


def test_numbers_of_those_held_out_add_up(found):
    """Three are found, two of them named; of two that are not found one is named."""
    row = found["mutants"][0]
    assert mutation_report.true_first(row)
    lost, misnamed = {**row, "killed": False}, {**row, "named": []}
    rows = [row, row, misnamed, lost, {**lost, "named": []}]
    said = mutation_report.both(rows)
    assert said == "3 are found, and 3 have their true cause named first, 1 of them among the 2 that no check finds"
    assert "no check finds" not in mutation_report.both([row, misnamed])
    assert mutation_report.both([row, lost]).endswith("; the one that no check finds is among them")
    told = words(mutation_report.held_out({**found, "held_out": rows}))
    assert said in told and "for 13 of 20, 11 of 17 and 8 of 26" in told and "no longer blind" in told
    assert said in " ".join(mutation_report.verdict({**found, "held_out": rows})[2])


def test_table_and_matrix_share_the_order_in_which_checks_are_run(found):
    """Row by row and column by column, and that is the order of every list of outcomes."""
    order = list(mutation_report.tally(found))
    (rows,) = [b for b in mutation_report.checks(blank(), found) if b["kind"] == "table"]
    listed = [r[0] for part in rows["parts"] for r in part["rows"]]
    assert listed == [name.removeprefix("unbiased: ") for name in order]
    for mutant in found["mutants"]:
        places = [order.index(mutation_report.column(o["check"])) for o in mutant["outcomes"]]
        assert places == sorted(places)
    study = blank()
    mutation_report.checks(study, found)
    labels = [t.get_text() for t in study.figures["figure-1.svg"].axes[0].get_xticklabels()]
    assert len(labels) > 1 and labels == [name for name in order if name in labels]


def test_all_checks_that_find_most_are_said():
    row = {"run": 4, "only": 0}
    every = {"a": {**row, "kills": 3}, "b": {**row, "kills": 3}, "c": {**row, "kills": 1}}
    assert "“a” and “b” find most: 3 each." in mutation_report.checks_words(every)
    assert "“c” finds most: 1 of the 4 it applies to." in mutation_report.checks_words({"c": every["c"]})


def test_mistakes_are_told_in_a_line():
    row = {"told": "Mixes\n    examples (a/b#3: twice).", "source": "a/b#3"}
    assert mutation_report.mistake(row) == "Mixes examples (a/b#3: twice)."
    assert mutation_report.mistake({**row, "told": "Mixes examples."}) == "Mixes examples (a/b#3)."
    assert mutation_report.mistake({"told": "(K - 1) / K^2", "source": "canonical"}) == "(K − 1) / K²"


def test_wrong_usage_names_the_remedy(folder, tmp_path):
    with pytest.raises(lab.UsageError, match="measure first"):
        mutation.main(["--report", "--out", str(tmp_path / "none.json")])
    with pytest.raises(lab.UsageError, match="name another --out"):
        mutation.main(["--quick", "--out", str(folder / "found.json")])
