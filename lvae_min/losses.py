"""The loss of each method: two terms (Eq. 1-3), and six ways to weigh them (Eq. 1, 3, 5, Sec. 6.2).

`elbo_terms` and `lvae_loss` are the definitions in plain PyTorch; `lvae_min.fused` has the same two functions
in C++ and CUDA. An `Objective` is a method: it gets `(logits, x, mu, logvar)`, asks for the terms and weighs
them. Learned weights are parameters, controller state is buffers, and nothing here waits for the device,
except the checks of the first images and logits (`checks`).
"""

import math
from collections.abc import Sequence
from numbers import Real
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lvae_min import checks, fused
from lvae_min.methods import METHODS, PAPER_ITERATIONS, gain_factor

MIN_SIGMA_SQ = 0.01  # weights are 1 / max(sigma^2, 0.01): never reached in a healthy run


def elbo_terms(
    logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL terms of Eq. 3: two scalars, each a mean over the batch.

    logits      (N, ...)  decoder output before the sigmoid
    x           (N, ...)  image, uint8 or float; `scale * x` is in [0, 1]
    mu, logvar  (N, L)    parameters of q(z|x) = N(mu, diag(exp(logvar)))
    scale                 None: 1/255 for uint8, 1 for floats
    rec                   squared error summed over C*H*W (no unit)
    kl                    nats, summed over L

    Raises ValueError for other shapes, dtypes and devices.
    """
    scale = fused.pixel_scale(x, scale)
    fused.check(logits, x, mu, logvar, scale)
    wide = torch.promote_types(logits.dtype, torch.float32)  # sums never run in half precision
    logits, x, mu, logvar = logits.to(wide), x.to(wide), mu.to(wide), logvar.to(wide)
    rec = (logits.sigmoid() - scale * x).square().flatten(1).sum(1)  # (N,)
    return rec.mean(), kl_term(mu, logvar)


def kl_terms(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of each N(mu, exp(logvar)) from N(0, 1), nats, in the shape of both; float32 at least."""
    wide = torch.promote_types(mu.dtype, torch.float32)
    mu, logvar = mu.to(wide), logvar.to(wide)
    # expm1 keeps the difference exact near a collapse, where exp(logvar) - 1 - logvar turns negative.
    return 0.5 * (mu.square() + (logvar.expm1() - logvar)).clamp(min=0)


def kl_term(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mu, diag(exp(logvar))) from N(0, 1), nats, a scalar: a sum over L, a mean over N.

    mu, logvar (N, L), or (N, ...) for latents in space or time, whose sum is over all but N. Raises
    ValueError for other shapes.
    """
    if mu.shape != logvar.shape or mu.ndim < 2:
        raise ValueError(
            f"mu {tuple(mu.shape)} and logvar {tuple(logvar.shape)}: expected both (N, L), or both (N, ...)"
        )
    return kl_terms(mu, logvar).flatten(1).sum(1).mean()


def lvae_loss(
    logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, sigma: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of Eq. 5 and its two terms: L = rec / s0^2 + kl / s1^2 + s0^2 + s1^2, three scalars.

    sigma  (2,)  s0 and s1; the other arguments and the terms are those of `elbo_terms`.
    """
    fused.check_sigma(sigma, logits)
    rec, kl = elbo_terms(logits, x, mu, logvar, scale)
    return weighed((rec, kl), sigma), rec, kl


def weighed(terms: Sequence[Tensor], sigma: Tensor) -> Tensor:
    """Eq. 5 for any number of terms: sum_i L_i / s_i^2 + s_i^2, a scalar; sigma (n,).

    The weight of a term is at most 100: 1 / max(s_i^2, 0.01). Raises ValueError for sigma in half precision.
    """
    checks.refuse_half(sigma)
    sigma_sq = sigma.square()
    weight = 1 / sigma_sq.clamp(min=MIN_SIGMA_SQ)
    return sum(weight[i] * term for i, term in enumerate(terms)) + sigma_sq.sum()


class LearnedWeights(nn.Module):
    """A loss of n terms whose weights are learned: Eq. 5 of the paper, where n is 2.

        L = sum_i L_i / s_i^2 + s_i^2,    s_i learned, 1 at the start

    At its optimum s_i^4 = L_i and L = 2 sum_i sqrt(L_i): a term that is a hundred times another one's size
    counts ten times as much. A term has to end above 1e-4: below it the bound of the weights holds s_i, which
    then goes to 0 and does not come back. Give the parameters to the optimizer of the network.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        if terms < 1:
            raise ValueError(f"expected at least one term, given {terms}")
        self.sigma = nn.Parameter(torch.ones(terms))  # Sec. 6.3: "initialized with one"

    def forward(self, *terms: Tensor) -> Tensor:
        """The loss, a scalar, of as many terms, scalars that are not negative.

        Raises ValueError for another number of terms, for one that is no scalar, and for a negative one on a
        CPU (to look at one on a GPU would have to wait for it, and a tracer has no number).
        """
        if len(terms) != len(self.sigma):
            raise ValueError(f"expected {len(self.sigma)} terms, given {len(terms)}")
        checks.refuse_shapes(terms)
        checks.refuse_negative(terms)
        return weighed(terms, self.sigma)


class Objective(nn.Module):
    """A method: the loss of one batch, from the two terms and the method's own state.

    beta      weight of kl (beta-VAE alone); None: 2
    schedule  iterations of the learning-rate schedule; the controllers follow it
    scale     factor on x, as in `elbo_terms`
    terms     where `elbo_terms` and `lvae_loss` come from: this module, or one with the same two functions
    control   settings of a controller: those of `controls` that are to be others

    None of these is in the `state_dict`. Raises TypeError for a setting that the method does not have.
    """

    has_beta = False  # whether `beta` is a setting of the method
    has_scales = False  # whether it learns scales, which `--sigma-freeze` may hold
    controls: dict[str, float] = {}  # settings of its controller, if it has one
    shortest = 1  # schedule that it needs, in iterations

    def __init__(
        self,
        beta: float | None = None,
        schedule: int = PAPER_ITERATIONS,
        scale: float | None = None,
        terms: Any = None,
        **control: float,
    ) -> None:
        super().__init__()
        strange = control.keys() - self.controls.keys()
        if beta is not None and not self.has_beta:
            strange.add("beta")
        if strange:
            raise TypeError(f"{type(self).__name__} has no setting {min(strange)}")
        beta = 2.0 if beta is None else beta  # Sec. 6.3: 2 or 4
        self.given_beta, self.schedule, self.scale = beta, schedule, scale
        self.checked = SimpleNamespace(range=False)  # one for all replicas of nn.DataParallel
        self.terms = SimpleNamespace(elbo_terms=elbo_terms, lvae_loss=lvae_loss)
        if terms is not None:  # its functions alone: a module cannot be copied or pickled
            for name in vars(self.terms):
                if not callable(function := getattr(terms, name, None)):
                    raise ValueError(
                        f"terms is {terms!r}: expected functions elbo_terms and lvae_loss, as "
                        'lvae_min.losses.implementation("auto", device) gives'
                    )
                setattr(self.terms, name, function)
        self.control_settings = SimpleNamespace(**{**self.controls, **control})

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "given_beta" and not (isinstance(value, Real) and 0 <= float(value) < math.inf):
            raise ValueError(f"beta is {value}: expected a number from 0 on")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """The settings that the method has, for `print`."""
        shown: dict[str, Any] = {"beta": self.given_beta} if self.has_beta else {}
        if self.controls:
            shown |= {"schedule": self.schedule, **vars(self.control_settings)}
        if self.scale is not None:
            shown["scale"] = self.scale
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def forward(self, logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, rec, kl), three scalars; the arguments are those of `elbo_terms`.

        Raises ValueError as that does. The first batch that is not constant is looked at: images of another
        range are a ValueError, logits that look like the output of a sigmoid a warning. A copy of a loss that
        has done so does not look again.
        """
        if not (torch.compiler.is_compiling() or self.checked.range):
            self.checked.range = checks.in_range(x, self.scale)
            if self.checked.range:
                checks.warn_of_probabilities(logits)
        return self.compute(logits, x, mu, logvar)

    def compute(self, logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns."""
        rec, kl = self.terms.elbo_terms(logits, x, mu, logvar, self.scale)
        return self.combine(rec, kl, logits[0].numel()), rec, kl

    def weigh(self, rec: Tensor, kl: Tensor, pixels: int | None = None) -> Tensor:
        """The loss, a scalar, of terms from elsewhere: any reconstruction error and divergence, scalars.

        pixels  how many numbers of an image `rec` is a sum over, for sigma-VAE alone
        Raises ValueError where a term does not fit the method.
        """
        checks.refuse_shapes((rec, kl))
        return self.combine(rec, kl, pixels)

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        """The loss of the two terms: what makes a method."""
        raise NotImplementedError

    def beta(self) -> Tensor:
        """Weight of kl relative to rec at this moment: a scalar."""
        raise NotImplementedError

    def sigmas(self) -> Tensor:
        """The learned scales, sigma_0 first: (0,), (1,) or (2,)."""
        return torch.empty(0)

    def equilibrium(self, rec: float, kl: float) -> dict[str, float]:
        """How far each scale of L-VAE is from its optimum, as a fraction; rec and kl are recent means.

        Empty for the other methods.
        """
        return {}


class PlainVAE(Objective):
    """VAE, Eq. 1: L = rec + kl."""

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        return rec + kl

    def beta(self) -> Tensor:
        return torch.ones(())


class BetaVAE(Objective):
    """beta-VAE, Eq. 3: L = rec + beta kl (Higgins et al. 2017).

    To anneal beta, set `given_beta` before a call: `criterion.given_beta = min(step / 1000, 1) * 4`.
    """

    has_beta = METHODS["beta-vae"].has_beta

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "beta":
            raise AttributeError(f"beta is a method: set given_beta = {value} to change the weight of kl")
        super().__setattr__(name, value)

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        return rec + self.given_beta * kl

    def beta(self) -> Tensor:
        return torch.tensor(float(self.given_beta))


class Controlled(Objective):
    """A method whose beta is the output of a controller that steers kl to a set-point C(t), in nats.

    A call in training mode is an iteration of the `schedule`; in eval mode the controller stands still.

    C rises from `kl_start` by `kl_rise` a period up to `kl_target`. `kl_period` is in iterations of a
    schedule of 300,000, and stretches with it. In a shorter schedule both gains are larger by `gain_factor`,
    so that beta follows about the same curve over the fraction of it that is done.

    A batch whose kl is not finite leaves the controller as it was, as a skipped step leaves the weights.
    Raises ValueError for a setting that is no finite number, or not above 0 (`schedule`, `kl_period`).
    """

    def __init__(
        self,
        *,
        schedule: int = PAPER_ITERATIONS,
        scale: float | None = None,
        terms: Any = None,
        **control: float,
    ) -> None:
        super().__init__(schedule=schedule, scale=scale, terms=terms, **control)
        given = self.control_settings
        for name, value in {"schedule": schedule, **vars(given)}.items():
            above_0 = name in ("schedule", "kl_period")
            if not isinstance(value, Real) or not math.isfinite(value) or (above_0 and value <= 0):
                raise ValueError(f"{name} is {value!r}: expected a finite number{' above 0' * above_0}")
        self.period = given.kl_period * self.schedule / PAPER_ITERATIONS
        # Differs from the paper, which names gains for 300,000 iterations alone.
        faster = gain_factor(self.schedule)
        self.kp, self.ki = given.kp * faster, given.ki * faster
        for name, value in self.start(float(given.beta_start)).items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    output: Tensor

    def start(self, beta: float) -> dict[str, Any]:
        """The controller's buffers before the first iteration; beta is `beta_start`."""
        raise NotImplementedError

    def control(self, kl: Tensor) -> None:
        """Take in the kl of this batch, a scalar: moves the controller's buffers, each in place."""
        # Scalars are written once, by += or [...] =: torch.compile (2.13, CPU) drops copy_ to one of float64.
        raise NotImplementedError

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        if self.training:
            checks.refuse_half(self.output)
            self.control(kl.detach())
        return rec + self.beta().to(kl.dtype) * kl


class ControlVAE(Controlled):
    """ControlVAE (Shao et al. 2020): beta is the output of a PI controller that steers kl to a set-point.

        e = C(t) - kl,   P = Kp / (1 + exp(e)) + 1,   I += Ki e,   beta = max(P + I, 1)

    I stands still while the last P + I was below 1. C rises from 0.5 by 0.15 every 5,000 iterations up to 18.
    This is the variant of the authors' repository for disentangling (P_PID.py). Sec. 6.3 gives Kp, Ki and 18
    nats, and 0 at the start, which is I.
    """

    controls = METHODS["control-vae"].controls
    shortest = METHODS["control-vae"].shortest
    step: Tensor
    integral: Tensor
    output: Tensor

    def start(self, beta: float) -> dict[str, Any]:
        return {"step": 0, "integral": beta, "output": 1}

    def set_point(self) -> Tensor:
        """C(t), nats, a scalar; `step` counts from 1 in the first iteration."""
        given = self.control_settings
        return (given.kl_start + given.kl_rise * (self.step / self.period).floor()).clamp(max=given.kl_target)

    @torch.no_grad()
    def control(self, kl: Tensor) -> None:
        """Take in the kl of this batch: moves `output`, P + I before it is bounded."""
        finite = kl.abs() < math.inf
        self.step += finite
        error = self.set_point() - kl
        self.integral += torch.where(finite & (self.output >= 1), self.ki * error, 0.0)
        output = self.kp / (1 + error.exp()) + 1 + self.integral
        self.output[...] = torch.where(finite, output, self.output)

    def beta(self) -> Tensor:
        return self.output.clamp(min=1)


class DynamicVAE(Controlled):
    """DynamicVAE (Shao et al. 2022): an incremental PI controller brings beta down from 150.

        e = C(t) - mean of the last 5 kl,   f(e) = 1 / (1 + exp(e))
        beta += Kp (f(e) - f(e of the step before)) + Ki e,   held above 0.1

    The Ki term is left out while the sum was below 0.1. C starts at 0.5 and rises by 0.15 during the first
    sixth of every 6,000 iterations, after the first 6,000, up to 18 (the authors' I_PID.py and
    solver_dynamic.py). Sec. 6.3 gives Kp, Ki, 18 nats and 150.
    """

    controls = METHODS["dynamic-vae"].controls
    shortest = METHODS["dynamic-vae"].shortest
    # Differs from the paper, which names no mean of 5 and no floor: they are of the authors' code.
    RISING, FLOOR = 6, 0.1  # C rises in one part of so many of a period
    step: Tensor
    output: Tensor
    last_error: Tensor
    recent: Tensor

    def start(self, beta: float) -> dict[str, Any]:
        return {"step": 0, "output": beta, "last_error": 0, "recent": [0] * 5}  # as theirs

    def set_point(self) -> Tensor:
        """C(t), nats, a scalar; `step` counts from 1 in the first iteration."""
        given, window = self.control_settings, (self.step / self.period).floor()
        risen = ((self.step - window * self.period + 1) / (self.period / self.RISING)).clamp(max=1)
        return (given.kl_start + given.kl_rise * (window - 1 + risen) * (window > 0)).clamp(
            max=given.kl_target
        )

    @torch.no_grad()
    def control(self, kl: Tensor) -> None:
        """Take in the kl of this batch: moves `output`, beta before it is bounded."""
        finite = kl.abs() < math.inf
        self.step += finite
        recent = torch.cat([self.recent[1:], kl.double().view(1)])
        self.recent.copy_(torch.where(finite, recent, self.recent))
        error = self.set_point() - self.recent.mean()
        proportional = self.kp * (torch.sigmoid(-error) - torch.sigmoid(-self.last_error))
        change = proportional + torch.where(self.output < self.FLOOR, 0.0, self.ki * error)
        self.output += finite * change  # whose error is of kept values, and finite
        self.last_error[...] = torch.where(finite, error, self.last_error)

    def beta(self) -> Tensor:
        return self.output.clamp(min=self.FLOOR)


class SigmaVAE(Objective):
    """sigma-VAE (Rybkin et al. 2021): a Gaussian decoder whose standard deviation is learned.

        L = rec / (2 s^2) + D (log s + log(2 pi) / 2) + kl,    log s = -6 + softplus(log_sigma + 6)

    D is the number of pixels. The optimum is s^2 = rec / D; in the units of Eq. 3, beta is 2 s^2.
    """

    has_scales = METHODS["sigma-vae"].has_scales

    def __init__(
        self, *, schedule: int = PAPER_ITERATIONS, scale: float | None = None, terms: Any = None
    ) -> None:
        super().__init__(schedule=schedule, scale=scale, terms=terms)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def log_scale(self) -> Tensor:
        """log s, softly clipped at -6: a scalar."""
        return -6 + nn.functional.softplus(self.log_sigma + 6)

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        if pixels is None:
            raise ValueError(
                "sigma-VAE needs the number of pixels that rec is a sum over: weigh(rec, kl, pixels)"
            )
        checks.refuse_half(self.log_sigma)
        log_s = self.log_scale()
        return rec / (2 * (2 * log_s).exp()) + pixels * (log_s + math.log(2 * math.pi) / 2) + kl

    def beta(self) -> Tensor:
        return 2 * (2 * self.log_scale().detach()).exp()

    def sigmas(self) -> Tensor:
        return self.log_scale().detach().exp().view(1)


class LVAE(Objective):
    """L-VAE, Eq. 5: learn the weight of both terms (`LearnedWeights` of two).

        L = rec / s0^2 + kl / s1^2 + s0^2 + s1^2,    s0, s1 > 0 learned

    Setting dL/ds_i = 0 gives s0^4 = rec and s1^4 = kl, so at convergence beta_hat = s0^2 / s1^2 (Sec. 7.1)
    equals sqrt(rec / kl). The regulariser is the s^2 of Eq. 5, not the log(s) of Eq. 4.
    """

    has_scales = METHODS["lvae"].has_scales

    def __init__(
        self, *, schedule: int = PAPER_ITERATIONS, scale: float | None = None, terms: Any = None
    ) -> None:
        super().__init__(schedule=schedule, scale=scale, terms=terms)
        self.sigma = nn.Parameter(torch.ones(2))  # Sec. 6.3: "initialized with one"

    def compute(self, logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.terms.lvae_loss(logits, x, mu, logvar, self.sigma, self.scale)

    def combine(self, rec: Tensor, kl: Tensor, pixels: int | None) -> Tensor:
        checks.refuse_negative((rec, kl))
        return weighed((rec, kl), self.sigma)

    def beta(self) -> Tensor:
        sigma_sq = self.sigma.detach().square().clamp(min=MIN_SIGMA_SQ)  # as the loss weighs
        return sigma_sq[0] / sigma_sq[1]

    def sigmas(self) -> Tensor:
        return self.sigma.detach().abs()

    def equilibrium(self, rec: float, kl: float) -> dict[str, float]:
        s0, s1 = self.sigmas().tolist()
        return {"sigma_0": s0**4 / max(rec, 1e-12) - 1, "sigma_1": s1**4 / max(kl, 1e-12) - 1}


OBJECTIVES: dict[str, type[Objective]] = {
    "vae": PlainVAE,
    "beta-vae": BetaVAE,
    "control-vae": ControlVAE,
    "dynamic-vae": DynamicVAE,
    "sigma-vae": SigmaVAE,
    "lvae": LVAE,
}
METHODS.maps.insert(0, OBJECTIVES)  # Config takes a method that is added here at run time


def implementation(choice: str, device: torch.device | str = "cpu"):
    """Where the terms are computed: an object with `elbo_terms`, `lvae_loss` and a line of `description`.

    choice  "fused": the op of csrc/, compiled at first use; "torch": the two functions above; "auto": the op
            where it works, else the functions, and the description says why
    Raises ValueError for "fused" where the op does not work, and for another choice.
    """
    if choice not in ("fused", "torch", "auto"):
        raise ValueError(f"the loss must be fused, torch or auto, not {choice!r}")
    kind = torch.device(device).type
    reason = "" if choice == "torch" else fused.why_not(device)
    if choice == "fused" and reason:
        raise ValueError(f"the fused loss is not available on {kind}: {reason}")
    if choice == "torch" or reason:
        why = f" (extension not built: {reason})" if reason else ""
        return SimpleNamespace(elbo_terms=elbo_terms, lvae_loss=lvae_loss, description=f"elbo: PyTorch{why}")
    name = "CUDA kernel" if kind == "cuda" else "C++ op"
    return SimpleNamespace(
        elbo_terms=fused.elbo_terms, lvae_loss=fused.lvae_loss, description=f"elbo: fused {name}"
    )
