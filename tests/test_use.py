"""The objectives and LearnedWeights in somebody else's model, without a Config."""

import math
import os

import pytest
import torch
from torch import nn

import lvae_min
from lvae_min import fused, losses
from lvae_min.losses import OBJECTIVES, LearnedWeights

PIXELS = 9


def batch(seed=0, rows=8):
    torch.manual_seed(seed)
    return torch.rand(rows, 1, 3, 3)


class Small(nn.Module):
    """A VAE of one layer each way, as a user might write it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.encoder, self.decoder = nn.Linear(PIXELS, 4), nn.Linear(2, PIXELS)

    def forward(self, x):
        mu, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z = mu + (logvar / 2).exp() * torch.ones_like(mu) / 2
        return self.decoder(z).view(x.shape), mu, logvar


def parameters(*modules):
    return [parameter for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("terms", [None, fused])
def test_every_objective_trains_a_users_model_without_a_config(name, terms):
    if terms is fused and not fused.available():
        pytest.skip("the fused op is not built here")
    model, criterion = Small(), OBJECTIVES[name](terms=terms)
    optimizer = torch.optim.Adam(parameters(model, criterion), lr=1e-2)
    x, found = batch(), []
    for _ in range(40):
        logits, mu, logvar = model(x)
        loss, rec, kl = criterion(logits, x, mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(rec.item())
    assert found[-1] < found[0] and math.isfinite(loss.item())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weigh_takes_terms_from_elsewhere_and_equals_the_call(name):
    torch.manual_seed(0)
    logits, x, mu, logvar = torch.randn(4, 1, 3, 3), torch.rand(4, 1, 3, 3), *torch.randn(2, 4, 2)
    loss, rec, kl = OBJECTIVES[name]()(logits, x, mu, logvar)
    assert OBJECTIVES[name]().weigh(rec, kl, PIXELS).item() == loss.item()


def test_sigma_vae_asks_for_the_number_of_pixels():
    with pytest.raises(ValueError, match="needs the number of pixels"):
        losses.SigmaVAE().weigh(torch.tensor(5.0), torch.tensor(1.0))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weigh_takes_scalars_alone(name):
    with pytest.raises(ValueError, match=r"term 1 is a tensor of shape \(4,\): expected a scalar"):
        OBJECTIVES[name]().weigh(torch.tensor(1.0), torch.ones(4), PIXELS)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_scales_and_controllers_in_half_precision_are_refused(kind):
    """Each step of theirs would round to nothing."""
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match=f"the loss is {kind}: .*; keep it in float32"):
        LearnedWeights(2).to(kind)(one, one)
    for name in ("LVAE", "ControlVAE", "DynamicVAE", "SigmaVAE"):
        with pytest.raises(ValueError, match=f"the loss is {kind}: .*; keep it in float32"):
            getattr(lvae_min, name)().to(kind).weigh(one, one, PIXELS)


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_a_beta_that_is_no_weight_is_refused(beta):
    with pytest.raises(ValueError, match="beta is .*: expected a number from 0 on"):
        lvae_min.BetaVAE(beta)


def test_a_loss_of_no_terms_and_of_no_tensors_is_refused():
    with pytest.raises(ValueError, match="expected at least one term, given 0"):
        LearnedWeights(0)
    logits, mu, logvar = Small()(x := batch())
    for given in (x.numpy(), x.tolist()):
        with pytest.raises(ValueError, match=f"x must be a tensor, given {type(given).__name__}"):
            lvae_min.LVAE()(logits, given, mu, logvar)


def test_scales_whose_gradients_are_dropped_stay_at_1_and_take_part_once_they_are_not():
    model, criterion, x = Small(), lvae_min.LVAE(), batch()
    optimizer = torch.optim.Adam(parameters(model, criterion), lr=1e-2)
    for step in range(10):
        logits, mu, logvar = model(x)
        criterion(logits, x, mu, logvar)[0].backward()
        if step < 5:
            criterion.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
        assert (criterion.sigma == 1).all() == (step < 5)


@pytest.mark.parametrize("betas, held, steps", [((0.9, 0.999), 0, 5000), ((0.9, 0.99), 100, 2000)])
def test_the_scales_forget_their_first_gradients_sooner_with_a_smaller_beta_2(betas, held, steps):
    """rec falls from 2,800 to 200 as with large images, and Adam divides by the root of its mean square."""
    criterion = lvae_min.LVAE()
    optimizer = torch.optim.Adam(criterion.parameters(), lr=3e-3, betas=betas)
    for step in range(steps):
        rec = torch.tensor(200 + 2600 * math.exp(-step / 30), requires_grad=True)
        criterion.weigh(rec, torch.tensor(10.0)).backward()
        if step < held:
            criterion.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
    off = criterion.equilibrium(200.0, 10.0)["sigma_0"]
    assert abs(off) < 0.05 if held else off < -0.2


@pytest.mark.parametrize("decay, scales", [(0.01, [3.162, 1.778]), (1.0, [1.0, 1.0])])
def test_weight_decay_moves_the_scales_of_l_vae_little_and_a_strong_one_much(decay, scales):
    """Without any they settle at 100^(1/4) and 10^(1/4)."""
    criterion = lvae_min.LVAE()
    optimizer = torch.optim.AdamW(criterion.parameters(), lr=1e-2, weight_decay=decay)
    for _ in range(4000):
        criterion.weigh(torch.tensor(100.0), torch.tensor(10.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert criterion.sigmas().tolist() == pytest.approx(scales, rel=0.01)


def test_a_mask_of_pixels_and_the_closed_form_of_the_kl_are_weighed():
    logits, mu, logvar = Small()(x := batch())
    whole, rec, kl = lvae_min.LVAE()(logits, x, mu, logvar)
    mask = torch.ones_like(x)
    errors = (mask * (logits.sigmoid() - x).square()).flatten(1).sum(1).mean()
    ours = lvae_min.LVAE().weigh(errors, lvae_min.kl_term(mu, logvar))
    assert ours.item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_negative_term_is_refused_with_what_to_do():
    for call in (
        lambda: losses.LVAE().weigh(torch.tensor(-3.0), torch.tensor(1.0)),
        lambda: LearnedWeights(2)(torch.tensor(-3.0), torch.tensor(1.0)),
    ):
        with pytest.raises(ValueError, match="term 0 is -3: .* has no optimum; leave the constant"):
            call()
    assert losses.PlainVAE().weigh(torch.tensor(-3.0), torch.tensor(1.0)) == -2
    assert LearnedWeights(1)(torch.tensor(0.0)).item() == 1.0


@pytest.mark.parametrize("terms", [(4.0,), (30.0, 5.0), (100.0, 1.0, 0.25)])
def test_learned_weights_settle_where_the_fourth_power_is_the_term(terms):
    criterion = LearnedWeights(len(terms))
    optimizer = torch.optim.Adam(criterion.parameters(), lr=1e-2)
    for _ in range(3000):
        optimizer.zero_grad()
        loss = criterion(*map(torch.tensor, terms))
        loss.backward()
        optimizer.step()
    assert criterion.sigma.detach().pow(4).tolist() == pytest.approx(terms, rel=1e-3)
    assert loss.item() == pytest.approx(2 * sum(map(math.sqrt, terms)), rel=1e-5)


@pytest.mark.parametrize("term, form", [(torch.ones(3), r"shape \(3,\)"), (1.0, "float")])
def test_a_term_that_is_no_scalar_tensor_is_refused(term, form):
    with pytest.raises(ValueError, match=f"term 0 is .*{form}: expected a scalar tensor"):
        LearnedWeights(1)(term)


def test_learned_weights_take_as_many_terms_as_they_were_made_for():
    with pytest.raises(ValueError, match="expected 3 terms, given 2"):
        LearnedWeights(3)(torch.tensor(1.0), torch.tensor(1.0))


def test_a_weight_is_at_most_100():
    criterion = LearnedWeights(2)
    with torch.no_grad():
        criterion.sigma.copy_(torch.tensor([0.001, 2.0]))
    loss = criterion(torch.tensor(3.0), torch.tensor(8.0)).item()
    assert loss == pytest.approx(100 * 3 + 8 / 4 + 1e-6 + 4)


def test_l_vae_is_learned_weights_of_two_terms_to_the_bit():
    torch.manual_seed(0)
    logits, x, mu, logvar = torch.randn(4, 5), torch.rand(4, 5), *torch.randn(2, 4, 2)
    ours, general = lvae_min.LVAE(), lvae_min.LearnedWeights(2)
    with torch.no_grad():
        ours.sigma.copy_(torch.tensor([1.7, 0.05]))  # one weight at its bound
        general.sigma.copy_(ours.sigma)
    loss, rec, kl = ours(logits, x, mu, logvar)
    assert general(rec, kl).item() == ours.weigh(rec, kl).item() == loss.item()
    assert list(ours.state_dict()) == list(general.state_dict()) == ["sigma"]


def test_torch_compile_takes_a_users_step_in_one_graph():
    if not fused.available():
        pytest.skip("the compiler of the fused op is the one that torch.compile needs")
    model, criterion, x = Small(), lvae_min.LVAE(), batch()

    def step(x):
        logits, mu, logvar = model(x)
        return criterion(logits, x, mu, logvar)[0]

    whole = torch.compile(step, fullgraph=True)(x)
    whole.backward()
    compiled = [parameter.grad.clone() for parameter in parameters(model, criterion)]
    for parameter in parameters(model, criterion):
        parameter.grad = None
    step(x).backward()
    for gradient, parameter in zip(compiled, parameters(model, criterion), strict=True):
        assert gradient.numpy() == pytest.approx(parameter.grad.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_compiled_method_gives_what_it_gives_otherwise_and_moves_its_state_alike(name):
    eager, method, x = OBJECTIVES[name](), OBJECTIVES[name](), batch()
    compiled = torch.compile(lambda *given: method(*given), backend="aot_eager", fullgraph=True)
    for seed in range(3):
        torch.manual_seed(seed)
        logits, mu, logvar = (torch.randn(size, requires_grad=True) for size in (x.shape, (8, 2), (8, 2)))
        torch.testing.assert_close(compiled(logits, x, mu, logvar), eager(logits, x, mu, logvar))
        torch.testing.assert_close(method.state_dict(), eager.state_dict())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_logits_of_autocast_are_taken_and_the_loss_stays_in_float32(name):
    model, criterion, x = Small(), OBJECTIVES[name](), batch()
    with torch.autocast("cpu", torch.bfloat16):
        logits, mu, logvar = model(x)
        assert logits.dtype == torch.bfloat16
        loss, rec, kl = criterion(logits, x, mu, logvar)
    loss.backward()
    assert loss.dtype == rec.dtype == torch.float32 and all(p.grad is not None for p in parameters(model))


def worker(rank, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.criterion = Small(), lvae_min.LVAE()

        def forward(self, x):
            logits, mu, logvar = self.model(x)
            return self.criterion(logits, x, mu, logvar)[0]

    whole = nn.parallel.DistributedDataParallel(Whole())
    x = batch().chunk(2)[rank]
    whole(x).backward()
    gradients = [parameter.grad for parameter in whole.parameters()]

    model, criterion = Small(), lvae_min.DynamicVAE()
    logits, mu, logvar = model(x)
    rec, kl = lvae_min.elbo_terms(logits, x, mu, logvar)
    mean = kl.detach() / torch.distributed.get_world_size()
    torch.distributed.all_reduce(mean)
    criterion.weigh(rec, kl + (mean - kl.detach())).backward()
    steered = [parameter.grad for parameter in model.parameters()], criterion.state_dict()
    torch.save((gradients, steered), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes has saved."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_steer_by_the_mean_of_their_kl_as_one_does_with_the_whole_batch(processes):
    """As docs/use.md says it; the mean of the gradients is what DistributedDataParallel takes."""
    model, criterion, x = Small(), lvae_min.DynamicVAE(), batch()
    logits, mu, logvar = model(x)
    criterion(logits, x, mu, logvar)[0].backward()
    gradients, states = zip(*(steered for _, steered in processes), strict=True)
    for state in states:
        torch.testing.assert_close(state, criterion.state_dict(), rtol=1e-6, atol=1e-6)
    for parameter, *each in zip(model.parameters(), *gradients, strict=True):
        torch.testing.assert_close(sum(each) / 2, parameter.grad, rtol=1e-4, atol=1e-4)


def test_two_processes_average_the_gradients_of_sigma_like_any_other(processes):
    one, other = (gradients for gradients, _ in processes)
    model, criterion, x = Small(), lvae_min.LVAE(), batch()
    logits, mu, logvar = model(x)
    criterion(logits, x, mu, logvar)[0].backward()
    alone = [parameter.grad for parameter in parameters(model, criterion)]
    for first, second, both in zip(one, other, alone, strict=True):
        assert torch.equal(first, second)
        assert first.numpy() == pytest.approx(both.numpy(), rel=1e-5, abs=1e-6)
    assert any(gradient.shape == (2,) and gradient.abs().min() > 0 for gradient in one)
