"""The conditional network of Bengio, Léonard, Courville 2013 (arXiv:1308.3432) trained with each of its gates.

Run: python analyses/bengio2013.py   (--scale small: 40 and 200 units, a tenth of the paper's; --scale paper: 400 and
2000; --data FOLDER of MNIST, else that of ESTIMATOR_LAB_DATA, else the 8x8 digits; --quick: seconds; --report: the PDF
alone, from the files that are there)

Every training is kept when it ends, and goes on from where it was when it is interrupted: the same command goes on. So
it does with more --seeds and more --gates. Then gradients are held against the truth along the trainings, the saving is
timed, the claims are tested, and all is shown in a PDF.

Writes into the folder ``--out`` ``bengio2013.json``, or ``bengio2013_paper.json`` at --scale paper; the claims of
``bengio2013_claims`` as ``bengio2013_claims.json``; and ``bengio2013.pdf`` of all files that are there. At the paper's
size gradients are measured at the squared loss alone, whose truth is a closed form. The saving does not depend on the
trainings, and is timed once for a folder.

Either JSON of trainings holds

- ``format``, ``schema``, ``created``, ``command``, ``environment``, ``scale`` ("small", "paper" or "quick");
- ``setting``: fields of ``bengio2013_training.Setting``: data, hidden, gates, epochs, train, batch, rate, norm, target;
- ``examples``: ``train``, ``valid``, ``test``: how many;
- ``gates``: of each kind of gate ``name`` (the key below), ``label``, ``row`` (of the published table, or ""),
  ``mode`` (how it is evaluated first: "mean" or "threshold"), ``sparsity`` ("kl", "l1", ""), ``noise``, ``units``, and
  ``options``, all that it is trained with;
- ``published``: ``source``, ``caution``, and ``rows`` of ``row``, ``train_nll``, ``valid_error``, ``test_error``;
- ``trainings``: of each gate and seed ``gate``, ``seed``, ``mode``, ``epochs``, ``best_epoch`` (of least validation
  error, the last of these), ``train_nll`` and ``train_active`` (running means over the minibatches of that epoch, with
  noise), ``seconds``, ``history`` (lists by name: epoch, train_nll, active, penalty, valid_error, valid_nll,
  threshold), and ``modes``: by "mean", "threshold", "drawn" the ``threshold`` and ``train_``, ``valid_``, ``test_``
  with ``nll`` in nats, ``error`` in per cent and ``active``, the share of gates that are not zero, at the best epoch;
- ``failures``: ``gate``, ``seed``, ``reason``;
- ``summary``: of each gate ``gate``, ``runs``, ``mode``, and ``train_nll``, ``valid_error``, ``test_error``,
  ``active`` (on the test examples), each with ``value``, ``low``, ``high``: the mean over seeds and Student's 95 %
  interval (null for one seed), in the gate's first mode, ``train_nll`` as above;
- ``trajectory``: what ``lab.Trajectory.from_json(json.dumps(...))`` reads, or null. Steps are epochs. Trainings are
  named after the gate, and measured at the cross entropy; "<gate>, squared loss" is the same network at the squared
  loss, whose truth is a closed form;
- ``saving``: see ``bengio2013_saving``, or null.

Mistakes in what is asked for end with exit code 3, before anything is trained.
"""

import argparse
import datetime
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from bengio2013_gates import GATES, Gate
from bengio2013_gradients import SQUARED, course, measured
from bengio2013_saving import Workload, saving
from bengio2013_training import Setting, Split, options, split, train
from scipy import stats

from estimator_lab.diagnosis import environment, writable
from estimator_lab.errors import LabError, MeasurementError, UsageError
from estimator_lab.problems.images import MNIST, VARIABLE, load, mnist_folder
from estimator_lab.saving import plain

REPORTS = Path(__file__).parents[1] / "reports"
FORMAT, SCHEMA = "estimator_lab bengio2013", 1

PUBLISHED: dict[str, Any] = {
    "source": "Bengio, Léonard, Courville 2013, arXiv:1308.3432, figure 2 (right): one run each, no error bars",
    "caution": (
        "the split of MNIST, its preprocessing, the rule that ended training and the decay of the learning rate are "
        "not stated; 2000 gates and 400 units of the gater, 200 gates for the sigmoid baselines"
    ),
    "rows": [
        dict(zip(("row", "train_nll", "valid_error", "test_error"), values, strict=True))
        for values in (
            ("Noisy Rectifier", 6.7e-4, 1.52, 1.87),
            ("Straight-through", 3.3e-3, 1.42, 1.39),
            ("Smooth Times Stoch.", 4.4e-3, 1.86, 1.96),
            ("Stoch. Binary Neuron", 9.9e-3, 1.78, 1.89),
            ("Baseline Rectifier", 6.3e-5, 1.66, 1.60),
            ("Baseline Sigmoid + Noise", 1.8e-3, 1.88, 1.87),
            ("Baseline Sigmoid", 3.2e-3, 1.97, 1.92),
        )
    ],
}
"""Training criterion in nats, errors in per cent."""


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        name: of the scale.
        hidden: units of the gater.
        gates: gates and experts.
        epochs: of each training.
        seeds: trainings with each gate.
        examples: that gradients are measured on.
        replicates: of each estimator at each checkpoint.
        truth: replicates of a truth that has no closed form, the cross entropy's; 0 leaves that loss out.
        workload: what is timed.
        file: that it is written to.
    """

    name: str
    hidden: int
    gates: int
    epochs: int
    seeds: int
    examples: int
    replicates: int
    truth: int
    workload: Workload
    file: str = "bengio2013.json"


SCALES = {
    "small": Scale("small", 40, 200, 30, 5, 16, 2**10, 2**10, Workload()),
    "paper": Scale("paper", 400, 2000, 200, 3, 16, 2**8, 0, Workload(), "bengio2013_paper.json"),
    "quick": Scale("quick", 8, 20, 2, 2, 4, 2**6, 2**6, Workload(48, 100, 10, (8, 40), (1, 16), 3, 2)),
}
MNIST_TRAIN, DIGITS_TRAIN = 50000, 1200


def setting_of(scale: Scale, data: str, epochs: int | None) -> Setting:
    """What is trained at a scale: 50000 of MNIST's training images, or 1200 digits, the others for validation."""
    count = MNIST_TRAIN if data == "mnist" else DIGITS_TRAIN
    return Setting(data, scale.hidden, scale.gates, epochs or scale.epochs, count)


def data_of(folder: Path | None) -> str:
    """The images that are trained on: MNIST where a folder is named, by --data or the variable, else the digits.

    Raises:
        UsageError: the folder that is named does not hold MNIST, or not all of it.
    """
    if folder:
        os.environ[VARIABLE] = str(folder)
        if mnist_folder() is None:
            raise UsageError(
                f"--data {folder} holds no MNIST, nor does mnist in it; MNIST is the four files {', '.join(MNIST)} in "
                "one folder; leave --data out to train on the 8x8 digits"
            )
    if not os.environ.get(VARIABLE):
        print(f"the 8x8 digits: neither --data nor {VARIABLE} names a folder of MNIST", flush=True)
        return "digits"
    return load("mnist").name


def described(gate: Gate, setting: Setting) -> dict[str, Any]:
    """A gate in the results."""
    return {
        **{k: getattr(gate, k) for k in ("name", "label", "row", "mode", "sparsity")},
        "noise": list(gate.noise),
        "units": round(gate.share * setting.gates),
        "options": options(gate),
    }


# ---------------------------------------------------------------------- the file
def begun(path: Path, scale: Scale, setting: Setting, gates: Sequence[Gate], command: str) -> dict[str, Any]:
    """The results so far, those of gates whose options have changed left out.

    Raises:
        UsageError: the file holds something else, or the results of another setting.
    """
    found: dict[str, Any] = {}
    if path.exists():
        found = read(path)
        differ = [k for k, v in plain(asdict(setting)).items() if found["setting"].get(k) != v]
        if differ or found["scale"] != scale.name:
            raise UsageError(
                f"{path} was made with other {', '.join(differ or ['scale'])}; name another folder as --out"
            )
    old = {g["name"]: g for g in found.get("gates", [])}
    known = {g.name: plain(described(g, setting)) for g in GATES}
    changed = {k for k in old if k not in known or old[k]["options"] != known[k]["options"]}
    listed = (set(old) - changed) | {g.name for g in gates}
    images = load(setting.data)
    counts = {"train": setting.train, "valid": images.training - setting.train, "test": images.held_out}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "environment": environment(),
        "scale": scale.name,
        "setting": asdict(setting),
        "examples": counts,
        "gates": [g for name, g in known.items() if name in listed],
        "published": PUBLISHED,
        "trainings": [t for t in found.get("trainings", []) if t["gate"] not in changed],
        "failures": [],
        "summary": found.get("summary", []),
        "trajectory": None if changed else found.get("trajectory"),
        "saving": found.get("saving"),
    }


def read(path: Path) -> dict[str, Any]:
    """What was saved.

    Raises:
        UsageError: the file is no JSON, or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path} ({error}); remove it, or name another folder as --out") from None
    if not isinstance(found, dict) or (found.get("format"), found.get("schema")) != (FORMAT, SCHEMA):
        raise UsageError(f"{path} holds something else; remove it, or name another folder as --out")
    return found


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Saves, whole or not at all."""
    text = json.dumps(plain(results), ensure_ascii=False, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


# ---------------------------------------------------------------------- trainings
@lru_cache(maxsize=1)
def examples_of(setting: Setting) -> Split:
    """The images, read once in a process."""
    return split(setting)


def one(gate: Gate, setting: Setting, seed: int) -> dict[str, Any]:
    """One training, in one thread."""
    torch.set_num_threads(1)
    return train(gate, setting, seed, examples_of(setting), told(gate, seed))


def told(gate: Gate, seed: int) -> Any:
    """Prints every fifth epoch."""

    def progress(epoch: int, row: Mapping[str, float]) -> None:
        if epoch % 5 == 0:
            print(f"  {gate.name}, seed {seed}, epoch {epoch}: {row['valid_error']:.2f} % of validation", flush=True)

    return progress


def _humble() -> None:
    os.nice(10)


def trained(tasks: Sequence[tuple[Gate, int]], setting: Setting, workers: int) -> Iterable[tuple[Gate, int, Any]]:
    """Entries of trainings in the order they end, or why there is none."""
    if workers == 1:
        for gate, seed in tasks:
            try:
                yield gate, seed, one(gate, setting, seed)
            except MeasurementError as error:
                yield gate, seed, str(error)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _humble) as pool:
        futures = {pool.submit(one, gate, setting, seed): (gate, seed) for gate, seed in tasks}
        try:
            for future in as_completed(futures):
                gate, seed = futures[future]
                error = future.exception()
                if error is not None and not isinstance(error, MeasurementError):
                    raise error
                yield gate, seed, str(error) if error else future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun is not begun
            raise


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and Student's 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"value": mean, "low": math.nan, "high": math.nan}
    width = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"value": mean, "low": mean - width, "high": mean + width}


def summary(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Means over seeds."""
    rows = []
    for gate in results["gates"]:
        own = [t for t in results["trainings"] if t["gate"] == gate["name"]]
        if not own:
            continue
        modes = [t["modes"][t["mode"]] for t in own]
        numbers = {
            "train_nll": [t["train_nll"] for t in own],
            "valid_error": [m["valid_error"] for m in modes],
            "test_error": [m["test_error"] for m in modes],
            "active": [m["test_active"] for m in modes],
        }
        means = {k: interval(v) for k, v in numbers.items()}
        rows.append({"gate": gate["name"], "runs": len(own), "mode": gate["mode"], **means})
    return rows


def table(results: Mapping[str, Any]) -> str:
    """The summary beside what was published."""
    published = {r["row"]: r for r in results["published"]["rows"]}
    labels = {g["name"]: g for g in results["gates"]}
    lines = [
        "gate                                            train NLL   validation, %        test, %   active   published"
    ]
    for row in results["summary"]:
        gate = labels[row["gate"]]
        spread = [
            f"{row[k]['value']:.2f}"
            + (f" ± {row[k]['high'] - row[k]['value']:.2f}" if row[k]["high"] is not None else "")
            for k in ("valid_error", "test_error")
        ]
        known = published.get(gate["row"])
        said = f"{known['train_nll']:.1e} {known['valid_error']} {known['test_error']}" if known else ""
        cells = (
            f"{row['train_nll']['value']:11.2e} {spread[0]:>15} {spread[1]:>14} {row['active']['value']:8.3f}   {said}"
        )
        lines.append(f"{gate['label']:46}{cells}")
    return "\n".join(lines)


# ---------------------------------------------------------------------- all of it
def study(
    scale: Scale,
    setting: Setting,
    gates: Sequence[Gate],
    seeds: int,
    workers: int,
    path: Path,
    command: str,
    retime: bool,
) -> dict[str, Any]:
    """Trains what is not trained yet, measures gradients along the trainings, and times the saving."""
    results = begun(path, scale, setting, gates, command)
    have = {(t["gate"], t["seed"]) for t in results["trainings"]}
    tasks = [(gate, seed) for seed in range(seeds) for gate in gates if (gate.name, seed) not in have]
    order = [g.name for g in GATES]
    for gate, seed, entry in trained(tasks, setting, workers):
        if isinstance(entry, str):
            results["failures"].append({"gate": gate.name, "seed": seed, "reason": entry})
        else:
            results["trainings"].append(entry)
            results["trainings"].sort(key=lambda t: (order.index(t["gate"]), t["seed"]))
        results["summary"] = summary(results)
        write(path, results)
        print(f"trained with {gate.name}, seed {seed}", flush=True)
    names = {t["gate"] for t in results["trainings"] if t["seed"] == 0}
    done = [g for g in GATES if g.name in names]
    if {g.name for g in done if measured(g)} - gone_along(results["trajectory"]):
        print("gradients along the trainings", flush=True)
        results["trajectory"] = course(done, setting, scale.examples, scale.replicates, scale.truth, command)
        write(path, results)
    if retime or not (results["saving"] or timed_elsewhere(path)):
        print("saving", flush=True)
        results["saving"] = saving(scale.workload)
    write(path, results)
    return results


def gone_along(course: Mapping[str, Any] | None) -> set[str]:
    """Gates along whose trainings gradients were measured."""
    entries = [*course["points"], *course["failures"]] if course else []
    return {entry["trained_with"].removesuffix(SQUARED) for entry in entries}


def timed_elsewhere(path: Path) -> bool:
    """Whether results of another scale in the same folder hold the saving."""
    others = [path.with_name(scale.file) for scale in SCALES.values()]
    return any(read(other)["saving"] for other in others if other != path and other.exists())


def publish(folder: Path) -> Path:
    """Tests the claims on the results of a folder, saves them and renders the PDF."""
    from bengio2013_claims import claims  # which imports this module
    from bengio2013_report import main_results, report
    from claims import save

    results = main_results(folder)
    try:
        found = claims(results)
    except UsageError as error:  # no training that they ask for
        print(f"claims about trainings are left out: {error}", flush=True)
        found = claims()
    save(found, folder / "bengio2013_claims.json")
    return report(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=["small", "paper"], default="small")
    parser.add_argument("--data", type=Path, help=f"folder of MNIST; by default {VARIABLE}, else the digits")
    parser.add_argument("--gates", nargs="+", choices=[g.name for g in GATES], help="only these")
    parser.add_argument("--seeds", type=int, help="trainings with each gate")
    parser.add_argument("--epochs", type=int, help="of each training")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, one thread each")
    parser.add_argument(
        "--quick", action="store_true", help="a small study on the digits that shows that everything runs"
    )
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the JSON files and the PDF")
    parser.add_argument("--retime", action="store_true", help="time the saving again, say on a quieter machine")
    parser.add_argument("--report", action="store_true", help="render the PDF alone, from the JSON files of --out")
    chosen = parser.parse_args(arguments)
    for name in ("seeds", "epochs", "workers"):
        if (value := getattr(chosen, name)) is not None and value < 1:
            raise UsageError(f"--{name} is at least 1; found {value}")
    if chosen.quick and chosen.data:
        raise UsageError("--quick is on the 8x8 digits; leave --data out")
    torch.set_num_threads(1)
    if chosen.report:
        from bengio2013_report import report

        files = [chosen.out / name for name in ("bengio2013.json", "bengio2013_paper.json", "bengio2013_claims.json")]
        if not any(file.exists() for file in files):
            raise UsageError(f"there is no {files[0]}; measure first, without --report")
        with writable(chosen.out / "bengio2013.pdf"):
            print(report(chosen.out))
        return
    scale = SCALES["quick" if chosen.quick else chosen.scale]
    path = chosen.out / scale.file
    with writable(path):
        chosen.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=chosen.out).close()
    setting = setting_of(scale, "digits" if chosen.quick else data_of(chosen.data), chosen.epochs)
    gates = [g for g in GATES if chosen.gates is None or g.name in chosen.gates]
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python analyses/bengio2013.py", *_without_paths(given)])
    print(f"{setting.data}, {setting.hidden} and {setting.gates} units, {setting.epochs} epochs", flush=True)
    workers = 1 if chosen.quick else chosen.workers
    with writable(path):
        print(table(study(scale, setting, gates, chosen.seeds or scale.seeds, workers, path, command, chosen.retime)))
        print(publish(chosen.out))


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments but --data and --out, which name folders of this machine."""
    kept, skip = [], False
    for argument in arguments:
        folder = argument.partition("=")[0] in ("--data", "--out")
        if not (skip or folder):
            kept.append(argument)
        skip = folder and "=" not in argument
    return kept


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        print(f"bengio2013: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
