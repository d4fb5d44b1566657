"""The probe inside the trainers of Lightning and Hugging Face, run for real; skipped where they are not installed.

Everything is compared bit by bit with the same training without the probe, or with a plain loop on the same weights.
"""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trajectory import Clock, numbers, states
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import estimator_lab as lab
from estimator_lab.estimators import DisARM, StraightThrough
from estimator_lab.probe import Probe

pytestmark = pytest.mark.filterwarnings("ignore")  # what the trainers themselves warn of
PAIR = [StraightThrough(), DisARM()]
STEPS = 6
INPUTS, LABELS = torch.linspace(-1, 1, 32).reshape(8, 4).sin(), torch.arange(8) % 2


class Net(nn.Module):
    """A classifier with a stochastic layer, and a dropout that is on while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
        self.drop, self.draw = nn.Dropout(0.2), lab.nn.Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.last(self.draw(self.first(self.drop(x))))
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Examples(Dataset):
    """Noise from every global stream is added to the inputs whenever they are read."""

    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        noise = torch.rand(4) + random.random() + float(np.random.rand())
        return {"x": INPUTS[i] + 0.01 * noise, "labels": LABELS[i]}


def fresh() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def problem() -> lab.Problem:
    return lab.from_module(
        fresh().eval(), lambda out, y: cross_entropy(out["logits"], y, reduction="none"), (INPUTS, LABELS)
    )


class Recorded(Probe):
    """A probe that keeps the weights it is called with."""

    def step(self, step: int, source: nn.Module) -> Any:
        self.__dict__.setdefault("weights", {})[step] = copy.deepcopy(dict(source.named_parameters()))
        return super().step(step, source)


def watch(**kwargs: Any) -> Recorded:
    return Recorded(problem(), PAIR, **{"replicates": 64, "every": 2, "overhead": 1e9, **kwargs})


def seeded() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)


def lightning_training(probe: Any, folder: Path, *, resume: bool = False, **settings: Any) -> nn.Module:
    """Trains in the Trainer of Lightning; saves at the last step, the probe's state with it."""
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.05)

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            probe.step(trainer.global_step, module.net)

        def state_dict(self) -> dict[str, Any]:
            return probe.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            probe.load_state_dict(state)

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Watch()] if probe else [],
        **{"max_steps": STEPS, **settings},
    )
    module = Lit()
    seeded()
    loader = DataLoader(Examples(), batch_size=4, shuffle=True)
    trainer.fit(module, loader, ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.net


def transformers_training(probe: Any, folder: Path, *, resume: bool = False, **settings: Any) -> nn.Module:
    """Trains in the Trainer of Hugging Face; saves at the last step, the probe's state with it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            probe.step(state.global_step, model)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            torch.save(probe.state_dict(), folder / "probe.pt")

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if resume:
                probe.load_state_dict(torch.load(folder / "probe.pt", weights_only=True))

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        save_strategy="steps",
        report_to=[],
        disable_tqdm=True,
        **{"max_steps": STEPS, "save_steps": settings.get("max_steps", STEPS), **settings},
    )
    trainer = transformers.Trainer(fresh(), arguments, train_dataset=Examples(), callbacks=[Watch()] if probe else [])
    seeded()
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


TRAININGS = {"lightning": lightning_training, "transformers": transformers_training}
MIXED = {"lightning": {"precision": "bf16-mixed"}, "transformers": {"bf16": True}}
ACCUMULATED = {"lightning": {"accumulate_grad_batches": 2}, "transformers": {"gradient_accumulation_steps": 2}}


@pytest.fixture(params=TRAININGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def bits(module: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("setting", ["plain", "mixed", "accumulated"])
def test_the_training_is_bit_for_bit_that_without_the_probe(kind, setting, tmp_path):
    settings = {"plain": {}, "mixed": MIXED[kind], "accumulated": ACCUMULATED[kind]}[setting]
    alone = TRAININGS[kind](None, tmp_path / "a", **settings)
    after = states()
    probe = watch(every=1)
    found = TRAININGS[kind](probe, tmp_path / "b", **settings)
    assert probe.trajectory.steps == list(range(STEPS)) and not probe.trajectory.failures
    assert bits(found) == bits(alone) and bits(found) != bits(fresh())
    assert states() == after


@dataclass
class Hook:
    """Anything in the place of a probe."""

    step: Callable[[int, nn.Module], Any]
    state_dict: Callable[[], dict[str, Any]] = dict


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, np.random.rand], ids=["torch", "python", "np"])
def test_a_hook_that_draws_a_number_changes_the_training(kind, draw, tmp_path):
    alone = TRAININGS[kind](None, tmp_path / "a")
    assert bits(TRAININGS[kind](Hook(lambda step, module: draw()), tmp_path / "b")) != bits(alone)


def test_modes_gradients_and_streams_stay_at_every_call(kind, tmp_path):
    probe, modes = watch(every=1), []

    def step(step: int, module: nn.Module) -> None:
        gradients = [p.grad.clone() for p in module.parameters()]
        before, kept = states(), bits(module)
        modes.append([m.training for m in module.modules()])
        probe.step(step, module)
        assert [m.training for m in module.modules()] == modes[-1]
        assert states() == before and bits(module) == kept
        assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), gradients, strict=True))

    TRAININGS[kind](Hook(step), tmp_path)
    assert len(modes) == STEPS and all(map(all, modes))  # in train mode, with the dropout on


def in_a_loop(weights: dict[int, dict[str, Tensor]], **kwargs: Any) -> Probe:
    probe = watch(**kwargs)
    for step, given in weights.items():
        Probe.step(probe, step, given)
    return probe


def test_the_numbers_are_those_of_a_plain_loop_on_the_same_weights(kind, tmp_path):
    probe = watch()
    TRAININGS[kind](probe, tmp_path)
    assert list(probe.weights) == list(range(STEPS)) and probe.trajectory.steps == [0, 2, 4]
    assert numbers(probe.trajectory) == numbers(in_a_loop(probe.weights).trajectory)
    stale = in_a_loop({k: probe.weights[max(k - 1, 0)] for k in probe.weights})  # the check can fail
    assert numbers(probe.trajectory) != numbers(stale.trajectory)


def test_a_training_that_is_resumed_goes_on_with_the_numbers(kind, tmp_path):
    first, second = watch(), watch()
    TRAININGS[kind](first, tmp_path, max_steps=3)
    TRAININGS[kind](second, tmp_path, resume=True)
    assert list(first.weights) == [0, 1, 2] and list(second.weights) == [3, 4, 5]
    assert second.trajectory.steps == [0, 2, 4]
    assert numbers(second.trajectory) == numbers(in_a_loop(first.weights | second.weights).trajectory)


def test_the_share_of_the_time_is_kept(kind, tmp_path):
    """A second passes before each call, a quarter with each look at the clock.

    So measuring takes 0.25, and 1.25 n have been trained at step n: 0.25 k <= 0.1 * 1.25 n, of the k-th measurement.
    """
    clock = Clock(0.25)
    probe = watch(every=1, overhead=0.1, clock=clock)

    def step(step: int, module: nn.Module) -> None:
        clock.now += 1
        probe.step(step, module)

    TRAININGS[kind](Hook(step), tmp_path, max_steps=9)
    assert probe.trajectory.steps == [0, 4, 6, 8] and probe.skipped == 5
    assert (probe.spent, probe.trained, probe.share) == (1.0, 10.0, 0.1)


def test_time_measured_and_trained_make_up_the_time_between_the_calls(kind, tmp_path):
    probe, calls = watch(every=1), []

    def step(step: int, module: nn.Module) -> None:
        calls.append(time.perf_counter())
        probe.step(step, module)
        calls.append(time.perf_counter())

    TRAININGS[kind](Hook(step), tmp_path)
    measuring = sum(end - start for start, end in zip(calls[::2], calls[1::2], strict=True))
    whole = calls[-1] - calls[0]
    assert 0 < probe.spent <= measuring and whole - measuring <= probe.trained <= whole - probe.spent


def test_a_module_that_holds_the_one_of_the_problem_is_told_where():
    """As a LightningModule does."""
    with pytest.raises(lab.UsageError, match=r"are those of the part '0\.net' of the module; give model\.0\.net,"):
        watch().step(0, nn.ModuleList([nn.ModuleDict({"net": fresh()}), nn.Linear(1, 1)]))
    with pytest.raises(lab.UsageError, match=r"has weights \['last\.weight', 'last\.bias'\]"):
        watch().step(0, nn.ModuleDict({"first": nn.Linear(4, 3), "net": nn.ModuleDict({"first": nn.Linear(4, 3)})}))


def test_a_problem_may_be_made_of_the_whole_module_of_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)["logits"]

    own = lab.from_module(Lit().eval(), partial(cross_entropy, reduction="none"), (INPUTS, LABELS))
    assert len(Probe(own, PAIR, replicates=64).step(0, Lit())) == 2
    truth, expected = lab.Truth.exact(own).mean, lab.Truth.exact(problem()).mean
    assert all(np.array_equal(truth["weight", f"net.{k}"], g) for (kind, k), g in expected.items() if kind == "weight")


def by_hand(probe: Any) -> nn.Module:
    """A loop with scaled gradients in half precision."""
    module, scaler = fresh(), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    seeded()
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(INPUTS, LABELS)["loss"]
            if probe and step % 2:
                probe.step(step, module)
        scaler.scale(loss).backward()
        if probe and not step % 2:
            probe.step(step, module)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
    return module


def test_beside_a_gradient_scaler_and_within_autocast():
    probe = watch(every=1)
    assert bits(by_hand(probe)) == bits(by_hand(None))
    assert probe.trajectory.steps == list(range(STEPS))
    assert numbers(probe.trajectory) == numbers(in_a_loop(probe.weights, every=1).trajectory)


@pytest.fixture
def one_process(tmp_path):
    """A group of one process, as a wrapper for parallel training needs it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_module_wrapped_for_parallel_training_is_measured_and_its_names_are_explained(one_process):
    wrapped, plain, probe = nn.parallel.DistributedDataParallel(fresh()), watch(), watch()
    plain.step(0, fresh())
    probe.step(0, wrapped)
    assert numbers(probe.trajectory) == numbers(plain.trajectory)
    with pytest.raises(lab.UsageError, match=r"begin with 'module\.'.*give those of model\.module"):
        Probe.step(watch(), 0, wrapped.state_dict())
