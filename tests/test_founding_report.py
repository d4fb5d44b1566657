"""The reports of the two founding papers at toy size: claims, parts that are missing, figures whose words fit."""

import dataclasses
import io
import itertools
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pypdf
import pytest

from estimator_lab.errors import UsageError
from estimator_lab.report.claims import claims_table, tally, tally_lines, tally_words, typeset
from estimator_lab.report.figures.style import STYLE
from estimator_lab.report.story import table, text
from estimator_lab.report.study import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
import bengio2013
import bengio2013_figures
import bengio2013_report
import cho2014
import cho2014_figures
import cho2014_report
from claims import VERDICTS, Claim, load, save

LONG = (
    "The mean over all 2^k states differs from the derivative by 3e-16 of one draw's size, at p = 0.2 and at p = 0.8. "
)


def made(letter: str, number: int, verdict: int, words: int = 1, **changes: object) -> Claim:
    fields = dict(
        id=f"{letter}{number}", statement=f"Statement {number}: (h - p) L is unbiased.", source="Theorem 1",
        verdict=VERDICTS[verdict], evidence=LONG * words + f"end-{letter}{number}.", numbers={},
    )  # fmt: skip
    return Claim(**{**fields, **changes})


CLAIMS = [
    made("A", 1, 0),
    made("A", 3, 1, 3),
    made("A", 10, 2, id="A10b"),
    made("A", 9, 3),
    made("E", 6, 3),
    made("A", 8, 0, reconstruction=True),
]
TREES = [made("B", 1, 0), made("B", 7, 1, reconstruction=True), made("B", 9, 3, reconstruction=True)]


class Kept(Study):
    """Remembers the figures of the last report."""

    def render(self) -> bytes:
        Kept.drawn = dict(self.figures)
        return super().render()


@pytest.fixture(scope="module")
def neurons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bengio2013")
    bengio2013.main(["--quick", "--gates", "noisy-rectifier", "rectifier", "st", "sts", "--out", str(folder)])
    tested = {claim.id for claim in load(folder / "bengio2013_claims.json")}
    assert tested >= {"A1", "A10a", "E7"} and (folder / "bengio2013.pdf").exists()
    save(CLAIMS, folder / "bengio2013_claims.json")
    return folder


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cho2014")
    (folder / "cho2014.json").write_text(json.dumps(cho2014.study(cho2014.QUICK, "python analyses/cho2014.py --quick")))
    save(TREES, folder / "cho2014_claims.json")
    return folder


def pages(path: Path) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(path).pages]


def words_fit(figure: matplotlib.figure.Figure) -> None:
    """No word leaves the figure, and none lies on a word of the same kind."""
    with matplotlib.rc_context(dict(STYLE)):
        figure.draw_without_rendering()
    outer = figure.bbox.padded(3)
    for ax in figure.axes:
        if not ax.get_visible():
            continue
        ticks = [[t for t in axis.get_ticklabels() if t.get_text()] for axis in (ax.xaxis, ax.yaxis)]
        titles = [t for t in (ax.title, ax._left_title) if t.get_text()]
        for kind in (*ticks, [*titles, *(t for t in ax.texts if t.get_text()), ax.xaxis.label, ax.yaxis.label]):
            boxes = [t.get_window_extent() for t in kind if t.get_visible() and t.get_text()]
            inside = [b for b in boxes if ax.bbox.padded(2).overlaps(b) or kind not in ticks]
            for box in inside:
                assert outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
            assert not any(a.overlaps(b) for a, b in itertools.combinations(inside, 2)), figure
    titles = [
        t.get_window_extent() for ax in figure.axes for t in (ax._left_title,) if ax.get_visible() and t.get_text()
    ]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(titles, 2))


# ---------------------------------------------------------------------- the table of claims
def render(claims, **changes) -> pypdf.PdfReader:
    study = Study("claims", "Claims", "", "2026-01-01", "x", "true", headline=tally_words(claims))
    study.sections = [("Claims", [claims_table([("", claims)], "Claims.")])]
    return pypdf.PdfReader(io.BytesIO(dataclasses.replace(study, **changes).render()))


def test_no_claim_is_divided_between_pages():
    claims = [made("C", k, k % 4, 1 + k % 5) for k in range(40)]
    found = [" ".join(page.extract_text().split()) for page in render(claims).pages]
    assert len(found) > 3
    for claim in claims:
        assert any(f"Statement {claim.id[1:]}:" in page and f"end-{claim.id}." in page for page in found)
    assert all("Claim Verdict Evidence" in page for page in found if "end-" in page)


def test_a_verdict_has_a_word_and_a_sign_and_a_colour():
    rows = claims_table([("", CLAIMS)], "")["parts"][0]["rows"]
    by_verdict = {r["verdict"]: (r["mark"], r["tone"]) for r in rows}
    assert len(by_verdict) == len(VERDICTS) == len({m for m, _ in by_verdict.values()})
    shown = render(CLAIMS).pages[0].extract_text()
    for verdict, (mark, _) in by_verdict.items():
        assert mark in shown and verdict.split()[0] in shown
    assert shown.count("reconstruction") == 1
    with pytest.raises(KeyError):
        claims_table([("", [_bad()])], "")


def _bad():
    claim = made("A", 1, 0)
    object.__setattr__(claim, "verdict", "perhaps")
    return claim


def test_tally():
    assert tally(CLAIMS) == {
        "holds": ["A1", "A8"],
        "holds with a condition": ["A3"],
        "not decided": ["A10b"],
        "does not hold": ["A9", "E6"],
    }
    counts = "2 hold, 1 holds with a condition, 1 is not decided and 2 do not hold."
    assert tally_words(CLAIMS) == f"Of 6 statements {counts}"
    assert tally_words(CLAIMS, "passage", "passages of it") == f"Of 6 passages of it {counts}"
    assert tally_words([CLAIMS[2]] * 2) == "All 2 statements are not decided."
    assert tally_words(CLAIMS[3:5]) == "All 2 statements do not hold."
    assert tally_words(CLAIMS[:1]) == "The statement holds." and tally_words([], "claim") == "No claim was tested."
    assert tally_lines(CLAIMS)[0] == "● holds: A1, A8"


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("-0.5 to 3.2e-16", "−0.5 to 3.2\u202f×\u202f10⁻¹⁶"),
        ("1e-06 and 0e+00", "10⁻⁶ and 0"),
        ("(h - p)^2 <= sqrt(p) or sqrt p", "(h − p)² ≤ √p or √p"),
        ("p^1.5, 2^k, x_j, f''(x)", "p^1.5, 2^k, x_j, f''(x)"),
        ("4-3-2 units, pre-activation, Eq. (10)-(12)", "4-3-2 units, pre-activation, Eq.\u00a0(10)-(12)"),
        ("37% at 0.9", "37\u202f% at 0.9"),
        ("the first section", "the first section"),
    ],
)
def test_formulas_as_they_are_typed(typed, printed):
    assert typeset(typed) == printed


def test_powers_are_raised():
    found = render([made("A", 1, 0, statement="falls as p^1.5 and (1 - e w)^(2^l), x_j")]).pages[0].extract_text()
    assert "^" not in found and "_j" not in found


# ---------------------------------------------------------------------- the reports
def test_the_report_on_neurons(neurons, monkeypatch):
    monkeypatch.setattr(bengio2013_report, "Study", Kept)
    found = pages(bengio2013_report.report(neurons))
    assert "1 Claims" in found[0] and "end-A1." in found[0]
    assert (  # three tallies: of the paper, misprints and errata, and ours
        "Of 4 claims of the paper 1 holds, 1 holds with a condition, 1 is not decided and 1 does not hold. The passage "
        "taken to the letter does not hold. The statement of ours holds." in found[0]
    )
    text = " ".join(found)
    assert "\\u{" not in text and "not been" not in text and "nan" not in text.split()
    for part in (
        "toy",
        "noisy rectifier",
        "Training loss",
        "1.52",
        "trained with STS",
        "units of the gater",
    ):
        assert part in text
    assert len(Kept.drawn) == 10
    for figure in Kept.drawn.values():
        words_fit(figure)


def test_gradients_at_the_papers_width_are_shown_beside_the_others(neurons, tmp_path, monkeypatch):
    """And everything is shown of them where they are alone."""
    monkeypatch.setattr(bengio2013_report, "Study", Kept)
    results = json.loads((neurons / "bengio2013.json").read_text())
    results["scale"], results["command"] = "paper", "python analyses/bengio2013.py --scale paper"
    (tmp_path / "bengio2013_paper.json").write_text(json.dumps(results))
    alone = " ".join(pages(bengio2013_report.report(tmp_path)))
    assert "At the paper’s width" not in alone and "as published" in alone and len(Kept.drawn) == 10
    (tmp_path / "bengio2013.json").write_text((neurons / "bengio2013.json").read_text())
    text = " ".join(pages(bengio2013_report.report(tmp_path)))
    assert "At the paper’s width" in text and "20 gates, 2 epochs, 2 seeds" in text
    assert "Truth: exact: closed form" in text and "--scale paper" in text and len(Kept.drawn) == 11
    for figure in Kept.drawn.values():
        words_fit(figure)


def test_a_break_even_is_never_at_a_width_that_was_not_timed():
    found = {"workload": {"widths": [25, 800]}}
    within = bengio2013_report.within
    assert within(found, {"low": None, "high": 47.0}) == within(found, {"low": -39.0, "high": 47.0}) == "below 25 to 47"
    assert within(found, {"low": 101.4, "high": None}) == "101 to above 800"


def test_the_report_on_trees(trees, monkeypatch):
    monkeypatch.setattr(cho2014_report, "Study", Kept)
    path = cho2014_report.report(trees)
    first = path.read_bytes()
    assert cho2014_report.report(trees).read_bytes() == first
    found = pages(path)
    assert "1 Claims" in found[0] and "end-B1." in found[0]
    assert (
        "The claim of the abstract holds. Of 2 statements from reviews or reconstructed 1 holds with a condition and 1 "
        "does not hold." in found[0]
    )
    text = " ".join(found)
    assert "\\u{" not in text and "not there yet" not in text and text.count("reconstruction") >= 2
    assert len(Kept.drawn) == 6
    for figure in Kept.drawn.values():
        words_fit(figure)


@pytest.mark.parametrize("module", [bengio2013_report, cho2014_report])
def test_what_is_missing_is_said(module, tmp_path):
    text = " ".join(pages(module.report(tmp_path)))
    assert "The claims have not been tested yet" in text and "No claim was tested" in text
    for part in {bengio2013_report: ("No network has been trained yet", "timed yet", "measured yet")}.get(
        module, ("measurements of capacity are not there yet", "trainings are not there yet")
    ):
        assert part in text


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "of others", "quick": true}'])
@pytest.mark.parametrize("module", [bengio2013_report, cho2014_report])
def test_files_of_others_are_told_in_one_line(module, content, tmp_path):
    name = module.__name__.removesuffix("_report")
    for file in (f"{name}.json", f"{name}_claims.json"):
        (tmp_path / file).write_text('{"of": "others"}' if content == "[]" else content)
        with pytest.raises(UsageError, match=rf"{file} (is truncated or no JSON|is JSON but holds something else)"):
            module.report(tmp_path)
        (tmp_path / file).unlink()


def test_a_title_does_not_stand_alone_at_the_foot_of_a_page():
    rows = [["a", str(k)] for k in range(25)]
    for lines in range(29, 34):
        study = Study("x", "X", "", "2026-01-01", "x", "true", headline="X")
        filled = [text("word") for _ in range(lines)]
        columns = [("A", "left", "1fr"), ("B", "right", "auto")]
        study.sections = [("Section", [*filled, table(columns, [("", rows)], "A title.")])]
        read = [page.extract_text().strip().splitlines() for page in pypdf.PdfReader(io.BytesIO(study.render())).pages]
        (page, at) = next((p, k) for p in read for k, line in enumerate(p) if line.startswith("Table 1."))
        assert len(page) - at > 3  # the head, a row and the foot of the page


def test_one_seed_and_no_gradients(neurons, tmp_path):
    results = json.loads((neurons / "bengio2013.json").read_text())
    results["trainings"] = [t for t in results["trainings"] if t["seed"] == 0]
    results["summary"] = bengio2013.plain(bengio2013.summary(results))
    results["trajectory"] = results["saving"] = None
    (tmp_path / "bengio2013.json").write_text(json.dumps(results))
    text = " ".join(pages(bengio2013_report.report(tmp_path)))
    assert "With one seed of each gate no two gates can be compared." in text
    assert (
        "have not been measured yet" in text
        and "has not been timed yet" in text
        and "±" not in text.split("Table 3")[0]
    )


# ---------------------------------------------------------------------- formulas of the figures
def test_laws_of_the_neurons_are_those_of_their_draws():
    u = (np.arange(200_000) + 0.5) / 200_000  # a midpoint rule
    for neuron in bengio2013_figures.NEURONS:
        for a in (-2.0, 0.5, 3.0):
            at, h = np.array(a), neuron.draw(np.full_like(u, a), u)
            slope = (neuron.mean(at + 1e-5) - neuron.mean(at - 1e-5)) / 2e-5
            found = h.mean(), (h > 0).mean(), (h * h).mean(), slope
            formulas = neuron.mean(at), neuron.active(at), neuron.square(at), neuron.slope(at)
            np.testing.assert_allclose(found, formulas, atol=1e-4)
    code, printed = bengio2013_figures.NEURONS[4], bengio2013_figures.NEURONS[3]
    assert abs(code.mean(np.array(0.5)) - printed.mean(np.array(0.5))) > 0.1  # what it would look like if mixed up


def test_two_layers_by_enumeration():
    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    c, step = 5.0, 1e-6

    def expected(a):
        p = sigmoid(a)
        low, high = (sigmoid(np.array([h, h + c])) @ np.array([1, -1.5]) for h in (0.0, 1.0))
        return (1 - p) * low + p * high

    curves = {k: float(v[0]) for k, v in bengio2013_figures.two_layers(np.array([c])).items()}
    assert curves["truth"] == pytest.approx((expected(step) - expected(-step)) / (2 * step), abs=1e-9)
    assert curves["truth"] == pytest.approx(0.05618206, abs=1e-8)
    assert curves["with sigmoid derivative"] == pytest.approx(0.05411751, abs=1e-8)


@pytest.mark.parametrize("draw", ["clouds", "laws", "baselines", "wrong_sign", "perturbations", "smooth_units"])
def test_figures_leave_no_trace(draw):
    before = dict(matplotlib.rcParams)
    words_fit(getattr(bengio2013_figures, draw)())
    assert dict(matplotlib.rcParams) == before


def test_words_that_collide_are_found():
    figure = cho2014_figures.tree()
    words_fit(figure)
    figure.axes[0].text(0.62, cho2014_figures.LEVELS[0], "on top of it")
    with pytest.raises(AssertionError):
        words_fit(figure)


def test_eager_and_lazy_decay_are_equal_at_visits():
    path = cho2014_figures.decay().axes[0]
    eager, lazy = (path.lines[k].get_ydata() for k in (0, 1))
    at = np.array(cho2014_figures.VISITS) + 1
    np.testing.assert_allclose(np.asarray(eager)[at], np.asarray(lazy)[at], rtol=1e-14)
    assert not np.allclose(eager, lazy)
