"""One iteration of training (Sec. 6.3): images, network, loss, gradients, Adam; eager, or as a CUDA graph.

Nothing in an iteration waits for the device, and what changes from one to the next is a tensor there: the
number of the iteration, and with it batch and learning rates, the state of the noise, and that of the
controllers. So one iteration can be recorded as a CUDA graph and replayed, where launching some hundred small
kernels would take longer than running them.
"""

import ctypes
import platform
import time
from contextlib import ExitStack, contextmanager
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from lvae_min import losses
from lvae_min.config import CONTROL, Config, learning_rates
from lvae_min.data import Batches, Dataset
from lvae_min.io.atomic import check_tensors
from lvae_min.model import VAE

CAPTURING = Lock()  # waiting for a GPU spoils what another thread records on it
WARM_UP = 3         # eager iterations before a graph is recorded: libraries allocate in their first calls


def keep_freed_memory() -> None:
    """Let glibc keep the 20 MB gradients that each iteration frees: 2,500 page faults less an iteration."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28)):   # mmap, trim threshold; top pad
            libc.mallopt(option, value)


def bf16_speed() -> float:
    """How many times as fast a product of matrices in bfloat16 is as one in float32, on this CPU."""
    def seconds(matrix):
        began = time.perf_counter()
        matrix @ matrix
        return time.perf_counter() - began

    wide = torch.ones(512, 512)
    fastest = [min(seconds(matrix) for _ in range(5)) for matrix in (wide, wide.bfloat16())]
    return fastest[0] / fastest[1]


def prepare_thread(threads: int, device: torch.device) -> None:
    """Settings of the thread that trains: they are its own, so that several can train in one process."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    # A sixth of Adam's means decays below 1e-38 (pixels that are hardly ever white) and stays there, where a
    # CPU takes four times as long over them: 64 ms instead of 16 for one update after 20,000 iterations.
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
        with CAPTURING:
            torch.cuda.synchronize(device)          # the images arrived on another stream
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))       # a graph cannot be recorded on the first one


@contextmanager
def thread_settings_kept():
    """A context that gives back what `prepare_thread` sets for a thread: threads of products, denormals,
    stream. (Memory that was freed stays with the process.)
    """
    threads = torch.get_num_threads()
    flushed = (torch.full((1,), 1e-38) / 1e3).item() == 0               # torch does not say
    with ExitStack() as stack:
        if torch.cuda.is_available():
            stack.enter_context(torch.cuda.device(torch.cuda.current_device()))
            stack.enter_context(torch.cuda.stream(torch.cuda.current_stream()))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)


class Step:
    """What an iteration works on, all from the seed; a call is one iteration.

    iteration       how many were done
    sums, counted   loss, rec and kl (3,) float64, summed over `counted` iterations for the log

    Call it in the thread that made it. Raises ValueError for settings that data set or device do not allow.
    """

    def __init__(self, config: Config, dataset: Dataset, training: np.ndarray, device: torch.device,
                 threads: int):
        prepare_thread(threads, device)
        self.config, self.dataset, self.device = config, dataset, device
        self.graphed, self.graph, self.warm = self.wants_graph(), None, 0
        self.batches = Batches(training, config.batch_size, config.seed, device)
        terms = losses.implementation(config.loss, device)
        self.description = terms.description + ", CUDA graph" * self.graphed
        self.description += ", bf16" * (config.precision == "bf16")
        self.vae = VAE(dataset.shape, config.latents or dataset.latents, dataset.network, dataset.binary)
        self.vae.reset(torch.Generator().manual_seed(config.seed))
        self.vae.to(device)
        control = {name: getattr(config, name) for name in CONTROL if getattr(config, name) is not None}
        self.objective = losses.OBJECTIVES[config.model](
            beta=config.beta, schedule=config.schedule, scale=dataset.scale, terms=terms, **control).to(device)
        groups = [list(self.vae.parameters()), list(self.objective.parameters())]
        self.optimizer = torch.optim.Adam(                                    # Sec. 6.3: betas and eps
            [{"params": group, "lr": torch.tensor(0.0, device=device)} for group in groups if group],
            betas=(0.9, 0.999), eps=1e-8, fused=True, capturable=device.type == "cuda")
        self.rates = [torch.tensor(rates, dtype=torch.float32, device=device)
                      for rates in learning_rates(config)]
        self.noise = torch.Generator(device).manual_seed(config.seed + 1)
        self.iteration, self.clock = 0, torch.zeros(1, dtype=torch.int64, device=device)
        self.sums, self.counted = torch.zeros(3, dtype=torch.float64, device=device), 0

    def wants_graph(self) -> bool:
        possible = self.device.type == "cuda" and self.dataset.resident
        if self.config.graph == "on" and not possible:
            raise ValueError("--graph on: expected a GPU whose memory holds the images")
        return possible and self.config.graph != "off"

    def __call__(self) -> None:
        self.batches.turn(self.iteration)
        if self.graphed and self.warm >= WARM_UP:
            if self.graph is None:
                self.capture()
            self.graph.replay()
        else:
            self.work()
            self.warm += 1
        self.iteration += 1
        self.counted += 1

    def capture(self) -> None:
        """Record `work` without doing it. Its tensors keep their places: nothing may replace them later."""
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.noise)
        self.optimizer.zero_grad()                                  # gradients get their places in the graph
        with CAPTURING, torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(),
                                         capture_error_mode="thread_local"):
            self.work()

    def work(self) -> None:
        """One iteration, of which the device alone knows the number."""
        x = self.dataset.batch(self.batches.at(self.clock))
        logits, mu, logvar = self.forward(x)
        terms = self.objective(logits, x, mu, logvar)                         # loss, rec, kl
        self.optimizer.zero_grad()
        terms[0].backward()
        self.update()
        self.sums += torch.stack(terms).detach()
        self.clock += 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logits, mu and logvar of a batch; the products in bfloat16 if that was asked for."""
        noise = torch.randn(len(x), self.vae.latents, generator=self.noise, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.config.precision == "bf16",
                            cache_enabled=False):
            return self.vae(x, noise)

    def update(self) -> None:
        """Adam, with the learning rates of this iteration."""
        for group, rates in zip(self.optimizer.param_groups, self.rates, strict=False):
            group["lr"].copy_(rates.index_select(0, self.clock)[0])
        self.optimizer.step()

    def state(self) -> dict:
        """All that the next iterations depend on: plain tensors, numbers and dicts."""
        return {"iteration": self.iteration, "vae": self.vae.state_dict(),
                "objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict(),
                "noise": self.noise.get_state(), "device": self.device.type, "sums": self.sums,
                "counted": self.counted}

    def restore(self, state: dict) -> None:
        """Go on from a `state`. Raises KeyError, ValueError or RuntimeError if it is of other settings."""
        own, optimizer = self.state(), self.optimizer.state_dict()
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments = dict(enumerate({"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
                                 for weight in weights)) if state["iteration"] else {}
        for name in ("vae", "objective"):
            check_tensors(state[name], own[name])
        moved = state.get("device", self.device.type) != self.device.type
        for name in ("sums",) if moved else ("noise", "sums"):
            check_tensors({name: state[name]}, {name: own[name]})
        if state["optimizer"]["state"].keys() != moments.keys():
            raise ValueError(f"Adam's state is not that of {len(moments)} weights")
        for number, expected in moments.items():
            check_tensors(state["optimizer"]["state"][number], expected)
        self.graph, self.warm = None, 0
        self.vae.load_state_dict(state["vae"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict({**optimizer, "state": state["optimizer"]["state"]})
        if moved:                               # a GPU draws other numbers: go on with some that are new
            self.noise.manual_seed(self.config.seed + 1 + state["iteration"])
        else:
            self.noise.set_state(state["noise"])
        self.sums = state["sums"].to(self.device)
        self.iteration, self.counted = state["iteration"], state["counted"]
        self.clock.fill_(self.iteration)
