"""A diagnosis as a PDF.

`render` returns the bytes, `write` puts them into a file. The report sees diagnoses only: no tensor, no measurement.
It is a pure function of the diagnosis: the same saved diagnosis gives the same bytes, within one version of typst and
matplotlib.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import typst

from estimator_lab.report.figures.style import STYLE
from estimator_lab.report.pages import Pages, build, stamp

if TYPE_CHECKING:
    import datetime

    from matplotlib.figure import Figure

    from estimator_lab.diagnosis import Diagnosis

__all__ = ["render", "write"]
STANDARDS = ("a-2a", "ua-1")


def _svg(figures: Iterable[tuple[str, Figure]]) -> dict[str, bytes]:
    """The figures as SVG with real text, laid out with STIX and set by typst in Libertinus, whose widths are close."""
    drawn = {}
    with matplotlib.rc_context(dict(STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # typst brings other fonts
        for name, figure in figures:
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
            drawn[name] = out.getvalue().replace("STIXGeneral", "Libertinus Serif").encode()
    return drawn


def _compile(sources: dict[str, bytes], **options: Any) -> bytes:
    compile_: Any = typst.compile  # its annotations do not know of sources in memory
    pdf: bytes = compile_(sources, ignore_system_fonts=True, pdf_standards=list(STANDARDS), **options)
    return pdf


def _is_math(source: str) -> bool:
    page = (
        '#set document(title: "equation")\n#let e = eval(sys.inputs.e, mode: "math")\n#math.equation(block: true, alt:'
        ' "equation", e)'
    )
    try:
        _compile({"main": page.encode()}, sys_inputs={"e": source})
    except typst.TypstError:
        return False
    return True


def _pdf(pages: Pages, timestamp: datetime.datetime) -> bytes:
    template = files("estimator_lab.report").joinpath("report.typ").read_bytes()
    sources = {"main": template, **_svg(pages.figures.items())}

    def with_data(data: dict[str, Any]) -> bytes:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
        return _compile({**sources, "data.json": text.encode()}, timestamp=timestamp)

    try:
        return with_data(pages.data)
    except typst.TypstError:
        wrong = [m for m in pages.data["methods"] if m["math"] and not _is_math(m["math"])]
        if not wrong:
            raise
        for method in wrong:  # an equation that is no typst mathematics is shown as it was written
            method["raw"], method["math"] = method["math"], ""
        return with_data(pages.data)


def _saved(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis as it is when saved and loaded, so that both give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "diagnosis.json"
        path.write_text(diagnosis.to_json(), encoding="utf-8")
        return type(diagnosis).load(path)


def render(diagnosis: Diagnosis) -> bytes:
    """The report of a diagnosis as PDF (PDF/A-2a and PDF/UA-1, tagged).

    Costs about a second for one estimator on one problem and some seconds for two hundred pairs.

    Raises:
        ValueError: if the diagnosis does not carry an ISO date.
    """
    moment, saved = stamp(diagnosis), _saved(diagnosis)
    return _pdf(build(saved), moment)


def write(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> None:
    """Write the report to `path`; a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if the diagnosis does not carry an ISO date.
    """
    pdf = render(diagnosis)
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(pdf)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
