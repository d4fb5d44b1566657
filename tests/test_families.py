"""The laws that the docstrings of Family, Scored, Reparameterised and Discrete state, for every family of the table."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import (
    FAMILIES,
    AdditiveNoise,
    Bernoulli,
    Categorical,
    Deterministic,
    Discrete,
    Dropout,
    Family,
    NoisySigmoid,
    Normal,
    RectifiedLogistic,
    RectifiedNormal,
    Reparameterised,
    Scored,
    StochasticTimesSmooth,
)
from estimator_lab.families.quadrature import hermite, legendre, normal_piece
from estimator_lab.noise import MonteCarlo
from estimator_lab.site import Site, SiteSpec

OBJECTS: tuple[Family, ...] = (
    Bernoulli(),
    Categorical(2),
    Categorical(3),
    Normal(),
    AdditiveNoise(),
    AdditiveNoise(0.3),
    Dropout(),
    Dropout(0.8),
    NoisySigmoid(),
    NoisySigmoid(0.4),
    RectifiedNormal(),
    RectifiedNormal(0.4),
    RectifiedLogistic(),
    RectifiedLogistic(0.6),
    StochasticTimesSmooth(),
    StochasticTimesSmooth(mask=1.0),
    StochasticTimesSmooth(mask=0.3, smooth=0.8),
    Deterministic(),
    Deterministic("rectifier"),
)
DISCRETE = [f for f in OBJECTS if isinstance(f, Discrete)]
SCORED = [f for f in OBJECTS if isinstance(f, Scored)]
REPARAMETERISED = [f for f in OBJECTS if isinstance(f, Reparameterised)]
UNIFORM = [f for f in OBJECTS if f.noise == "uniform"]
UNITS = (2, 3)  # more than one unit axis
LEADS = [(), (4,), (2, 1, 3)]


def each(families):
    return pytest.mark.parametrize("family", families, ids=repr)


def theta_of(family: Family, lead: tuple[int, ...] = (), scale: float = 1.7) -> Tensor:
    """Unequal parameters; for Normal the deviation stays moderate."""
    shape = (*lead, *UNITS, *family.theta_shape)
    count = math.prod(shape)
    grid = torch.arange(1, count + 1, dtype=torch.float64)
    theta = (scale * (2.1 * grid + 0.3 * grid.square()).sin()).reshape(shape)
    if isinstance(family, Normal):
        theta = torch.stack([theta[..., 0], 0.5 * theta[..., 1]], -1)
    return theta


def saturated(family: Family) -> Tensor:
    """Logits +40 and -40 in every combination, one unit each."""
    if not family.theta_shape:
        return torch.tensor([40.0, -40.0], dtype=torch.float64)
    return torch.tensor(list(itertools.product((40.0, -40.0), repeat=family.theta_shape[0])), dtype=torch.float64)


def thetas(family: Family) -> list[Tensor]:
    cases = [theta_of(family), theta_of(family, scale=0.1), theta_of(family, scale=6.0)]
    return [*cases, saturated(family)] if isinstance(family, Discrete) else cases


def midpoints(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def units_of(family: Family, theta: Tensor) -> tuple[int, ...]:
    return tuple(theta.shape[: theta.dim() - len(family.theta_shape)])


def weighted(family: Family, weight: Tensor, value: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, *(1,) * (value.dim() - weight.dim())) * value


def numbers(family: Family, theta: Tensor, nodes: int = 64) -> tuple[Tensor, Tensor]:
    """Random numbers ``[S, *units]`` and weights that integrate over what ``sample`` takes, piece by piece."""
    jumps = family.jumps(theta)
    normal = family.noise == "normal"
    if normal and not jumps.shape[-1]:
        x, w = (torch.as_tensor(a).reshape(nodes, *(1,) * (jumps.dim() - 1)) for a in hermite(nodes))
        return x.expand(nodes, *jumps.shape[:-1]), w
    end = torch.full_like(jumps[..., :0].sum(-1, keepdim=True), math.inf if normal else 1.0)
    edges = torch.cat([-end if normal else 0 * end, jumps, end], -1)
    pieces = []
    for low, high in itertools.pairwise(edges.unbind(-1)):
        if normal:
            pieces.append(normal_piece(low, high, nodes))
        else:
            x, w = (torch.as_tensor(a).reshape(nodes, *(1,) * low.dim()) for a in legendre(nodes))
            pieces.append((low + (high - low) * x, (high - low) * w))
    x, w = (torch.cat(t) for t in zip(*pieces, strict=True))
    return x, w


TESTED = (lambda x: x, lambda x: x.square(), lambda x: (x - 0.4).tanh())


def test_every_family_of_the_table_is_tested():
    assert {type(f) for f in OBJECTS} == set(FAMILIES)


@each(OBJECTS)
def test_types_tell_the_attributes(family):
    """A fixed finite support and a relaxation go together; nothing asks for more than a type."""
    assert family.discrete == isinstance(family, Discrete)
    assert not family.discrete or family.noise == "uniform"
    assert isinstance(family, Reparameterised) != isinstance(family, Discrete | StochasticTimesSmooth)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AdditiveNoise(0.0), "the deviation of AdditiveNoise is positive; found 0.0"),
        (lambda: NoisySigmoid(-1.0), r'found -1.0: without noise it is Deterministic\("sigmoid"\)'),
        (lambda: RectifiedNormal(0.0), r'found 0.0: without noise it is Deterministic\("rectifier"\)'),
        (lambda: RectifiedLogistic(float("nan")), "the scale of RectifiedLogistic is positive; found nan"),
        (lambda: Dropout(1.0), "a probability between 0 and 1; found keep=1.0"),
        (lambda: StochasticTimesSmooth(mask=0.0), "exponents of StochasticTimesSmooth are positive; found mask=0.0"),
        (lambda: Deterministic("tanh"), 'is "sigmoid" or "rectifier"; found \'tanh\''),
    ],
)
def test_parameters_that_make_no_law_are_told(make, told):
    with pytest.raises(UsageError, match=told):
        make()


@each(OBJECTS)
def test_equal_repr_is_the_same_law(family):
    twin = eval(repr(family), {f.__name__: f for f in FAMILIES})
    assert twin == family and hash(twin) == hash(family)
    assert Categorical(2) != Categorical(3)


@each(OBJECTS)
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_shapes(family, lead):
    theta = theta_of(family, lead)
    noise = torch.full((*lead, *UNITS), 0.3, dtype=torch.float64)
    value = family.sample(theta, noise)
    assert value.shape == (*lead, *UNITS, *family.value_shape)
    assert family.mean(theta).shape == value.shape
    assert family.jumps(theta).shape[:-1] == (*lead, *UNITS)
    if isinstance(family, Scored):
        assert family.log_prob(theta, value).shape == (*lead, *UNITS)
        assert family.score(theta, value).shape == theta.shape
    values, weights = family.rule(theta, 5)
    size = family.rule_size(5)
    assert values.shape == (size, *value.shape) and weights.shape == (size, *lead, *UNITS)
    if isinstance(family, Discrete):
        u = torch.full_like(theta, 0.4)
        z = family.perturb(theta, u)
        assert z.shape == family.condition(theta, value, u).shape == theta.shape
        assert family.squash(z, 0.5).shape == family.harden(z).shape == value.shape
        assert family.alternatives(value).shape == (size, *value.shape)
        assert family.perturb_jumps(theta).shape[:-1] == theta.shape


@each(OBJECTS)
def test_lead_axes_are_a_map(family):
    """Every function of theta [4, ...] is that of its four slices."""
    theta = theta_of(family, (4,))
    noise = midpoints(theta[0].numel() * 4)[: math.prod((4, *UNITS))].reshape(4, *UNITS)
    u = midpoints(theta.numel()).reshape(theta.shape)
    value = family.sample(theta, noise)
    calls = [
        lambda t, n, v, w: family.mean(t),
        lambda t, n, v, w: family.sample(t, n),
        lambda t, n, v, w: family.jumps(t),
    ]
    if isinstance(family, Scored):
        calls += [lambda t, n, v, w: family.log_prob(t, v), lambda t, n, v, w: family.score(t, v)]
    if isinstance(family, Discrete):
        calls += [lambda t, n, v, w: family.perturb(t, w), lambda t, n, v, w: family.condition(t, v, w)]
    for call in calls:
        whole = call(theta, noise, value, u)
        parts = torch.stack([call(theta[i], noise[i], value[i], u[i]) for i in range(4)])
        torch.testing.assert_close(whole, parts, rtol=1e-15, atol=1e-15)


@each(OBJECTS)
def test_rule_integrates_one_to_one_and_the_value_to_the_mean(family):
    for theta in thetas(family):
        values, weights = family.rule(theta, 64)
        torch.testing.assert_close(
            weights.sum(0), torch.ones(units_of(family, theta), dtype=theta.dtype), rtol=0, atol=1e-14
        )
        torch.testing.assert_close(weighted(family, weights, values).sum(0), family.mean(theta), rtol=1e-12, atol=1e-13)


@each([Normal(), *DISCRETE])
def test_rule_weights_are_the_law(family):
    """Finite: the weights are exp(log_prob). Gaussian: the rule integrates x^2 and x^4."""
    for theta in thetas(family):
        values, weights = family.rule(theta, 16)
        if isinstance(family, Discrete):
            torch.testing.assert_close(weights, family.log_prob(theta, values).exp(), rtol=1e-12, atol=1e-300)
        else:
            mu, s = theta[..., 0], theta[..., 1].exp()
            second, fourth = mu**2 + s**2, mu**4 + 6 * mu**2 * s**2 + 3 * s**4
            torch.testing.assert_close((weights * values**2).sum(0), second, rtol=1e-12, atol=0)
            torch.testing.assert_close((weights * values**4).sum(0), fourth, rtol=1e-12, atol=0)


@each(OBJECTS)
def test_rule_has_the_law_of_sample(family):
    """Expectations by the rule are those over the numbers that sample takes, integrated piece by piece."""
    for theta in (theta_of(family), theta_of(family, scale=0.1), theta_of(family, scale=3.0)):
        values, weights = family.rule(theta, 64)
        x, w = numbers(family, theta)
        drawn = family.sample(theta.expand(len(x), *theta.shape), x)
        for f in TESTED:
            by_rule, by_sample = weighted(family, weights, f(values)).sum(0), weighted(family, w, f(drawn)).sum(0)
            torch.testing.assert_close(by_rule, by_sample, rtol=1e-9, atol=1e-10)


@each(REPARAMETERISED)
def test_the_derivative_of_sample_is_the_whole_gradient(family):
    """E[f'(x) dx/dtheta] over the numbers is the gradient of the sum over the rule."""
    theta = theta_of(family).requires_grad_()
    values, weights = family.rule(theta, 64)
    x, w = numbers(family, theta.detach())
    for f in TESTED:
        (whole,) = torch.autograd.grad((weights * f(values)).sum(), theta, retain_graph=True)
        (path,) = torch.autograd.grad((w * f(family.sample(theta.expand(len(x), *theta.shape), x))).sum(), theta)
        torch.testing.assert_close(whole, path, rtol=1e-9, atol=1e-10)


@each([f for f in OBJECTS if not isinstance(f, Reparameterised)])
def test_others_do_not_pass_for_reparameterised(family):
    """The same test fails where the derivative of sample is not the whole gradient."""
    theta = theta_of(family).requires_grad_()
    values, weights = family.rule(theta, 64)
    x, w = numbers(family, theta.detach())
    drawn = family.sample(theta.expand(len(x), *theta.shape), x)
    f = torch.arange(1, 1 + (family.value_shape or (1,))[0], dtype=theta.dtype)
    whole, path = (
        torch.autograd.grad((weighted(family, a, b) * f).sum(), theta)[0]
        if b.requires_grad
        else torch.zeros_like(theta)
        for a, b in ((weights, values + 0 * theta), (w, drawn))
    )
    assert float((whole - path).abs().max()) > 0.01


@each([f for f in SCORED if f.theta_shape == f.value_shape])
def test_gradient_of_the_rule_is_that_of_the_integral(family):
    """Of E x^2, by the score."""
    theta = theta_of(family).requires_grad_()
    values, weights = family.rule(theta, 64)
    square = weighted(family, weights, values.square())
    number = torch.arange(1.0, 1 + (family.value_shape or (1,))[0], dtype=theta.dtype) if family.value_shape else 1.0
    (gradient,) = torch.autograd.grad((square * number).sum(), theta)
    f = (values.square() * number).detach()
    f = f.sum(-1) if family.value_shape else f
    scores = family.score(theta.detach(), values.detach())
    w = (weights * f).detach()
    expected = (w.reshape(*w.shape, *(1,) * len(family.theta_shape)) * scores).sum(0)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-11, atol=1e-12)


def test_gradient_of_the_gaussian_rule_is_in_closed_form():
    """Of E x^2."""
    family, theta = Normal(), theta_of(Normal()).requires_grad_()
    values, weights = family.rule(theta, 16)
    (gradient,) = torch.autograd.grad((weights * values.square()).sum(), theta)
    expected = torch.stack([2 * theta[..., 0], 2 * (2 * theta[..., 1]).exp()], -1)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-12, atol=1e-13)


@each(SCORED)
def test_score_is_the_derivative_of_log_prob(family):
    for theta in thetas(family):
        values, _ = family.rule(theta, 6)
        for value in values:
            leaf = theta.clone().requires_grad_()
            (slope,) = torch.autograd.grad(family.log_prob(leaf, value).sum(), leaf)
            torch.testing.assert_close(family.score(theta, value), slope, rtol=1e-12, atol=1e-14)


@each(SCORED)
def test_score_has_expectation_zero(family):
    for theta in thetas(family):
        values, weights = family.rule(theta, 64)
        scores = family.score(theta, values)
        mean = (weights.reshape(*weights.shape, *(1,) * len(family.theta_shape)) * scores).sum(0)
        torch.testing.assert_close(mean, torch.zeros_like(theta), rtol=0, atol=1e-12)


@each(OBJECTS)
def test_log_prob_and_mean_are_differentiable(family):
    theta = theta_of(family).requires_grad_()
    assert torch.autograd.gradcheck(family.mean, (theta,))
    if not isinstance(family, Scored):
        return
    value = family.sample(theta.detach(), torch.full(UNITS, 0.3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda t: family.log_prob(t, value), (theta,))


@each(DISCRETE)
def test_sample_has_the_law(family):
    """Of N equidistant uniforms, an interval of length P holds N P to within one; one more for rounding of its ends."""
    count = 4096
    for theta in thetas(family):
        units = units_of(family, theta)
        u = midpoints(count).reshape(count, *(1,) * len(units)).expand(count, *units)
        drawn = family.sample(theta.expand(count, *theta.shape), u)
        values, weights = family.rule(theta, 1)
        for value, weight in zip(values, weights, strict=True):
            same = drawn == value
            hits = (same.all(-1) if family.value_shape else same).double().sum(0)
            assert ((hits - count * weight).abs() <= 2).all()


def test_normal_sample_has_the_law():
    """Change of variables: exp(log_prob(x(e))) |dx/de| is the standard normal density at e."""
    family = Normal()
    theta = theta_of(family, (7,))
    e = torch.linspace(-5, 5, 7, dtype=torch.float64)[:, None, None].expand(7, *UNITS).clone().requires_grad_()
    x = family.sample(theta, e)
    (jacobian,) = torch.autograd.grad(x.sum(), e)
    density = family.log_prob(theta, x).exp() * jacobian.abs()
    expected = torch.exp(-0.5 * e.square()) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(density.detach(), expected.detach(), rtol=1e-12, atol=0)
    assert (jacobian > 0).all()
    leaf = theta.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: family.sample(t, e.detach()), (leaf,))


@each(UNIFORM)
def test_sample_jumps_only_where_it_says(family):
    theta = theta_of(family)
    jumps = family.jumps(theta)
    assert (jumps.diff(dim=-1) >= 0).all() and (jumps >= 0).all() and (jumps <= 1).all()
    edges = torch.cat([torch.zeros_like(jumps[..., :1]), jumps, torch.ones_like(jumps[..., :1])], -1)
    pieces = []
    for j in range(edges.shape[-1] - 1):
        low, length = edges[..., j], edges[..., j + 1] - edges[..., j]
        found = [family.sample(theta, low + share * length) for share in (1e-6, 0.3, 0.5, 0.9, 1 - 1e-6)]
        assert all(torch.equal(found[0], other) for other in found[1:])
        pieces.append(found[0])
    for a, b in itertools.pairwise(pieces):
        assert ((a != b).reshape(*UNITS, -1).any(-1)).all()


def test_bernoulli_thresholds_jump_only_where_they_say():
    family, theta = Bernoulli(), theta_of(Bernoulli())
    jumps = family.perturb_jumps(theta)
    assert (jumps.diff(dim=-1) > 0).all()
    p = theta.sigmoid()
    edges = torch.cat([torch.zeros_like(jumps[..., :1]), jumps, torch.ones_like(jumps[..., :1])], -1)
    for j in range(3):
        low, length = edges[..., j], edges[..., j + 1] - edges[..., j]
        inside = [low + share * length for share in (1e-6, 0.5, 1 - 1e-6)]
        for rule in (lambda u: family.harden(family.perturb(theta, u)), lambda u: u < p, lambda u: 1 - u < p):
            assert torch.equal(rule(inside[0]), rule(inside[1])) and torch.equal(rule(inside[1]), rule(inside[2]))


@each(DISCRETE)
def test_alternatives_are_the_support_with_the_value_first(family):
    values, _ = family.rule(theta_of(family), 1)
    for value in values:
        options = family.alternatives(value)
        assert torch.equal(options[0], value)
        for support in values:
            assert sum(int(torch.equal(o, support)) for o in options) == 1


@each(DISCRETE)
def test_hardened_noise_has_the_law(family):
    """On a grid of n^C uniforms. The boundary of a class is monotone in every coordinate, so that it cuts at most
    C n^(C - 1) of the cells, and the frequency is off by at most C / n."""
    classes = family.theta_shape[0] if family.theta_shape else 1
    n = {1: 4096, 2: 512, 3: 64}[classes]
    grid = torch.cartesian_prod(*[midpoints(n)] * classes).reshape(-1, *family.theta_shape)
    for theta in thetas(family):
        rows = theta.reshape(-1, *family.theta_shape)
        for row in rows:
            hard = family.harden(family.perturb(row.expand(len(grid), *row.shape), grid))
            assert set(hard.unique().tolist()) <= {0.0, 1.0}
            torch.testing.assert_close(hard.mean(0), family.mean(row), rtol=0, atol=classes / n)


def conditional_cdf(family: Family, theta: Tensor, value: Tensor, z: Tensor) -> Tensor:
    """Distribution functions that turn z given its hard value into independent uniforms (Rosenblatt 1952).

    Bernoulli: logistic noise cut at 0. Categorical: the maximum is Gumbel at log-sum-exp(theta), the others are Gumbel
    cut at the maximum.
    """
    if isinstance(family, Bernoulli):
        below, p = (z - theta).sigmoid(), theta.sigmoid()
        return torch.where(value > 0.5, (below - (1 - p)) / p, below / (1 - p))
    top = (z * value).sum(-1, keepdim=True)
    maximum = torch.exp(-(theta.logsumexp(-1, keepdim=True) - top).exp())
    others = torch.exp(-(theta - z).exp() + (theta - top).exp())
    return torch.where(value > 0.5, maximum, others)


@each(DISCRETE)
def test_conditioned_noise_has_the_conditional_law(family):
    """The conditional distribution functions of condition(theta, b, v) are v itself, for every b."""
    for theta in (theta_of(family), theta_of(family, scale=0.1), theta_of(family, scale=4.0)):
        values, _ = family.rule(theta, 1)
        for value in values:
            for shift in range(7):
                v = (midpoints(theta.numel()) + 0.137 * shift).remainder(1.0).reshape(theta.shape)
                z = family.condition(theta, value, v)
                torch.testing.assert_close(conditional_cdf(family, theta, value, z), v, rtol=0, atol=1e-11)


@each(DISCRETE)
def test_conditioned_noise_hardens_to_its_value(family):
    for theta in thetas(family):
        values, _ = family.rule(theta, 1)
        for value in values:
            for level in (1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
                z = family.condition(theta, value, torch.full_like(theta, level))
                assert torch.equal(family.harden(z), value)


@each(DISCRETE)
def test_pair_of_hard_value_and_conditioned_noise_has_the_joint_law(family):
    """E[g(z) 1(H(z) = b)] on a grid of u equals P(b) E[g(condition(b, v))] on the same grid of v.

    g is smooth and within [0, 1]; the left side also carries the error C / n of the boundary of the class.
    """
    classes = family.theta_shape[0] if family.theta_shape else 1
    n = {1: 4096, 2: 512, 3: 64}[classes]
    grid = torch.cartesian_prod(*[midpoints(n)] * classes).reshape(-1, *family.theta_shape)
    for theta in (theta_of(family), theta_of(family, scale=3.0)):
        row = theta.reshape(-1, *family.theta_shape)[1]
        rows = row.expand(len(grid), *row.shape)
        z = family.perturb(rows, grid)
        hard = family.harden(z)
        values, weights = family.rule(row, 1)
        for value, weight in zip(values, weights, strict=True):
            given = family.condition(rows, value.expand_as(hard), grid)
            here = (hard == value).reshape(len(grid), -1).all(-1).double()
            for temperature in (0.5, 2.0):
                a = family.squash(z, temperature).reshape(len(grid), -1)
                b = family.squash(given, temperature).reshape(len(grid), -1)
                for power in (1, 2):
                    left, right = (a**power * here[:, None]).mean(0), weight * (b**power).mean(0)
                    torch.testing.assert_close(left, right, rtol=0, atol=(classes + 1) / n)


@each(DISCRETE)
def test_noise_is_differentiable_in_theta(family):
    theta = theta_of(family).requires_grad_()
    v = midpoints(theta.numel()).reshape(theta.shape)
    values, _ = family.rule(theta.detach(), 1)
    assert torch.autograd.gradcheck(lambda t: family.perturb(t, v), (theta,))
    for value in values:
        assert torch.autograd.gradcheck(lambda t, value=value: family.condition(t, value, v), (theta,))
    assert not family.harden(family.perturb(theta, v)).requires_grad


@each(DISCRETE)
def test_squash_tends_to_harden(family):
    theta = theta_of(family)
    z = family.perturb(theta, midpoints(theta.numel()).reshape(theta.shape))
    previous = math.inf
    for temperature in (1.0, 0.1, 0.01, 1e-4):
        gap = float((family.squash(z, temperature) - family.harden(z)).abs().max())
        assert gap <= previous
        previous = gap
    assert previous < 1e-12


@each(DISCRETE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_saturated_logits_stay_finite(family, dtype):
    """Noise, conditioned noise and their slopes at logits of +-40, over the range that MonteCarlo draws from."""
    theta = saturated(family).to(dtype)
    eps = torch.finfo(dtype).eps
    # MonteCarlo draws from eps / 4 to one step of the generator's grid below one
    for level in (eps / 4, eps / 2, 0.5, 1 - eps / 2):
        u = torch.full_like(theta, level)
        assert float(u.max()) < 1
        leaf = theta.clone().requires_grad_()
        z = family.perturb(leaf, u)
        outputs = [z, family.squash(z, 0.1)]
        values, weights = family.rule(theta, 1)
        assert torch.isfinite(weights).all()
        for value in values:
            conditioned = family.condition(leaf, value, u)
            outputs += [conditioned, family.squash(conditioned, 0.1), family.log_prob(leaf, value)]
            assert torch.isfinite(family.score(theta, value)).all()
        for output in outputs:
            (slope,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
            assert torch.isfinite(output).all() and torch.isfinite(slope).all()


def test_a_site_never_hands_out_zero(monkeypatch):
    """The generator's grid contains 0, which a logarithm cannot take."""
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape, dtype=options["dtype"]))
    for dtype in (torch.float32, torch.float64):
        theta = torch.zeros(1, 1, 1, 3, dtype=dtype)
        u = Site(SiteSpec("x", Bernoulli(), (3,)), theta, MonteCarlo("ends")).uniform()
        assert (u > 0).all() and torch.isfinite(Bernoulli().perturb(theta, u)).all()
