"""One iteration of training (Sec. 6.3): images, network, loss, gradients, Adam; eager, or as a CUDA graph.

Nothing in an iteration waits for the device, and what changes from one to the next is a tensor there: the
number of the iteration, and with it batch and learning rates, the state of the noise, and that of the
controllers. So one iteration can be recorded as a CUDA graph and replayed, where launching some hundred small
kernels would take longer than running them.
"""

import copy
import ctypes
import functools
import platform
import time
from contextlib import ExitStack, contextmanager, nullcontext
from threading import Condition, Lock, current_thread

import numpy as np
import torch
from torch import Tensor

from lvae_min import adam, fused, losses
from lvae_min.config import Config, learning_rates
from lvae_min.data import Batches, Dataset
from lvae_min.io.checkpoints import check_tensors
from lvae_min.methods import CONTROL
from lvae_min.model import VAE

CAPTURING = Lock()  # waiting for a GPU spoils what another thread records on it
WARM_UP = 3  # eager iterations before a graph is recorded: libraries allocate in their first calls
MOST_STREAMS = 32  # of torch on a GPU. It hands them out round-robin: the 33rd is the first again.
SWITCHES = (
    (torch.backends.cuda.matmul, "fp32_precision"),
    (torch.backends.cudnn.conv, "fp32_precision"),  # type: ignore[attr-defined]  # torch makes it at run time
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
)


class Switches:
    """How a GPU computes products of float32: in float32 or in TF32, and so that they repeat to the bit.

    TF32 is on the tensor cores: 8 bits of exponent and 10 of fraction, three times as fast or more.

    The switches are the whole process's, and are set only while a thread launches work (a CUDA graph keeps
    what held when it was recorded). Threads that want the same are inside together; one that wants the other
    waits until they have left. The last one to leave puts back what was there before.
    """

    def __init__(self):
        self.turn, self.left = Lock(), Condition()
        self.inside, self.tf32, self.before = 0, False, []

    @contextmanager
    def set(self, tf32: bool):
        """Not to be entered by a thread that is inside."""
        with self.turn, self.left:  # who waits lets nobody pass, so that its wait has an end
            self.left.wait_for(lambda: not self.inside or self.tf32 == tf32)
            if not self.inside:
                self.before, self.tf32 = [getattr(*switch) for switch in SWITCHES], tf32
                self.put(["tf32" if tf32 else "ieee"] * 2 + [True, False])
            self.inside += 1
        try:
            yield
        finally:
            with self.left:
                self.inside -= 1
                if not self.inside:
                    self.put(self.before)
                    self.left.notify_all()

    @staticmethod
    def put(values: list) -> None:
        for switch, value in zip(SWITCHES, values, strict=True):
            setattr(*switch, value)


PRODUCTS = Switches()


def products(device: torch.device, precision: str = "float32"):
    """A context in which a GPU computes products in this precision; a CPU has but one way."""
    return PRODUCTS.set(precision == "tf32") if device.type == "cuda" else nullcontext()


def in_float32(function):
    """Let a function of a network, a data set, ... compute products in float32, whatever a run does."""

    @functools.wraps(function)
    def wrapped(vae, dataset, *given, **named):
        with products(dataset.device):
            return function(vae, dataset, *given, **named)

    return wrapped


class Streams:
    """A stream of its own for each thread that trains on a GPU: a graph must record no other run's work."""

    def __init__(self):
        self.lock, self.taken = Lock(), {}  # of each GPU: [thread, stream] pairs

    def mine(self, device: torch.device) -> torch.cuda.Stream:
        """The stream of this thread. A thread that has ended leaves its stream to another.

        Raises ValueError if other threads have them all.
        """
        with self.lock:
            taken, thread = self.taken.setdefault(device, []), current_thread()
            pair = next((pair for pair in taken if pair[0] is thread), None)
            pair = pair or next((pair for pair in taken if not pair[0].is_alive()), None)
            if pair is None:
                if len(taken) == MOST_STREAMS:
                    raise ValueError(
                        f"more than {MOST_STREAMS} runs at once on {device}: "
                        f"expected --jobs {MOST_STREAMS} at most"
                    )
                taken.append(pair := [thread, torch.cuda.Stream(device)])
            pair[0] = thread
            return pair[1]


STREAMS = Streams()


def keep_freed_memory() -> None:
    """Let glibc keep the 20 MB gradients that each iteration frees: 2,500 page faults less an iteration."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28)):  # mmap, trim threshold; top pad
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
    # numpy before 2.4 computes the smallest denormal at the first call, and warns if that is flushed to 0.
    for kind in (np.float32, np.float64):
        np.finfo(kind)
    # A sixth of Adam's means decays below 1e-38 (pixels that are hardly ever white) and stays there, where a
    # CPU takes four times as long over them: 64 ms instead of 16 for one update after 20,000 iterations.
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        with CAPTURING:
            torch.cuda.synchronize(device)  # the images were copied on another stream
        torch.cuda.set_device(device)
        if torch.cuda.current_stream(device) == torch.cuda.default_stream(device):
            torch.cuda.set_stream(STREAMS.mine(device))  # a graph cannot be recorded on the first one


def same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one; "cuda" without a number may be any GPU."""
    return one.type == other.type and (None in (one.index, other.index) or one.index == other.index)


class Float32:
    """torch's default type of numbers is the whole process's: float32 as long as any thread trains."""

    def __init__(self):
        self.lock, self.inside, self.before = Lock(), 0, torch.float32

    @contextmanager
    def default(self):
        with self.lock:
            if not self.inside:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    torch.set_default_dtype(self.before)


FLOAT32 = Float32()


@contextmanager
def thread_settings_kept(device: torch.device):
    """A context in which a thread trains on `device`, and which gives the caller's settings back.

    These are gradients, autocast, the default device and type of numbers, and what `prepare_thread` sets: the
    threads of products, denormals and the stream. Freed memory stays with the process.
    """
    threads = torch.get_num_threads()
    small = torch.tensor(1e-38, dtype=torch.float32, device="cpu")
    flushed = (small / 1e3).item() == 0  # torch does not say
    with torch.inference_mode(False), ExitStack() as stack:  # and with gradients
        stack.enter_context(FLOAT32.default())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if torch.get_default_device().type != "cpu":  # only then: it makes each call of torch slower
            stack.enter_context(torch.device("cpu"))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(torch.cuda.current_device()))
            stack.enter_context(torch.cuda.stream(torch.cuda.current_stream(device)))
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

    def __init__(
        self, config: Config, dataset: Dataset, training: np.ndarray, device: torch.device, threads: int
    ):
        if not same_device(dataset.device, device):
            raise ValueError(
                f"{dataset.name}: its images are on {dataset.device}, the run is on {device}; "
                f'move them with dataset.to("{device}"), or name the device of the run'
            )
        device = device if device.index is not None else dataset.device  # "cuda" alone: that of the images
        prepare_thread(threads, device)
        self.config, self.dataset, self.device = config, dataset, device
        self.graphed, self.warm = self.wants_graph(), 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batches = Batches(training, config.batch_size, config.seed, device)
        terms = losses.implementation(config.loss, device)
        self.description = terms.description + ", CUDA graph" * self.graphed
        self.description += {"float32": "", "bf16": ", bf16"}.get(
            config.precision, ", tf32" if device.type == "cuda" else ", float32 (a CPU has no tf32)"
        )
        latents = config.latents or dataset.latents
        self.vae = VAE(dataset.shape, latents, dataset.network, dataset.binary, config.seed)
        self.vae.lay_out(device)
        control = {name: getattr(config, name) for name in CONTROL if getattr(config, name) is not None}
        method = losses.OBJECTIVES[config.model]
        control |= {"beta": config.beta} if method.has_beta else {}
        self.objective = method(schedule=config.schedule, scale=dataset.scale, terms=terms, **control).to(
            device
        )
        groups = [list(self.vae.parameters()), list(self.objective.parameters())]
        self.rates = torch.tensor(np.stack(learning_rates(config), 1), dtype=torch.float32, device=device)
        self.lr = torch.zeros(1, self.rates.shape[1], device=device)  # those of this iteration
        self.optimizer = adam.Adam(  # Sec. 6.3: betas and eps
            [{"params": group, "lr": lr} for group, lr in zip(groups, self.lr[0], strict=True) if group],
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.network: VAE = self.vae
        self.by_op: adam.ByOp | None = None
        if device.type == "cuda" and terms.lvae_loss is fused.lvae_loss:
            self.use_ops()
        self.noise = torch.Generator(device).manual_seed(config.seed + 1)
        self.iteration, self.clock = 0, torch.zeros(1, dtype=torch.int64, device=device)
        self.sums, self.counted = torch.zeros(3, dtype=torch.float64, device=device), 0

    def use_ops(self) -> None:
        """Let the ops do Adam, as they do the loss; in bfloat16 a copy of the network is trained for that."""
        if self.config.precision == "bf16":
            self.network = copy.deepcopy(self.vae).bfloat16()
        self.by_op = adam.ByOp(self.optimizer, self.vae, self.network, self.config.precision == "tf32")

    def wants_graph(self) -> bool:
        possible = self.device.type == "cuda" and self.dataset.resident
        if self.config.graph == "on" and not possible:
            raise ValueError("--graph on: expected a GPU whose memory holds the images")
        return possible and self.config.graph != "off"

    def __call__(self) -> None:
        self.batches.turn(self.iteration)
        if self.graphed and self.warm >= WARM_UP:
            if self.graph is None:
                self.graph = self.capture()
            self.graph.replay()
        else:
            # In its first calls a library allocates and waits, which spoils what another thread records.
            first = self.device.type == "cuda" and self.warm < WARM_UP
            with products(self.device, self.config.precision), CAPTURING if first else nullcontext():
                if self.by_op and not self.warm:
                    self.by_op.refresh()
                self.work()
            self.warm += 1
        self.iteration += 1
        self.counted += 1

    def capture(self) -> torch.cuda.CUDAGraph:
        """Record `work` without doing it. Its tensors keep their places: nothing may replace them later."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.noise)
        self.optimizer.zero_grad()  # gradients get their places in the graph
        recording = torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        )
        with products(self.device, self.config.precision), CAPTURING, recording:
            self.work()
        return graph

    def work(self) -> None:
        """One iteration, of which the device alone knows the number."""
        x = self.dataset.batch(self.batches.at(self.clock))
        with self.by_op.updating() if self.by_op else nullcontext():
            logits, mu, logvar = self.forward(x)
        terms = self.objective(logits, x, mu, logvar)  # loss, rec, kl
        self.take_rates()
        self.optimizer.zero_grad()
        if self.network is not self.vae:
            self.network.zero_grad()
        terms[0].backward()
        self.update()
        self.sums += torch.stack(terms).detach()
        self.clock += 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logits, mu and logvar of a batch; the products in bfloat16 if that was asked for."""
        noise = torch.randn(len(x), self.vae.latents, generator=self.noise, device=self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, self.config.precision == "bf16", cache_enabled=False
        ):
            return self.network(x, noise)

    def take_rates(self) -> None:
        """The learning rates of this iteration."""
        torch.index_select(self.rates, 0, self.clock, out=self.lr)

    def update(self) -> None:
        """Adam, of all that `backward` has not updated already."""
        if self.by_op:
            self.by_op.finish()
        else:
            self.optimizer.step()

    def state(self) -> dict:
        """All that the next iterations depend on: plain tensors, numbers and dicts."""
        return {
            "iteration": self.iteration,
            "vae": self.vae.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.get_state(),
            "device": self.device.type,
            "sums": self.sums,
            "counted": self.counted,
        }

    def restore(self, state: dict) -> None:
        """Continue from a `state`. Raises KeyError, ValueError or RuntimeError if it is of other settings."""
        own, optimizer = self.state(), self.optimizer.state_dict()
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name in ("vae", "objective"):
            check_tensors(state[name], own[name])
        moved = state.get("device", self.device.type) != self.device.type
        for name in ("sums",) if moved else ("noise", "sums"):
            check_tensors({name: state[name]}, {name: own[name]})
        moments = state["optimizer"]["state"]
        learning = weights if state["iteration"] else []  # Adam has no state before the first iteration
        if moments.keys() != set(range(len(learning))):
            raise ValueError(f"Adam's state is not that of {len(learning)} weights")
        for number, weight in enumerate(learning):
            expected = {"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
            check_tensors(moments[number], expected)
        for number, moment in moments.items():  # each laid out as its weight is: Adam needs it
            moments[number] = {
                name: torch.empty_like(weights[number], device="cpu").copy_(value)
                if name != "step" and value.stride() != weights[number].stride()
                else value
                for name, value in moment.items()
            }
        self.graph, self.warm = None, 0
        if self.by_op:
            self.by_op.updated = set()  # of an iteration that failed
        self.vae.load_state_dict(state["vae"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict({**optimizer, "state": moments})
        for group, old in zip(self.optimizer.param_groups, optimizer["param_groups"], strict=True):
            group["lr"] = old["lr"]  # a part of self.lr; it has become a copy
        if moved:  # a GPU draws other numbers: continue with new ones
            self.noise.manual_seed(self.config.seed + 1 + state["iteration"])
        else:
            self.noise.set_state(state["noise"])
        self.sums = state["sums"].to(self.device)
        self.iteration, self.counted = state["iteration"], state["counted"]
        self.clock.fill_(self.iteration)
