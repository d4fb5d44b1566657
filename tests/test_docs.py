"""README, CONTRIBUTING and docstrings say what the code does.

Markers are comments before a fenced block: ``<!-- file: NAME -->`` names the file that the block is, ``<!-- run -->`` a
command with its output, ``<!-- output -->`` the output of the Python block above, ``<!-- table: NAME -->`` a table made
from the package's own. ``python tests/test_docs.py`` rewrites outputs and tables.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest

import estimator_lab as lab
from estimator_lab import cli
from estimator_lab.estimator import about
from estimator_lab.estimators.exact import NUMBER_LIMIT

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "estimator_lab"
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d\u202f]*(?:\.\d+)?(?:e[+-]?\d+)?")


class Fence(NamedTuple):
    mark: str
    language: str
    text: str
    span: tuple[int, int]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str) -> list[Fence]:
    return [Fence(m["mark"] or "", m["language"], m["text"], m.span("text")) for m in BLOCK.finditer(text)]


# ------------------------------------------------------------------------------------------------ running the blocks
@contextlib.contextmanager
def workplace(folder: Path):
    """A folder to run blocks in as a user would: current, importable, plots drawn nowhere; nothing is left behind."""
    modules, path, backend = set(sys.modules), sys.path[:], matplotlib.get_backend()
    matplotlib.use("agg")
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        from matplotlib import pyplot

        pyplot.close("all")
        matplotlib.use(backend)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def run_python(text: str, name: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(name, run_name=Path(name).stem)
    return out.getvalue()


def run_command(line: str) -> str:
    """The line and what it prints, as on a terminal; the exit code of ``; echo $?`` is added."""
    command, echo, _ = line.partition("; echo $?")
    words = shlex.split(command)
    assert words[0] == "estimator-lab"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.main(words[1:])
    printed = "\n".join(row.rstrip() for row in out.getvalue().splitlines())
    return f"$ {line}\n{printed}\n" + (f"{code}\n" if echo else "")


def run(name: str, folder: Path) -> list[tuple[Fence, str]]:
    """Runs every block of a document in order; pairs of a block that shows an output and the output found."""
    found, last = [], ""
    with workplace(folder):
        for index, fence in enumerate(fences(read(name))):
            kind, _, file = fence.mark.partition(": ")
            if kind == "run":
                found.append((fence, run_command(fence.text.partition("\n")[0].removeprefix("$ "))))
            elif kind == "output":
                found.append((fence, last))
            elif fence.language == "python":
                last = run_python(fence.text, file or f"block_{index}.py")
    return found


def same(shown: str, found: str) -> None:
    """Equal words, which no seed decides; numbers to 20 %, without times, intervals and what is read off intervals."""

    def plain(text: str) -> str:
        text = re.sub(
            r"^(.*\((?:as claimed|as declared|declared biased|no claim|violated|inconclusive)\).* )\S+( +\d+)$",
            r"\1TIME\2",
            text,
            flags=re.M,
        )
        text = re.sub(r"\[[^\]]*, [^\]]*\]", "[INTERVAL]", text)
        text = re.sub(NUMBER.pattern + r" (%|replicates)", r"N \1", text)
        return re.sub(r"[ \t]+", " ", text).replace("[ ", "[").strip()

    shown, found = plain(shown), plain(found)
    assert NUMBER.sub("#", shown) == NUMBER.sub("#", found)
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(found), strict=True):
        assert math.isclose(float(a), float(b), rel_tol=0.2, abs_tol=1e-9), (a, b)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_runs_and_prints_what_is_shown(name, tmp_path):
    found = run(name, tmp_path)
    assert name != "README.md" or len(found) >= 3
    for fence, output in found:
        same(fence.text, output)


def test_the_command_of_the_readme_as_a_process(tmp_path):
    """The exit code, from a fresh interpreter."""
    blocks = fences(read("README.md"))
    user = next(f for f in blocks if f.mark.startswith("file: "))
    (tmp_path / user.mark.removeprefix("file: ")).write_text(user.text, encoding="utf-8")
    line = next(f for f in blocks if f.mark == "run").text.partition("\n")[0].removeprefix("$ ")
    words = shlex.split(line.partition(";")[0])[1:]
    command = [sys.executable, "-m", "estimator_lab.cli", *words, "--replicates", "4096"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Claims to be unbiased and is not" in done.stdout


def test_the_numbers_of_exact_moments(tmp_path):
    """To the digits shown: they are exact, on any machine."""
    blocks = fences(read("README.md"))
    place = next(i for i, f in enumerate(blocks) if "exact_moments" in f.text)
    assert blocks[place + 1].mark == "output"
    with workplace(tmp_path):
        assert run_python(blocks[place].text, "exact.py") == blocks[place + 1].text


# ------------------------------------------------------------------------------------------------------------- tables
def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def linked(reference: str) -> str:
    """The first source of a reference, its arXiv number or doi as a link."""
    first = re.split(r"; |(?<=\)), ", reference.rstrip("."))[0]
    first = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", first)
    return re.sub(r"doi:(10\.[^)\s]+)", r"[doi:\1](https://doi.org/\1)", first)


def law(families: tuple[type, ...]) -> str:
    return ", ".join({"Family": "any", "Discrete": "discrete"}.get(f.__name__, f.__name__) for f in families)


def estimators() -> str:
    rows = []
    for estimator in lab.estimators.ESTIMATORS:
        said = about(estimator)
        claim = {True: "unbiased", False: "biased", None: "none"}[estimator.unbiased]
        cost = said["cost"].split(". ")[0].rstrip(".")
        name = repr(estimator).removesuffix("()")
        rows.append((f"`{name}`", claim, law(estimator.families), cost, linked(said["source"]) or "–"))
    return table(("name", "claim", "sites", "cost of a draw", "reference"), rows)


def states_of(site: lab.SiteSpec) -> int:
    return site.family.rule_size(1) ** math.prod(site.units)


def problems() -> str:
    rows, firsts = [], {}
    for problem in (*lab.problems.TOYS, *lab.problems.NETWORKS):
        sites, states, continuous = [], 1, False
        for site in problem.sites:
            states *= states_of(site)
            continuous |= not site.family.discrete
            sites.append(f"{math.prod(site.units)} {type(site.family).__name__}")
        truth = "estimated"
        if type(problem).expected_loss is not lab.Problem.expected_loss:
            truth = "closed form"
        elif continuous:
            truth = "quadrature"
        elif states * problem.batch * sum(math.prod(s.units) for s in problem.sites) <= NUMBER_LIMIT:
            truth = f"sum over {states} states"
        elif max(states_of(site) for site in problem.sites) <= 2**12:
            truth = "sum layer by layer"
        summary = inspect.cleandoc(type(problem).__doc__).split("\n\n")[0].replace("\n", " ").replace("``", "`")
        first = firsts.setdefault(type(problem), problem)
        if first is not problem:
            summary = "The same with other arguments."
        arguments = f"({cli._changed(problem, first)})" if first is not problem else ""
        name = f"`{type(problem).__name__}{arguments}`"
        rows.append((name, " → ".join(sites), str(problem.batch), truth, summary))
    return table(("name", "layers", "examples", "truth", "what it is"), rows)


TABLES = {"estimators": estimators, "problems": problems}


def with_tables(text: str) -> str:
    for name, make in TABLES.items():
        start, end = f"<!-- table: {name} -->\n", f"<!-- end of {name} -->"
        assert text.count(start) == text.count(end) == 1, f"README.md needs one table {name!r}"
        before, rest = text.split(start)
        text = before + start + "\n" + make() + "\n" + end + rest.split(end)[1]
    return text


def test_tables_are_those_of_the_package():
    text = read("README.md")
    assert with_tables(text) == text, "run: python tests/test_docs.py"


# --------------------------------------------------------------------------------------------------------- docstrings
def public(room) -> list[type]:
    return [kind for name in room.__all__ if inspect.isclass(kind := getattr(room, name))]


@pytest.mark.parametrize("kind", public(lab.estimators), ids=lambda k: k.__name__)
def test_every_estimator_says_its_bias_and_cost(kind):
    said = about(object.__new__(kind))  # the docstring is the class's: no arguments are needed
    assert said["reason"] and said["cost"]
    assert said["summary"].endswith((".", ":")) and said["name"] == kind.__name__ and said["trusted"] == "yes"


@pytest.mark.parametrize("kind", [*public(lab.estimators), *public(lab.problems)], ids=lambda k: k.__name__)
def test_every_argument_is_documented(kind):
    text = inspect.cleandoc(kind.__doc__)
    fields = [f.name for f in dataclasses.fields(kind) if f.init and f.name != "fitted"]
    for name in fields:
        assert re.search(rf"^    {name}: \S", text.partition("\nArgs:\n")[2], re.M), f"{kind.__name__}: {name}"


@pytest.mark.parametrize("name", lab.__all__)
def test_every_public_name_has_a_docstring(name):
    found = getattr(lab, name)
    text = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert text and text.strip().split("\n")[0].strip().endswith((".", ":", "?"))


def test_every_source_that_a_docstring_cites_is_listed():
    listed = read("REFERENCES.md")
    cited = {
        c.rstrip(".")
        for p in PACKAGE.rglob("*.py")
        for c in re.findall(r"(?:arXiv:|doi:)[\w./-]+", p.read_text("utf-8"))
    }
    assert cited and not {c for c in cited if c not in listed}


# ---------------------------------------------------------------------------------------------------- house and files
def rooms() -> list[set[str]]:
    fence = next(f for f in fences(read("CONTRIBUTING.md")) if f.mark == "imports")
    return [set(line.split("#")[0].replace("/*", "").split()) for line in fence.text.splitlines()]


def imported(path: Path) -> set[str]:
    """Rooms of the package that a file imports when it is imported."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("estimator_lab"):
            parts = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            found |= {part for part in parts if not part.startswith("_")}
    return found


def test_imports_go_upwards_only():
    order = {room: level for level, line in enumerate(rooms()) for room in line}
    seen = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        seen.add(room)
        for other in imported(path) - {room}:
            assert order[other] < order[room], (
                f"{path.relative_to(ROOT)} imports {other}, which does not stand above it"
            )
    assert seen == set(order), "CONTRIBUTING.md lists the rooms of the package"


def texts():
    """Every text file of the checkout, without what tools leave."""
    for folder, folders, names in os.walk(ROOT):
        hidden = {f for f in folders if f.startswith(".") and f != ".ci"}  # not entered: .venv has ten thousands
        folders[:] = sorted(set(folders) - hidden - {"__pycache__", "build", "dist"})
        for path in (Path(folder, name) for name in sorted(names)):
            if path != Path(__file__):
                with contextlib.suppress(UnicodeDecodeError):
                    yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


WORDS = ("/work/", "shared/", "helper", "session")
"""One of them is in whatever matches the pattern."""
OURS_ONLY = re.compile(r"/work/|(?<![-$\w])shared/|\bhelpers?\b|(?<!Python )\bsessions?\b", re.I)
MEANT_OTHERWISE = re.compile(
    r"scope=\"session\"|interpreter's name for a session|pytest_session\w*"  # pytest's own words
    r"|pytest\.Session|\bsession(?=:|\.config|\.items)"
)


def test_no_file_tells_how_it_was_made():
    for path, text in texts():
        if not any(word in text.lower() for word in WORDS):  # saved results are long
            continue
        match = OURS_ONLY.search(MEANT_OTHERWISE.sub("", text))
        assert not match, (
            f"{path} mentions {match[0]!r}: {match.string[max(match.start() - 60, 0) : match.end() + 60]!r}"
        )


# ----------------------------------------------------------------------------------------------------------- rewriting
def rewrite() -> None:
    """Puts the outputs and tables found now into the documents."""
    import tempfile

    for name in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            found = run(name, Path(folder))
        text = read(name)
        for fence, output in reversed(found):
            start, end = fence.span
            text = text[:start] + output.rstrip("\n") + "\n" + text[end:]
        (ROOT / name).write_text(with_tables(text) if name == "README.md" else text, encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("error")
    rewrite()
