"""Networks that train themselves, against direct enumeration; closed forms; the data they are trained on."""

import dataclasses
import gzip
import itertools
import math
import struct

import numpy as np
import pytest
import torch

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.errors import UsageError
from estimator_lab.estimators import Exact, Sample
from estimator_lab.noise import MonteCarlo, NoNoise, derive_seed
from estimator_lab.problems import (
    NETWORKS,
    CategoricalAutoencoder,
    DigitsAutoencoder,
    DigitsClassifier,
    HierarchicalCategorical,
    LinearNetwork,
    SigmoidBeliefNetwork,
    images,
    trained,
)
from estimator_lab.problems.trained import TrainedNetwork


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache of its own, and no data but the package's."""
    monkeypatch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(images.VARIABLE, raising=False)
    trained.trained.cache_clear()
    return tmp_path / "cache"


# ---------------------------------------------------------------------- data
SIZES = {"train": 7, "t10k": 3}


def idx(magic: int, *sizes: int, values: bytes | None = None) -> bytes:
    count = math.prod(sizes)
    body = bytes(i * 37 % 251 for i in range(count)) if values is None else values
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + body


@pytest.fixture
def mnist(tmp_path):
    """A folder with a small set of files like MNIST's."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for kind, n in SIZES.items():
        (folder / f"{kind}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(2051, n, 28, 28)))
        labels = bytes((3 * i + n) % 10 for i in range(n))
        (folder / f"{kind}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(2049, n, values=labels)))
    images.load_mnist.cache_clear()
    return folder


def test_mnist_is_read_as_it_was_written(mnist):
    found = images.load_mnist(mnist)
    assert (found.name, found.side, found.training, found.held_out, found.white) == ("mnist", 28, 7, 3, 255)
    x, y = found.rows(torch.tensor([0, 6, 7]), torch.zeros(1))
    numbers = np.array([i * 37 % 251 for i in range(7 * 784)]).reshape(7, 784)
    np.testing.assert_array_equal(x.numpy(), (numbers[[0, 6, 0]] / np.float32(255)).astype(np.float32))
    assert y.tolist() == [7 % 10, (18 + 7) % 10, 3]
    assert torch.equal(found.last(2, torch.zeros(1))[1], torch.tensor([6, 9]))


def test_digits_are_the_same_as_ever():
    found = images.load_digits()
    x, y = found.rows(slice(None), torch.zeros(1, dtype=torch.float64))
    assert (x.shape, found.training, found.side) == ((1797, 64), 1500, 8)
    assert (float(x.min()), float(x.max()), float(x.sum())) == (0.0, 1.0, 561718 / 16)
    assert y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def damaged(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


LABELS, PICTURES = "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (PICTURES, lambda b: b[:60], "cannot be unpacked"),
        (PICTURES, lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:], "cannot be unpacked"),
        (PICTURES, lambda b: b"<html>not found</html>", "cannot be unpacked"),
        (PICTURES, lambda b: gzip.compress(idx(2049, 3)), r"begins with \[2049, 3"),
        (PICTURES, lambda b: gzip.compress(idx(2051, 3, 32, 32)), r"begins with \[2051, 3, 32, 32\]"),
        (PICTURES, lambda b: gzip.compress(idx(2051, 3, 28, 28)[:-5]), "holds 2347 values where its head says 2352"),
        (PICTURES, lambda b: gzip.compress(b"abc"), r"begins with \[\]"),
        (LABELS, lambda b: gzip.compress(idx(2049, 6)), "7 train images and 6 labels"),
    ],
)
def test_damaged_data_is_named(mnist, name, change, words):
    damaged(mnist, name, change)
    with pytest.raises(UsageError, match=words) as found:
        images.load_mnist(mnist)
    assert str(mnist) in str(found.value) and "\n" not in str(found.value)


def test_absent_data_is_named(mnist, monkeypatch):
    (mnist / LABELS).unlink()
    with pytest.raises(UsageError, match=f"{mnist} lacks {LABELS}; MNIST is the four files"):
        images.load_mnist(mnist)
    with pytest.raises(UsageError, match=r"let ESTIMATOR_LAB_DATA name the folder.*it is not set"):
        images.load("mnist")
    monkeypatch.setenv(images.VARIABLE, str(mnist.parent.parent))
    with pytest.raises(UsageError, match="neither it nor mnist in it holds them"):
        images.load("mnist")
    with pytest.raises(UsageError, match="name 'digits' or 'mnist'"):
        images.load("cifar")


def test_mnist_is_used_where_it_is_at_hand_and_the_repr_says_so(mnist, monkeypatch):
    kinds = (SigmoidBeliefNetwork, CategoricalAutoencoder, HierarchicalCategorical)
    assert all("data='digits'" in repr(kind()) for kind in kinds)
    for folder in (mnist, mnist.parent):
        monkeypatch.setenv(images.VARIABLE, str(folder))
        assert images.mnist_folder() == mnist
        assert all("data='mnist'" in repr(kind()) for kind in kinds)
        assert all("data='digits'" in repr(kind(data="digits")) for kind in kinds)
    assert SigmoidBeliefNetwork().hidden == (200,) and SigmoidBeliefNetwork(data="digits").hidden == (32,)
    network = SigmoidBeliefNetwork(hidden=(4,), steps=2, batch=3)
    assert network.label == "belief network 784-4"
    assert Chain(network, Sample()).draw(2, MonteCarlo("mnist"))["unit", "h1"].shape == (2, 3, 4)
    with pytest.raises(UsageError, match="3 images of mnist are held out of training; found a batch of 4"):
        Chain(dataclasses.replace(network, batch=4), Sample())


# ---------------------------------------------------------------------- training
def reference_training(network: TrainedNetwork) -> dict[str, torch.Tensor]:
    """The training of the digits' two first networks, written out: Adam, straight-through, 100 examples a step."""
    x, y = images.load_digits().rows(slice(1500), torch.zeros(1, dtype=torch.float64))
    generator = torch.Generator().manual_seed(derive_seed("digits", type(network).__name__, network.seed))
    weights = {}
    for name, shape in network.shapes().items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.0
        weights[name] = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    optimiser = torch.optim.Adam(list(weights.values()), 3e-3)
    for _ in range(network.steps):
        rows = torch.randint(1500, (100,), generator=generator)
        samples, thetas = (), ()
        for _ in network.sites:
            theta = network.theta_at(weights, samples, x[rows])
            p = theta.sigmoid()
            b = (torch.rand(p.shape, generator=generator, dtype=p.dtype) < p).to(p.dtype)
            samples, thetas = (*samples, b + p - p.detach()), (*thetas, theta)
        optimiser.zero_grad()
        network.loss_at(weights, samples, thetas, x[rows], y[rows]).mean().backward()
        optimiser.step()
    return weights


@pytest.mark.parametrize("network", [DigitsAutoencoder(steps=9), DigitsClassifier(steps=9, seed=4)], ids=repr)
def test_the_first_networks_keep_their_weights(network):
    assert repr(NETWORKS[:2]) == (
        "(DigitsAutoencoder(batch=16, steps=300, seed=0), DigitsClassifier(batch=16, steps=300, seed=0))"
    )
    found = network.weights()
    for name, weight in reference_training(network).items():
        assert torch.equal(found[name], weight), name


TRAINED = [p for p in NETWORKS if isinstance(p, TrainedNetwork)]


def held_out_loss(network: TrainedNetwork) -> float:
    """Mean loss of one draw at the 297 digits that training does not see."""
    return float(Chain(dataclasses.replace(network, batch=297), Sample()).value(MonteCarlo("held out"), 8).mean())


def trivial_loss(network: TrainedNetwork) -> float:
    """Of what the training data says without a network: frequencies of pixels, or of labels."""
    data, like = images.load_digits(), torch.zeros(1, dtype=torch.float64)
    (x, y), (others, targets) = data.rows(slice(1500), like), data.last(297, like)
    if isinstance(network, HierarchicalCategorical | DigitsClassifier):
        return -float((y.bincount() / 1500).log()[targets].mean())
    mean = (network.prepared(x).sum(0) + 1) / 1502
    pixels = network.prepared(others)
    return -float((pixels * mean.log() + (1 - pixels) * (1 - mean).log()).sum(-1).mean())


LEARNED = [p for p in TRAINED if getattr(p, "samples", 1) == 1 and not isinstance(p, DigitsAutoencoder)]


@pytest.mark.parametrize("network", LEARNED, ids=repr)
def test_training_beats_the_trivial_model_on_images_it_has_not_seen(network):
    """After 300 steps all are better by 5 % or more; before the first step none is.

    ``DigitsAutoencoder`` is left out: its 300 steps, from zero biases, end three nats above the trivial model.
    """
    trivial = trivial_loss(network)
    assert held_out_loss(dataclasses.replace(network, steps=0)) > trivial - 0.05
    assert held_out_loss(dataclasses.replace(network, steps=300)) < 0.95 * trivial


def test_training_is_deterministic_and_touches_no_global_state():
    before, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    for network in (SigmoidBeliefNetwork(data="digits", steps=3), HierarchicalCategorical(data="digits", steps=3)):
        first, again, other = network.train(), network.train(), dataclasses.replace(network, seed=1).train()
        assert all(torch.equal(first[k], again[k]) and not torch.equal(first[k], other[k]) for k in first)
        assert not any(v.requires_grad for v in network.weights().values())
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_default_dtype() == dtype


class Hasty(HierarchicalCategorical):
    """Another recipe that goes by the same name."""

    rate = 0.1

    def __repr__(self):
        return super().__repr__().replace("Hasty", "HierarchicalCategorical")


def test_weights_are_kept_and_a_changed_recipe_is_trained_anew(apart, monkeypatch):
    network = HierarchicalCategorical(data="digits", steps=2)
    first, calls = network.weights(), []
    assert len(list(apart.iterdir())) == 1
    train = HierarchicalCategorical.train
    monkeypatch.setattr(HierarchicalCategorical, "train", lambda self: calls.append(self) or train(self))

    trained.trained.cache_clear()  # as in a new process
    kept = network.weights()
    assert not calls and all(torch.equal(first[k], kept[k]) for k in first)

    hasty = Hasty(data="digits", steps=2)
    assert repr(hasty) == repr(network)
    assert not torch.equal(hasty.weights()["layer1.weight"], first["layer1.weight"]) and calls == [hasty]
    dataclasses.replace(network, steps=3).weights()
    dataclasses.replace(network, seed=1).weights()
    monkeypatch.setattr(torch, "__version__", "another")
    trained.trained.cache_clear()
    network.weights()
    assert len(calls) == 4 and len(list(apart.iterdir())) == 5

    unread = type("Unread", (HierarchicalCategorical,), {})(data="digits", steps=2)
    assert torch.equal(unread.weights()["layer1.bias"], unread.train()["layer1.bias"])
    assert len(list(apart.iterdir())) == 5  # nothing is kept of what has no source


@pytest.mark.parametrize("network", TRAINED, ids=repr)
def test_batch_dtype_and_samples_do_not_bear_on_the_weights(network):
    small = dataclasses.replace(network, steps=2)
    others = [dataclasses.replace(small, batch=3), dataclasses.replace(small, dtype=torch.float32)]
    others += [dataclasses.replace(small, samples=7)] if hasattr(network, "samples") else []
    for other in others:
        for name, weight in small.weights().items():
            assert torch.equal(other.weights()[name], weight.to(other.dtype))


# ---------------------------------------------------------------------- direct enumeration
def sigmoid(t):
    return 1 / (1 + np.exp(-t))


def bits(n):
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def one_hots(units, classes):
    return np.eye(classes)[list(itertools.product(range(classes), repeat=units))]


def pixels(network):
    x = images.load_digits().pixels.numpy()[-network.batch :] / 16
    return (x > 0.5).astype(float)


def affine(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def log_bernoulli(logits, value):
    p = sigmoid(logits)
    return np.log(np.where(value > 0.5, p, 1 - p)).sum(-1)


def log_softmax(t):
    return t - np.log(np.exp(t).sum(-1, keepdims=True))


def belief_network(network, w, offsets):
    """``log q`` and ``log w`` ``[B, K, states]`` of two layers, by their definitions."""
    x, first, second = pixels(network), *map(bits, network.hidden)
    log_q, log_w = [], []
    for b, k in itertools.product(range(network.batch), range(network.samples)):
        rows = []
        for h1, h2 in itertools.product(first, second):
            o1, o2 = (offsets[name][b].reshape(network.samples, -1)[k] for name in ("h1", "h2"))
            q = log_bernoulli(affine(w, "encoder1", 2 * x[b] - 1) + o1, h1)
            q += log_bernoulli(affine(w, "encoder2", 2 * h1 - 1) + o2, h2)
            p = log_bernoulli(w["prior.logits"], h2) + log_bernoulli(affine(w, "decoder2", 2 * h2 - 1), h1)
            p += log_bernoulli(affine(w, "decoder1", 2 * h1 - 1), x[b])
            rows.append((q, p - q))
        log_q.append([q for q, _ in rows])
        log_w.append([v for _, v in rows])
    shape = (network.batch, network.samples, -1)
    return np.array(log_q).reshape(shape), np.array(log_w).reshape(shape)


def categorical_autoencoder(network, w, offsets):
    """The same for categorical latents."""
    x, states = pixels(network), one_hots(network.latents, network.classes)
    log_q, log_w = [], []
    for b, k in itertools.product(range(network.batch), range(network.samples)):
        theta = affine(w, "encoder", 2 * x[b] - 1).reshape(network.latents, network.classes)
        theta = theta + offsets["z"][b].reshape(network.samples, *theta.shape)[k]
        q = np.array([(log_softmax(theta) * z).sum() for z in states])
        p = np.array([log_bernoulli(affine(w, "decoder", z.ravel()), x[b]) for z in states])
        log_q.append(q)
        log_w.append(p - network.latents * np.log(network.classes) - q)
    shape = (network.batch, network.samples, -1)
    return np.array(log_q).reshape(shape), np.array(log_w).reshape(shape)


def negative_bound(log_q, log_w):
    """``-E log 1/K sum_k w_k`` ``[B]``, summed over the states of all K samples."""
    batch, samples, states = log_q.shape
    total = np.zeros(batch)
    for chosen in itertools.product(range(states), repeat=samples):
        q = np.exp(sum(log_q[:, k, s] for k, s in enumerate(chosen)))
        total -= q * np.log(sum(np.exp(log_w[:, k, s]) for k, s in enumerate(chosen)) / samples)
    return total


def hierarchy(network, w, offsets):
    """Expected cross-entropy of a chain of categorical layers, one layer after the other."""
    x = images.load_digits().pixels.numpy()[-network.batch :] / 8 - 1
    labels = images.load_digits().labels.numpy()[-network.batch :]

    def rest(b, i, inputs):
        out = affine(w, f"layer{i + 1}", inputs)
        if i == len(network.layers):
            return -log_softmax(out)[labels[b]]
        theta = out.reshape(network.layers[i]) + offsets[f"c{i + 1}"][b]
        states = one_hots(*network.layers[i])
        return sum(np.exp((log_softmax(theta) * z).sum()) * rest(b, i + 1, z.ravel()) for z in states)

    return np.array([rest(b, 0, x[b]) for b in range(network.batch)])


def enumerated(network, w, offsets):
    if isinstance(network, HierarchicalCategorical):
        return hierarchy(network, w, offsets)
    log_weights = belief_network if isinstance(network, SigmoidBeliefNetwork) else categorical_autoencoder
    return negative_bound(*log_weights(network, w, offsets))


TINY = {"data": "digits", "batch": 2, "steps": 0}
CASES = [
    SigmoidBeliefNetwork(hidden=(2, 2), **TINY),
    SigmoidBeliefNetwork(hidden=(2, 1), samples=2, **TINY),
    CategoricalAutoencoder(latents=2, classes=3, **TINY),
    CategoricalAutoencoder(latents=1, classes=3, samples=3, **TINY),
    HierarchicalCategorical(layers=((2, 3), (1, 4), (2, 2)), **TINY),
]


def asymmetric(network):
    """The network with weights that make no two probabilities equal."""
    rng = np.random.default_rng(derive_seed("asymmetric", type(network).__name__))
    weights = {k: 1.5 * rng.standard_normal(s) * s[-1] ** -0.5 for k, s in network.shapes().items()}
    return network.at({k: torch.from_numpy(v) for k, v in weights.items()}, "asymmetric"), weights


def zeros(network):
    return {s.name: np.zeros((network.batch, *s.theta_shape)) for s in network.sites}


@pytest.mark.parametrize("network", CASES, ids=repr)
def test_loss_and_gradients_are_those_of_direct_enumeration(network):
    """Units one by one, weights along a random direction each; central differences err by 1e-8 at most."""
    problem, weights = asymmetric(network)
    for site in network.sites[:1]:
        p = site.family.mean(problem.theta(problem.weights(), ())).flatten(1)
        assert float(p.std(1).min()) > 0.05
    chain, step = Chain(problem, Exact()), 1e-5
    assert not chain.notes
    np.testing.assert_allclose(chain.value(NoNoise())[0], enumerated(network, weights, zeros(network)), rtol=1e-12)
    found = {k: v[0].numpy() for k, v in chain.draw(1, NoNoise()).items()}
    for site in network.sites:
        expected = np.zeros((network.batch, *site.theta_shape))
        for place in np.ndindex(site.theta_shape):
            up, down = zeros(network), zeros(network)
            up[site.name][:, *place], down[site.name][:, *place] = step, -step
            difference = enumerated(network, weights, up) - enumerated(network, weights, down)
            expected[:, *place] = difference / (2 * step)
        np.testing.assert_allclose(found["unit", site.name], expected, atol=1e-7)
        assert np.abs(expected).max() > 0.01
    rng = np.random.default_rng(0)
    for name, weight in weights.items():
        along = rng.standard_normal(weight.shape) * weight.size**-0.5
        up, down = (enumerated(network, weights | {name: weight + s * along}, zeros(network)) for s in (step, -step))
        expected = (up - down).mean() / (2 * step)
        assert (found["weight", name] * along).sum() == pytest.approx(expected, abs=1e-7), name


class MeanOfLogarithms(SigmoidBeliefNetwork):
    """Takes the mean over the samples outside of the logarithm: no tighter than one sample."""

    def negative_bound(self, log_weight):
        return -log_weight if self.samples == 1 else -log_weight.mean(-1)


@pytest.mark.parametrize(
    ("kind", "right"), [(SigmoidBeliefNetwork, True), (MeanOfLogarithms, False)], ids=["bound", "mean of logarithms"]
)
def test_the_bound_tightens_with_the_samples(kind, right):
    losses = []
    for samples in (1, 2, 3):
        network = kind(hidden=(2, 1), samples=samples, **TINY)
        problem, weights = asymmetric(network)
        losses.append(Chain(problem, Exact()).value(NoNoise())[0].numpy())
    alone = dataclasses.replace(network, samples=1)
    log_q, log_w = belief_network(alone, weights, zeros(alone))
    evidence = np.log(np.exp(log_q + log_w).sum(-1))[:, 0]  # log p(x)
    np.testing.assert_allclose(np.exp(log_q).sum(-1), 1)
    tightens = all((a - b > 1e-3).all() for a, b in itertools.pairwise([*losses, -evidence]))
    assert tightens == right


# ---------------------------------------------------------------------- closed forms
def closed_form(network):
    """Expected loss and its derivatives as ground truth takes them."""
    weights = {k: v.clone().requires_grad_() for k, v in network.weights().items()}
    offsets = {
        s.name: torch.zeros(network.batch, *s.theta_shape, dtype=torch.float64, requires_grad=True)
        for s in network.sites
    }
    loss = network.expected_loss(weights, offsets)
    grads = torch.autograd.grad(loss.sum(), [*offsets.values(), *weights.values()])
    keys = [*(("unit", k) for k in offsets), *(("weight", k) for k in weights)]
    return loss.detach(), {k: g if k[0] == "unit" else g / network.batch for k, g in zip(keys, grads, strict=True)}


LINEAR = [
    LinearNetwork(sizes=(3, 4, 3, 2), batch=2),
    LinearNetwork(sizes=(2, 3, 2, 3, 3, 1), batch=2, seed=1),
    LinearNetwork(sizes=(2, 5, 3), batch=3),
    LinearNetwork("normal", sizes=(3, 1, 2, 2), batch=2),
    LinearNetwork("normal", sizes=(2, 2, 3), batch=3, seed=1),
]


def agreement(network) -> float:
    """Largest difference between the closed form and a sum over all states, relative to the largest gradient."""
    chain = Chain(network, Exact(8))  # polynomials of degree 2 nodes - 1 = 15 are integrated exactly
    assert not chain.notes
    loss, found = closed_form(network)
    torch.testing.assert_close(loss, chain.value(NoNoise())[0], rtol=1e-12, atol=0)
    expected = {k: v[0] for k, v in chain.draw(1, NoNoise()).items()}
    assert set(found) == set(expected)
    scale = min(float(v.abs().max()) for v in expected.values())
    assert scale > 1e-3
    return max(float((found[k] - v).abs().max()) for k, v in expected.items()) / scale


@pytest.mark.parametrize("network", LINEAR, ids=repr)
def test_closed_forms_are_the_sums_over_all_states(network):
    theta = network.theta(network.weights(), ())
    assert float((theta if network.binary else theta[..., 0]).std()) > 0.3
    assert agreement(network) < 1e-11


@pytest.mark.parametrize("part", ["_carried", "_sampled"])
def test_the_third_moments_matter(part, monkeypatch):
    """Without them, or without what repeated indices do to them, the unit gradients are wrong."""
    from estimator_lab.problems import linear_network

    right = getattr(linear_network, part)
    wrong = {
        "_carried": lambda third, slope: torch.zeros_like(right(third, slope)),
        "_sampled": lambda mean, second, third: (right(mean, second, third)[0], third),
    }
    monkeypatch.setattr(linear_network, part, wrong[part])
    assert agreement(LINEAR[1]) > 1e-4


@pytest.mark.parametrize("family", ["bernoulli", "normal"])
def test_closed_forms_hold_at_width_and_depth(family):
    """Means of draws of an unbiased estimator at 7 standard errors: 2 * 4 * 30 coordinates, 1e-9."""
    network = LinearNetwork(family, sizes=(5, 30, 30, 30, 30, 3), batch=2)
    estimator = lab.estimators.LeaveOneOut(4) if network.binary else lab.estimators.Pathwise()
    record = lab.measure(network, estimator, 2**12, wrt=("unit",))
    _, found = closed_form(network)
    for site in network.sites:
        key = ("unit", site.name)
        error = np.sqrt(record.variance(key) / record.replicates)
        assert (np.abs(record.mean(key) - found[key].numpy()) < 7 * error + 1e-12).all(), site.name


def test_weights_are_copies():
    LinearNetwork().weights()["layer1.weight"].zero_()
    assert LinearNetwork().weights()["layer1.weight"].abs().min() > 0


def test_weights_given_keep_the_closed_form():
    network = LinearNetwork(sizes=(2, 3, 3, 1), batch=2)
    other = {k: 0.5 * v for k, v in network.weights().items()}
    same = network.at(other, "halved")
    offsets = {s.name: torch.zeros(2, *s.theta_shape, dtype=torch.float64) for s in network.sites}
    expected = Chain(same, Exact()).value(NoNoise())[0]
    torch.testing.assert_close(same.expected_loss(other, offsets), expected, rtol=1e-12, atol=0)
    assert lab.problems.OneBit().expected_loss({}, {}) is None


# ---------------------------------------------------------------------- laws
@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_networks_are_mapped_and_drawn(network):
    small = dataclasses.replace(network, **({"steps": 2} if hasattr(network, "steps") else {}))
    for dtype in (torch.float64, torch.float32):
        chain = Chain(dataclasses.replace(small, dtype=dtype), Sample())
        draws = chain.draw(3, MonteCarlo("networks"))
        assert not chain.notes and all(v.dtype == dtype and torch.isfinite(v).all() for v in draws.values())
    assert len({p.label for p in NETWORKS}) == len({repr(p) for p in NETWORKS}) == len(NETWORKS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SigmoidBeliefNetwork(samples=0), "at least one sample; found samples=0"),
        (lambda: SigmoidBeliefNetwork(hidden=(3, 0)), r"at least one unit; found hidden=\(3, 0\)"),
        (lambda: CategoricalAutoencoder(classes=1), "latents=6, classes=1"),
        (lambda: HierarchicalCategorical(layers=((3, 1),)), r"two classes; found layers=\(\(3, 1\),\)"),
        (lambda: LinearNetwork("poisson"), "found 'poisson'"),
        (lambda: LinearNetwork(sizes=(3, 2)), r"found sizes=\(3, 2\)"),
        (lambda: LinearNetwork(sizes=(3, 2.0, 1)), r"found sizes=\(3, 2.0, 1\)"),
        (lambda: LinearNetwork(batch=0), "batch=0"),
        (lambda: SigmoidBeliefNetwork(data="faces").weights(), "no images 'faces'"),
        (lambda: DigitsClassifier(batch=298).theta(DigitsClassifier(steps=0).weights(), ()), "a batch of 298"),
    ],
)
def test_wrong_sizes_are_named(make, words):
    with pytest.raises(UsageError, match=words):
        make()
