import copy
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lvae_min import fused, losses
from lvae_min.losses import OBJECTIVES, ControlVAE, DynamicVAE, SigmaVAE, elbo_terms, lvae_loss

STEERED = [0, 0.2, 1, 5, 20, 20, 3, 0.1, 18, 18]  # nats; betas below: the authors' controllers on these
CONTROL = [1.003275, 1.003456, 1.005925, 1.01409, 1.0337, 1.0532, 1.054941, 1.049313, 1.0728, 1.0903]
DYNAMIC = [
    149.996275,
    149.99407,
    149.993254,
    149.99937,
    150.026213,
    150.069998,
    150.116499,
    150.162099,
    150.2207,
    150.2773,
]


def batch(n=4, c=1, size=8, latents=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    logits, x = (torch.randn(n, c, size, size, generator=draw, dtype=dtype) for _ in range(2))
    mu, logvar = (torch.randn(n, latents, generator=draw, dtype=dtype) for _ in range(2))
    return logits.requires_grad_(), x.sigmoid(), mu.requires_grad_(), logvar.requires_grad_()


@pytest.mark.parametrize("model", OBJECTIVES)
def test_a_method_refuses_images_of_another_range(model):
    logits, x, mu, logvar = batch()
    for wrong in (255 * x, 2 * x - 1, (x - 0.5) / 0.25):
        with pytest.raises(ValueError, match="images from .* expected 0 to 1"):
            OBJECTIVES[model]()(logits, wrong, mu, logvar)
    method = OBJECTIVES[model]()
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match="images from"):
        method(logits, 255 * x, mu, logvar)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in before.items())
    method(logits, x * math.nan, mu, logvar)  # shows nothing of the next
    with pytest.raises(ValueError, match="images from"):
        method(logits, 255 * x, mu, logvar)
    for settings, images in (
        ({"scale": 1 / 255}, 255 * x),
        ({}, 1.7 * x - 0.35),  # as bicubic resizing makes them
        ({}, (255 * x).byte()),
        ({}, x.bfloat16()),
    ):
        OBJECTIVES[model](**settings)(logits, images, mu, logvar)


def test_uint8_images_of_0_and_1_need_a_scale():
    logits, x, mu, logvar = batch()
    black_and_white = (x > 0.5).byte()
    with pytest.raises(ValueError, match="uint8 images of 0 and 1, .*; give scale=1.0"):
        losses.LVAE()(logits, black_and_white, mu, logvar)
    losses.LVAE(scale=1.0)(logits, black_and_white, mu, logvar)
    losses.LVAE()(logits, 0 * black_and_white, mu, logvar)  # black ones show nothing
    with pytest.raises(ValueError, match="x must be uint8 or floating, given torch.int64"):
        losses.LVAE()(logits, 255 * black_and_white.long(), mu, logvar)
    with pytest.raises(ValueError, match="images from 0 to 255: expected 0 to 1"):
        losses.LVAE(scale=1.0)(logits, 255 * black_and_white, mu, logvar)


def test_a_method_checks_the_range_of_its_first_batch_alone(monkeypatch):
    (logits, x, mu, logvar), checks, method = batch(), [], losses.LVAE()
    aminmax = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda images: checks.append(1) or aminmax(images))
    for wrong in (2 * x - 1, 2 * x - 1):  # nothing was accepted yet
        with pytest.raises(ValueError, match="images from"):
            method(logits, wrong, mu, logvar)
    for _ in range(3):
        method(logits, x, mu, logvar)
    assert len(checks) == 4  # two refused; one accepted, and its logits


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_the_range_is_checked_until_a_batch_is_not_constant(constant):
    (logits, x, mu, logvar), method = batch(), losses.PlainVAE()
    for _ in range(2):
        method(logits, torch.full_like(x, constant), mu, logvar)
    with pytest.raises(ValueError, match="images from"):
        method(logits, 2 * x - 1, mu, logvar)


@pytest.mark.parametrize("scale", [1 / 255, 1 / 256])
def test_floats_from_0_to_1_are_not_scaled_to_black(scale):
    logits, x, mu, logvar = batch()
    x = (x - x.min()) / (x.max() - x.min())
    black = r"images from (0|-1) to 1, which scale=0.0039\d* makes black"
    for images in (x, x.float()):
        with pytest.warns(UserWarning, match=black):
            losses.LVAE(scale=scale)(logits, images, mu, logvar)
    with pytest.raises(ValueError, match=black):
        losses.LVAE(scale=scale)(logits, 2 * x - 1, mu, logvar)
    for images in (255 * x, 1.01 * x, 0 * x + 1, (255 * x).byte(), (x > 0.5).byte()):
        losses.LVAE(scale=scale)(logits, images, mu, logvar)
    losses.LVAE()(logits, x / 255, mu, logvar)  # as dark as they are


def test_the_output_of_a_sigmoid_is_no_logits():
    (logits, x, mu, logvar), method = batch(n=1), losses.LVAE()  # 64 pixels
    with pytest.warns(
        UserWarning, match="all logits are from 0.* to 0.*: give .* before the sigmoid"
    ) as seen:
        method(logits.sigmoid(), x, mu, logvar)
    assert [one.filename for one in seen] == [__file__]
    method(logits.sigmoid(), x, mu, logvar)  # said once
    for fine in (logits, logits.sigmoid() + 0.5, logits.sigmoid() - 0.5, logits.sigmoid().round()):
        losses.LVAE()(fine, x, mu, logvar)
    losses.LVAE()(
        logits.flatten(1)[:, 1:].sigmoid(), x.flatten(1)[:, 1:], mu, logvar
    )  # 63 may do so by chance


def test_replicas_of_a_method_check_the_range_once(monkeypatch):
    parts, checks, method = batch(), [], losses.PlainVAE()
    aminmax = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda images: checks.append(1) or aminmax(images))
    for _ in range(3):  # nn.DataParallel makes new ones for each call
        method._replicate_for_data_parallel()(*parts)
    assert len(checks) == 2  # of images and logits


def test_a_method_works_where_no_range_can_be_read():
    parts, method = [part.detach() for part in batch()], losses.LVAE()
    one_by_one = [losses.LVAE()(*(part[i : i + 1] for part in parts))[0] for i in range(4)]
    mapped = torch.func.vmap(lambda *one: method(*(part[None] for part in one))[0])
    torch.testing.assert_close(mapped(*parts), torch.stack(one_by_one))
    with FakeTensorMode(shape_env=ShapeEnv()) as fake:
        losses.LVAE()(*(fake.from_tensor(part) for part in parts))
    method.to("meta")(*(part.to("meta") for part in parts))


@pytest.mark.parametrize("weigh", [losses.LVAE().weigh, losses.LearnedWeights(2)], ids=["lvae", "weights"])
def test_terms_are_weighed_where_their_sign_cannot_be_read(weigh):
    rec, kl = torch.tensor([[30.0, 20.0, 10.0], [3.0, 2.0, 1.0]])
    torch.testing.assert_close(torch.func.vmap(weigh)(rec, kl), torch.stack([*map(weigh, rec, kl)]))
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as fake:
        assert weigh(fake.from_tensor(rec[0]), fake.from_tensor(kl[0])).shape == ()


@pytest.mark.cuda
def test_a_methods_first_call_can_be_captured_in_a_graph():
    parts, method = [part.detach().float().cuda() for part in batch()], losses.LVAE().cuda()
    losses.LVAE().cuda()(*parts)  # what PyTorch sets up at its first use
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = method(*parts)[0]
    graph.replay()
    torch.testing.assert_close(loss, losses.LVAE().cuda()(*parts)[0])


def test_kl_of_a_shifted_gaussian_is_half_its_squared_distance():
    _, kl = elbo_terms(torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2, 6), torch.zeros(2, 6))
    assert kl == 3


def test_kl_is_summed_over_all_latents_of_an_image_and_never_in_half_precision():
    mu, logvar = (torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(losses.kl_term(mu, logvar), losses.kl_term(mu.flatten(1), logvar.flatten(1)))
    for half in (torch.bfloat16, torch.float16):
        wide = torch.full((2, 3), 12.0, dtype=half), torch.full((2, 3), 300.0, dtype=half)
        for one, other in (wide, wide[::-1]):
            one, other = one.clamp(max=300), other.clamp(max=12)
            found = losses.kl_term(one, other)
            assert found.dtype == torch.float32 and found == losses.kl_term(one.float(), other.float())
            assert found.isfinite()
    for shapes in (((8,), (8,)), ((8, 4), (8, 5))):
        with pytest.raises(ValueError, match="expected both"):
            losses.kl_term(*map(torch.zeros, shapes))


def test_kl_of_a_wider_gaussian_is_known():
    _, kl = elbo_terms(
        torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 1), torch.full((1, 1), math.log(4.0))
    )
    assert kl == pytest.approx((4 - 1 - math.log(4)) / 2)


def test_kl_stays_exact_and_positive_near_a_collapse():
    tiny = torch.full((1, 5), 1e-5)
    _, kl = elbo_terms(torch.zeros(1, 4), torch.zeros(1, 4), tiny, tiny)
    assert kl.item() == pytest.approx(5 * (0.5e-10 + 0.25e-10), rel=1e-2)


def test_rec_is_summed_over_pixels_and_averaged_over_images():
    small, _ = elbo_terms(
        torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 4, 4), torch.zeros(3, 1), torch.zeros(3, 1)
    )
    large, _ = elbo_terms(
        torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8), torch.zeros(3, 1), torch.zeros(3, 1)
    )
    assert (small, large) == (0.25 * 16, 0.25 * 64)


def test_bytes_are_scaled_and_floats_are_not():
    x = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    for image, scale in ((x, None), (x // 255, 1.0), (x / 255.0, None)):
        assert (
            elbo_terms(torch.full((1, 1, 2, 2), 50.0), image, torch.zeros(1, 1), torch.zeros(1, 1), scale)[0]
            < 1e-9
        )


def test_terms_of_half_precision_are_summed_in_single():
    terms = elbo_terms(*(t.bfloat16() for t in batch()), 0.3)
    exact = elbo_terms(*(t.bfloat16().double() for t in batch()), 0.3)
    assert [term.dtype for term in terms] == [torch.float32] * 2
    assert torch.stack(terms).tolist() == pytest.approx(torch.stack(exact).tolist(), rel=1e-6)


def test_lvae_loss_is_equation_5():
    logits, x, mu, logvar = batch()
    sigma = torch.tensor([1.2, 0.9], dtype=torch.float64, requires_grad=True)
    loss, rec, kl = lvae_loss(logits, x, mu, logvar, sigma)
    assert loss.item() == pytest.approx((rec / 1.44 + kl / 0.81 + 1.44 + 0.81).item())
    loss.backward()
    assert sigma.grad.tolist() == pytest.approx(
        [(-2 * rec / 1.2**3 + 2.4).item(), (-2 * kl / 0.9**3 + 1.8).item()]
    )


def test_lvae_loss_scales_its_images_as_elbo_terms_does():
    logits, x, mu, logvar = batch()
    _, rec, _ = lvae_loss(logits, 2 * x, mu, logvar, torch.ones(2), 0.5)
    assert rec == elbo_terms(logits, x, mu, logvar)[0] == elbo_terms(logits, 2 * x, mu, logvar, 0.5)[0]


def test_the_weights_of_lvae_are_bounded():
    logits, x, mu, logvar = batch()
    sigma = torch.tensor([1e-9, 0.0], dtype=torch.float64)
    loss, rec, kl = lvae_loss(logits, x, mu, logvar, sigma)
    assert loss.item() == pytest.approx((100 * rec + 100 * kl).item())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_weighs_kl_by_beta_relative_to_rec(name):
    logits, x, mu, logvar = batch()
    objective = OBJECTIVES[name](**({"beta": 3.0} if name == "beta-vae" else {})).double()
    objective.train()
    with torch.no_grad():
        for number, parameter in enumerate(objective.parameters()):
            parameter += torch.linspace(0.3, 0.7, max(parameter.numel(), 1)).view_as(parameter) + number
    loss, rec, kl = objective(logits, x, mu, logvar)
    rec_only = torch.autograd.grad(elbo_terms(logits, x, mu, logvar)[0], logits)[0]
    kl_only = torch.autograd.grad(elbo_terms(logits, x, mu, logvar)[1], mu)[0]
    d_logits, d_mu = torch.autograd.grad(loss, (logits, mu))
    beta = (d_mu / kl_only).mean() / (d_logits / rec_only).mean()
    assert beta.item() == pytest.approx(objective.beta().item(), rel=1e-5)
    assert torch.equal(torch.stack(elbo_terms(logits, x, mu, logvar)), torch.stack((rec, kl)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_method_scales_its_images_and_takes_a_batch_of_one(name):
    logits, x, mu, logvar = batch(n=1)
    wanted = OBJECTIVES[name]()(logits, x, mu, logvar)
    assert torch.equal(
        torch.stack(OBJECTIVES[name](scale=0.5)(logits, 2 * x, mu, logvar)), torch.stack(wanted)
    )


@pytest.mark.parametrize("cls, expected", [(ControlVAE, CONTROL), (DynamicVAE, DYNAMIC)])
def test_controllers_follow_those_of_their_authors(cls, expected):
    objective, betas = cls(), []
    for kl in STEERED:
        objective.weigh(torch.tensor(1.0), torch.tensor(float(kl)), 1)
        betas.append(objective.beta().item())
    assert betas == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "cls, at, nats",
    [
        (ControlVAE, 4999, 0.5),
        (ControlVAE, 5000, 0.65),
        (ControlVAE, 300_000, 9.5),
        (ControlVAE, 600_000, 18),
        (DynamicVAE, 5999, 0.5),
        (DynamicVAE, 6499, 0.575),
        (DynamicVAE, 6999, 0.65),
        (DynamicVAE, 11_999, 0.65),
        (DynamicVAE, 300_000, 7.85015),
        (DynamicVAE, 702_667, 18),
    ],
)
def test_set_points_rise_as_published_and_stretch_with_the_schedule(cls, at, nats):
    for stretch in (1, 2):
        objective = cls(schedule=losses.PAPER_ITERATIONS * stretch)
        objective.step.fill_(at * stretch)
        assert objective.set_point().item() == pytest.approx(nats, abs=1e-4)


def test_gains_grow_as_the_schedule_shrinks_up_to_thirtyfold():
    """With kl at 0 and C at 0.5 nats beta falls by 0.0025 an iteration at 300,000, by 0.075 at 10,000."""
    fallen = {}
    for schedule in (600_000, 300_000, 150_000, 10_000, 1000):
        objective = DynamicVAE(schedule=schedule)
        objective.control(torch.tensor(0.0))
        before = objective.beta().item()
        objective.control(torch.tensor(0.0))
        fallen[schedule] = before - objective.beta().item()
    assert list(fallen.values()) == pytest.approx([0.0025, 0.0025, 0.005, 0.075, 0.075])


def test_both_gains_of_control_vae_grow_so_that_its_integral_does_not_stick_below_them():
    """Ki alone would take the integral below -Kp in the first iteration, where it would stay for ever."""
    for schedule in (300_000, 10_000):
        objective = ControlVAE(schedule=schedule)
        for _ in range(20):
            objective.control(torch.tensor(0.04))
        assert objective.beta() == 1 and objective.integral > -objective.kp
        for _ in range(20):
            objective.control(torch.tensor(9.0))
        assert objective.beta() > 1.1


@pytest.mark.parametrize("cls", [ControlVAE, DynamicVAE])
def test_a_controller_takes_its_settings_and_no_others(cls):
    objective = cls(kl_target=3.0, kl_start=1.0, kl_rise=1.0, kl_period=10.0)
    objective.step.fill_(10_000)
    assert objective.set_point() == 3.0
    objective.step.fill_(0)
    assert objective.set_point() == 1.0
    assert DynamicVAE(beta_start=50.0).beta() == 50 and ControlVAE(beta_start=0.5).integral == 0.5
    with pytest.raises(TypeError, match="has no setting gamma"):
        cls(gamma=1.0)


@pytest.mark.parametrize("cls", [ControlVAE, DynamicVAE])
@pytest.mark.parametrize(
    "name, value, expected",
    [("schedule", value, "a finite number above 0") for value in (0, -1, math.nan, math.inf)]
    + [("kl_period", value, "a finite number above 0") for value in (0, -1.0, math.inf, "5000")]
    + [(name, math.inf, "a finite number") for name in ControlVAE.controls if name != "kl_period"]
    + [("kp", "0.01", "a finite number"), ("ki", None, "a finite number")],
)
def test_a_setting_that_a_controller_cannot_use_is_refused(cls, name, value, expected):
    with pytest.raises(ValueError) as refused:
        cls(**{name: value})
    assert str(refused.value) == f"{name} is {value!r}: expected {expected}"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("cls", [ControlVAE, DynamicVAE])
def test_a_kl_that_is_not_finite_leaves_a_controller_as_it_was(cls, first, bad):
    """A loss scaler skips such a step, and the next one is to continue from the state before it."""
    objective, twin, rec = cls(schedule=1000), cls(schedule=1000), torch.tensor(1.0)
    for number, kl in enumerate(STEERED):
        if (number == 0) == first:
            before = {name: value.clone() for name, value in objective.state_dict().items()}
            assert not objective.weigh(rec, torch.tensor(bad)).isfinite()
            assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
        for each in (objective, twin):
            each.weigh(rec, torch.tensor(float(kl)))
        assert all(map(torch.equal, objective.buffers(), twin.buffers()))


def test_gains_of_a_controller_are_what_was_given():
    for cls, change in (
        (ControlVAE, -0.2 * 0.4 + 3 / (1 + math.exp(0.4))),
        (DynamicVAE, -0.2 * 0.48 + 3 * (1 / (1 + math.exp(0.48)) - 0.5)),
    ):
        objective = cls(kp=3.0, ki=-0.2)
        before = objective.output.item()
        objective.control(torch.tensor(0.1))
        assert objective.output.item() - before == pytest.approx(change)


@pytest.mark.parametrize("cls", [ControlVAE, DynamicVAE])
def test_a_controller_counts_its_iterations_from_1(cls):
    objective = cls()
    for iteration in (1, 2):
        objective.control(torch.tensor(0.5))
        assert objective.step == iteration


@pytest.mark.parametrize("cls", [ControlVAE, DynamicVAE])
def test_the_state_of_a_controller_is_double(cls):
    """An integral of 300,000 small steps would stand still in single."""
    assert {buffer.dtype for buffer in cls().buffers()} == {torch.float64}


def test_controllers_rest_outside_training():
    for cls in (ControlVAE, DynamicVAE):
        objective = cls().eval()
        objective.weigh(torch.tensor(1.0), torch.tensor(9.0), 1)
        assert objective.step == 0 and objective.beta() == cls().beta()


def test_control_vae_stops_integrating_below_its_floor():
    objective = ControlVAE()
    objective.step.fill_(600_000)  # a set-point of 18 nats from the start
    for _ in range(10):
        objective.weigh(torch.tensor(1.0), torch.tensor(0.5), 1)
    frozen = objective.integral.item()
    objective.weigh(torch.tensor(1.0), torch.tensor(60.0), 1)
    assert objective.integral.item() == frozen < -0.01 and objective.beta() == 1


def test_sigma_vae_is_the_negative_log_likelihood_of_a_gaussian():
    objective = SigmaVAE()
    objective.log_sigma.data.fill_(-1.5)
    loss = objective.weigh(torch.tensor(25.0), torch.tensor(0.0), 4096)
    loss.backward()
    assert loss.item() == pytest.approx(-2089.1934) and objective.log_sigma.grad.item() == pytest.approx(
        3565.2288
    )
    assert objective.sigmas().item() == pytest.approx(math.exp(-1.488952))


@pytest.mark.parametrize(
    "terms", [None, losses.implementation("torch"), losses], ids=["none", "given", "module"]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_can_be_copied_and_pickled(name, terms):
    objective = OBJECTIVES[name](terms=terms)
    objective(*batch())
    twins = copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))
    expected = objective(*batch())[0]
    assert [twin(*batch())[0] for twin in twins] == [expected] * 2


@pytest.mark.parametrize("terms", ["auto", SimpleNamespace(elbo_terms=elbo_terms), math])
def test_terms_without_both_functions_are_refused_at_once(terms):
    with pytest.raises(
        ValueError, match=r"terms is .*: expected functions elbo_terms and lvae_loss, as .*gives"
    ):
        losses.PlainVAE(terms=terms)


@pytest.mark.parametrize(
    "given, module, description",
    [
        (("torch",), losses, "elbo: PyTorch"),
        (("auto",), fused, "elbo: fused C++ op"),
        (("fused", "cuda:1"), fused, "elbo: fused CUDA kernel"),
    ],
)
def test_it_is_said_where_the_terms_are_computed(monkeypatch, given, module, description):
    monkeypatch.setattr(fused, "why_not", lambda device: "")  # as where the op is built
    terms = losses.implementation(*given)
    assert (terms.elbo_terms, terms.lvae_loss) == (module.elbo_terms, module.lvae_loss)
    assert terms.description == description


def test_lvae_sigma_settles_at_the_fourth_root_of_each_term():
    sigma = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([sigma], lr=0.01)
    for _ in range(2000):
        optimizer.zero_grad()
        weight = 1 / sigma.square()
        (20 * weight[0] + 11 * weight[1] + sigma.square().sum()).backward()
        optimizer.step()
    objective = losses.LVAE()
    objective.sigma.data.copy_(sigma)
    assert objective.beta().item() == pytest.approx(math.sqrt(20 / 11), rel=1e-3)
    assert list(objective.equilibrium(20.0, 11.0).values()) == pytest.approx([0, 0], abs=1e-3)


def test_the_equilibrium_is_how_far_the_fourth_powers_are_from_the_terms():
    assert losses.LVAE().equilibrium(0.5, 0.25) == {"sigma_0": 1.0, "sigma_1": 3.0}
    assert losses.LVAE().equilibrium(1.0, 0.0)["sigma_1"] == pytest.approx(1e12)  # of a collapsed encoder
    assert losses.LVAE().equilibrium(0.0, 1.0) == {"sigma_0": pytest.approx(1e12), "sigma_1": 0.0}
    assert losses.PlainVAE().equilibrium(1.0, 1.0) == SigmaVAE().equilibrium(1.0, 1.0) == {}


def test_a_method_without_learned_scales_has_none():
    assert [len(OBJECTIVES[name]().sigmas()) for name in OBJECTIVES] == [0, 0, 0, 0, 1, 2]


def test_all_six_methods_are_there():
    assert list(OBJECTIVES) == ["vae", "beta-vae", "control-vae", "dynamic-vae", "sigma-vae", "lvae"]
    assert [name for name, cls in OBJECTIVES.items() if cls.has_beta] == ["beta-vae"]


def test_beta_of_a_collapsed_lvae_is_the_weight_in_its_loss_and_finite():
    objective = losses.LVAE(scale=1.0)
    objective.sigma.data = torch.tensor([2.0, 1e-30])
    rec, kl = torch.tensor(5.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    weight = 1 / objective.sigma.detach().square().clamp(min=losses.MIN_SIGMA_SQ)
    d_rec, d_kl = torch.autograd.grad(weight[0] * rec + weight[1] * kl, (rec, kl))
    assert objective.beta().item() == pytest.approx((d_kl / d_rec).item()) == pytest.approx(400)


def test_learned_scales_start_at_one():
    """Sec. 6.3 has that of L-VAE's; sigma-VAE's log_sigma is 0, of which its soft clip makes 0.0025."""
    assert losses.LVAE().sigma.tolist() == [1, 1] and losses.LVAE().beta() == 1
    objective = SigmaVAE()
    assert objective.log_sigma.item() == 0
    assert objective.sigmas().item() == pytest.approx(1.002479, abs=1e-6)
    assert objective.beta().item() == pytest.approx(2.009927, abs=1e-5)


def test_beta_of_beta_vae_is_the_first_of_the_papers_by_default():
    assert losses.BetaVAE().beta() == 2.0  # Sec. 6.3: 2 or 4


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "beta-vae"])
def test_a_beta_is_refused_by_a_method_that_has_none(name):
    with pytest.raises(TypeError, match="has no setting beta|unexpected keyword argument 'beta'"):
        OBJECTIVES[name](beta=4.0)


def test_the_beta_of_beta_vae_is_annealed_by_given_beta_and_not_by_hiding_its_method():
    objective, terms = losses.BetaVAE(4.0), (torch.tensor(1.0), torch.tensor(3.0))
    with pytest.raises(AttributeError, match="beta is a method: set given_beta = 0.5"):
        objective.beta = 0.5
    objective.given_beta = 0.5
    assert objective.beta() == 0.5 and objective.weigh(*terms) == 2.5


def test_a_method_shows_its_settings():
    assert repr(losses.BetaVAE(beta=8)) == "BetaVAE(beta=8)"
    assert repr(losses.LVAE()) == "LVAE()" and repr(losses.LVAE(scale=0.5)) == "LVAE(scale=0.5)"
    shown = "schedule=20000, kl_target=3.0, kl_start=0.5, kl_rise=0.15, kl_period=5000.0, kp=0.01"
    assert repr(ControlVAE(schedule=20_000, kl_target=3.0)).startswith(f"ControlVAE({shown}, ki=-0.001, ")
