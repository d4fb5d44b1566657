"""The analysis of full networks at toy size: everything it measures and shows, on less."""

import json
import sys
from pathlib import Path

import pytest

import estimator_lab as lab

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks")
    assert networks.main(["--quick", "--out", str(path)]) == 0
    return path


def test_the_pdf_is_a_function_of_the_json(folder):
    first = (folder / "networks.pdf").read_bytes()
    assert networks.main(["--report", "--out", str(folder)]) == 0
    assert (folder / "networks.pdf").read_bytes() == first and first.startswith(b"%PDF")


def test_claims_hold_and_parts_are_there(folder):
    found = json.loads((folder / "networks.json").read_text("utf-8"))
    claimed = [f for f in found["diagnosis"]["findings"] if f["claim"]]
    assert claimed and not any(f["verdict"].startswith("biased") for f in claimed)  # at alpha = 1 %, at a fixed seed
    assert {n["network"] for n in found["networks"]} == {f["problem_label"] for f in found["diagnosis"]["findings"]}
    assert found["networks"][1]["truth"] == "exact: closed form" and found["networks"][0]["error"] > 0
    assert [len(found[part]) for part in ("causes", "splits")] == [1, 2]
    assert found["depth"]["depths"] == [1, 2, 3]


def test_a_report_of_nothing_is_one_line(tmp_path, capsys):
    assert networks.main(["--report", "--out", str(tmp_path / "none")]) == lab.UsageError("").exit_code
    assert "measure first" in capsys.readouterr().err


def test_deep_chains_have_an_exact_truth():
    assert lab.Truth.exact(networks.Deep(5)).words == "exact: layer-by-layer sum over 64 x 64 x 64 x 64 x 64 states"
