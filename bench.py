"""Side-by-side measurements, as ratios of times taken in turn in one process.

    python bench.py                     all of them, in under five minutes
    python bench.py step scores         some
    python bench.py --json bench.json   and keep the numbers
    python bench.py --device cuda       on a GPU

    loss        the fused loss against the same in PyTorch, and against what bounds it
    step        one iteration against stock PyTorch, and its rate against the peak of the matrix products
    parts       where the time of an iteration goes
    means       what each means to make it faster brings, alone
    grid        one run against two at once
    data        the batches of each data set against the iteration that waits for them
    evaluation  one evaluation against the 10,000 iterations between two
    scores      each of the six scores
    start       from the command to the first iteration
    growth      time over batch size and width of the network, memory over size of the data set

A time is the least of several, since a machine that others use only ever adds to it. On a GPU it is that of
finished work: many calls, and then a wait for the device. Stock PyTorch has a process of its own, and its own
defaults there: what an iteration of ours sets for the whole process does not reach it.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import lvae_min.step
from lvae_min import fused, losses, metrics, model, report
from lvae_min.config import Config
from lvae_min.data import SCORED, Batches, Dataset, Split, load
from lvae_min.datasets.specs import SPECS
from lvae_min.datasets.stores import Bits, Pixels
from lvae_min.io.text import Parser
from lvae_min.step import Step
from lvae_min.train import cores, evaluate, pick_device

LOSS_SHAPES = [(64, 4096), (256, 4096), (128, 12288), (128, 49152)]  # dSprites twice, RGB of 64 and 128
STEPS = [("dsprites", 32), ("dsprites", 64), ("dsprites", 128), ("dsprites", 256), ("arm3d", 64)]
NETWORKS = {"dsprites": "MLP", "arm3d": "CNN"}
GPU_LOSS_SHAPES = [(64, 4096), (256, 4096), (128, 49152), (1024, 49152)]
PEAK_SIDE = {"cpu": 1024, "cuda": 8192}  # of square matrices whose product is taken for the machine's peak
CALLS = {"cpu": 1, "cuda": 20}  # between two waits for the device
AT_ONCE = 6  # runs on a GPU in "grid"


ADAM = torch.optim.Adam


def waiter(device: torch.device | None) -> Callable[[], None]:
    """What waits for the device: for that one, which need not be the current one."""
    if device is None or device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def stream_waiter(device: torch.device) -> Callable[[], None]:
    """What waits for the work of this thread alone."""
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.current_stream(device).synchronize()


def recorded(function: Callable[[], object], calls: int, device: torch.device) -> Callable[[], object]:
    """So many calls as one CUDA graph, which nobody waits to be launched; on a CPU a loop."""
    if device.type != "cuda":
        return lambda: [function() for _ in range(calls)]
    side, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return graph.replay


def least(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Seconds a call of each function, the least over `rounds`; they take turns: a slow moment hits all."""
    wait = waiter(device)
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds + 1):  # the first round warms up, and is as good as the others
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            wait()
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return best


def make_step(
    dataset: Dataset, batch_size: int, device: torch.device, threads: int | None = None, **settings
) -> Step:
    """An iteration of L-VAE, as run.py does it."""
    config = Config(dataset.name, batch_size=batch_size, **settings)
    return Step(config, dataset, Split.of(len(dataset)).training, device, threads or cores())


def stock_step(dataset: Dataset, batch_size: int, device: torch.device) -> Callable[[], None]:
    """An iteration as tutorials write it: DataLoader, nn.Linear, Adam, the loss of Eq. 1 term by term."""
    images = dataset.batch(torch.arange(0, len(dataset), 40, device=device)).cpu()
    loader = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    if dataset.network == "cnn":
        encoder, decoder = model.cnn(dataset.shape, dataset.latents)
    else:
        encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(4096, 1200),
            nn.ReLU(),
            nn.Linear(1200, 1200),
            nn.ReLU(),
            nn.Linear(1200, 10),
        )
        decoder = nn.Sequential(
            nn.Linear(5, 1200),
            nn.ReLU(),
            nn.Linear(1200, 1200),
            nn.ReLU(),
            nn.Linear(1200, 4096),
            nn.Unflatten(1, (1, 64, 64)),
        )
    encoder, decoder = encoder.to(device), decoder.append(nn.Sigmoid()).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    batches = iter(loader)

    def step():
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        x = batch[0].to(device).float() * dataset.scale
        mu, logvar = encoder(x).chunk(2, 1)
        x_hat = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        rec = nn.functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        optimizer.zero_grad()
        (rec + kl).backward()
        optimizer.step()

    return step


class Stock:
    """`stock_step` in a process of its own: seconds a call. Only one of the two processes works at a time."""

    def __init__(self, name: str, batch_size: int, device: torch.device):
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.pool.submit(stock_begins, name, batch_size, str(device)).result()

    def seconds(self, calls: int) -> float:
        return self.pool.submit(stock_seconds, calls).result()

    def close(self) -> None:
        self.pool.shutdown()


STOCK = []  # in that process: the step, and its device


def stock_begins(name: str, batch_size: int, device_name: str) -> None:
    device = torch.device(device_name)
    STOCK[:] = stock_step(load(name).to(device), batch_size, device), device


def stock_seconds(calls: int) -> float:
    step, device = STOCK
    return least({"": step}, rounds=0, calls=calls, device=device)[""]


def products(device: torch.device) -> dict[str, Callable[[], object]]:
    """One large matrix product in each precision: what the machine can do at best."""
    side = PEAK_SIDE[device.type]
    square = torch.randn(side, side, device=device)
    half = square.bfloat16()

    def product(precision):
        with lvae_min.step.products(device, precision):
            square @ square

    ways = {"float32": lambda: product("float32"), "bf16": lambda: half @ half}
    return ways | ({"tf32": lambda: product("tf32")} if device.type == "cuda" else {})


def operations(step: Step) -> int:
    """Floating-point operations of the products of an iteration, the first layer's taken as dense."""
    x = step.dataset.batch(step.batches.at(step.clock)).float()
    with FlopCounterMode(display=False) as counter:
        logits, mu, logvar = step.forward(x)
        (logits.sum() + mu.sum() + logvar.sum()).backward()
    step.optimizer.zero_grad()
    return counter.get_total_flops()


def step_row(name: str, batch_size: int, device_name: str) -> dict:
    device = torch.device(device_name)
    dataset, calls, stock = load(name).to(device), 8 * CALLS[device.type], Stock(name, batch_size, device)
    precisions = ["float32", "bf16"] + ["tf32"] * (device.type == "cuda")
    ways = {each: make_step(dataset, batch_size, device, precision=each) for each in precisions}
    ours = ways["float32"]
    ours.batches.turn(0)
    flops = operations(ours)
    seconds = dict.fromkeys([*ways, "stock"], float("inf"))
    for _ in range(4):
        found = least(ways, rounds=0, calls=calls, device=device) | {"stock": stock.seconds(calls)}
        seconds = {way: min(taken, found[way]) for way, taken in seconds.items()}
    stock.close()
    peaks = least(products(device), rounds=20, calls=CALLS[device.type], device=device)
    row = {
        "network": NETWORKS[name],
        "batch": batch_size,
        "ours, ms": 1e3 * seconds["float32"],
        "stock, ms": 1e3 * seconds["stock"],
        "stock / ours": seconds["stock"] / seconds["float32"],
        "images/s": batch_size / seconds["float32"],
        "GFLOP/s": flops / seconds["float32"] / 1e9,
        "of peak, %": flops / seconds["float32"],
    }
    for precision in precisions[1:]:
        row |= {
            f"{precision}, ms": 1e3 * seconds[precision],
            f"stock / {precision}": seconds["stock"] / seconds[precision],
            f"of {precision} peak, %": flops / seconds[precision],
        }
    return row | {"peaks": [2 * PEAK_SIDE[device.type] ** 3 / peaks[way] for way in precisions]}


def bench_step(device: torch.device) -> list[dict]:
    """An iteration of L-VAE, and one in stock PyTorch; GFLOP/s count the MLP's first layer as if dense."""
    rows = [apart(step_row, name, batch_size, str(device)) for name, batch_size in STEPS]
    peaks = np.max([row.pop("peaks") for row in rows], 0)  # the best that any of the processes saw
    for row in rows:
        for share, peak in zip([key for key in row if "peak, %" in key], peaks.tolist(), strict=True):
            row[share] *= 100 / peak
    return rows


def bench_parts(device: torch.device) -> list[dict]:
    """Where the time of an eager iteration goes, each part waited for; medians of 20."""
    with lvae_min.step.products(device):
        return parts(device)


def parts(device: torch.device) -> list[dict]:
    rows, wait = [], waiter(device)
    for name, batch_size in STEPS:
        step, times = make_step(load(name).to(device), batch_size, device, graph="off"), []
        for number in range(25):
            step.batches.turn(number)
            moments = [time.perf_counter()]

            def done(moments=moments):
                wait()
                moments.append(time.perf_counter())

            x = step.dataset.batch(step.batches.at(step.clock))
            done()
            logits, mu, logvar = step.forward(x)
            done()
            loss = step.objective(logits, x, mu, logvar)[0]
            done()
            step.optimizer.zero_grad()
            loss.backward()
            done()
            step.update()
            done()
            step.clock += 1
            times.append(np.diff(moments))
        parts = np.median(times[5:], 0)
        names = ("data, %", "forward, %", "loss, %", "backward, %", "optimizer, %")
        rows.append(
            {
                "network": NETWORKS[name],
                "batch": batch_size,
                "all, ms": 1e3 * parts.sum(),
                **dict(zip(names, (100 * parts / parts.sum()).tolist(), strict=True)),
            }
        )
    return rows


def worn(step: Step) -> Step:
    """The step with a sixth of Adam's means denormal and without gradient, as after 20,000 iterations."""
    step()
    torch.set_flush_denormal(False)
    for weights in step.vae.parameters():
        sixth = slice(0, weights.numel() // 6)
        step.optimizer.state[weights]["exp_avg"].view(-1)[sixth] = 1e-40
        weights.grad.view(-1)[sixth] = 0
    return step


def freed_memory(keep: bool) -> float:
    """Seconds of an iteration of the CNN whose freed memory stays with the process, or goes back."""
    device = torch.device("cpu")
    patch = mock.patch.object(
        lvae_min.step, "keep_freed_memory", lvae_min.step.keep_freed_memory if keep else lambda: None
    )
    with patch:
        step = make_step(load("arm3d"), 64, device)
    return least({"": step}, rounds=4, calls=8)[""]


def bench_means(device: torch.device) -> list[dict]:
    """What each means brings alone: an iteration of 64 images without it, over one with it (CPU)."""
    if device.type != "cpu":
        return []
    sprites, arm = load("dsprites"), load("arm3d")

    def stock_adam(groups, fused, capturable, **settings):
        return ADAM(groups, **settings)

    with mock.patch.object(torch.optim, "Adam", stock_adam):
        plain_adam = make_step(sprites, 64, device)
    dense = make_step(sprites, 64, device)
    dense.vae.posterior = lambda x: dense.vae.encoder(x.float()).chunk(2, dim=1)
    scattered = make_step(arm, 64, device)
    scattered.vae.to(memory_format=torch.contiguous_format)
    kept, flushed = (worn(make_step(sprites, 64, device)).update for _ in range(2))

    def update(with_denormals):
        torch.set_flush_denormal(not with_denormals)
        (kept if with_denormals else flushed)()
        torch.set_flush_denormal(True)

    ways = {
        "ours": make_step(sprites, 64, device),
        "fused Adam": plain_adam,
        "sparse first layer": dense,
        "fused loss": make_step(sprites, 64, device, loss="torch"),
        "denormals flushed (Adam alone)": lambda: update(True),
        "flushed": lambda: update(False),
        "ours, CNN": make_step(arm, 64, device),
        "channels last (CNN)": scattered,
        "fused loss (CNN)": make_step(arm, 64, device, loss="torch"),
    }
    seconds = least(ways, rounds=3, calls=6)
    freed = [apart(freed_memory, keep) for keep in (True, False)]
    base = {"CNN": "ours, CNN", "alone": "flushed"}
    pairs = {
        name: (seconds[next((base[word] for word in base if word in name), "ours")], taken)
        for name, taken in seconds.items()
        if name not in ("ours", "ours, CNN", "flushed")
    }
    pairs["freed memory kept (CNN)"] = freed
    return [
        {
            "means": name,
            "with, ms": 1e3 * taken,
            "without, ms": 1e3 * without,
            "without / with": without / taken,
        }
        for name, (taken, without) in pairs.items()
    ]


def together(makers: list[Callable[[], Step]], seconds: float) -> float:
    """Finished iterations a second of several steps at once, each made and called in a thread of its own."""
    ready = threading.Barrier(len(makers) + 1, timeout=120)  # one that fails must not hold up the others
    counts, stop = [0] * len(makers), threading.Event()

    def work(number):
        step = makers[number]()
        wait, calls = stream_waiter(step.device), 5 * CALLS[step.device.type]
        for _ in range(4):
            step()
        wait()
        ready.wait()
        while not stop.is_set():
            for _ in range(calls):
                step()
            wait()  # a GPU has a thousand calls in its queue before it is slowed down
            counts[number] += calls

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(makers))]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def bench_grid(device: torch.device) -> list[dict]:
    """Images a second of one run on all cores, and of as many runs as cores (six on a GPU) at once."""
    rows, many = [], cores() if device.type == "cpu" else AT_ONCE
    for name, batch_size, precision in (
        ("dsprites", 64, "float32"),
        ("dsprites", 256, "float32"),
        ("dsprites", 64, "bf16"),
        ("arm3d", 64, "float32"),
    ):
        dataset = load(name).to(device)

        def make(threads, dataset=dataset, batch_size=batch_size, precision=precision):
            return make_step(dataset, batch_size, device, threads, precision=precision)

        ways = {"one": [lambda: make(cores())], "many": [lambda: make(max(cores() // many, 1))] * many}
        best = dict.fromkeys(ways, 0.0)
        for _ in range(2):
            for way, makers in ways.items():
                best[way] = max(best[way], batch_size * together(makers, 2.5))
        rows.append(
            {
                "network": NETWORKS[name],
                "batch": batch_size,
                "precision": precision,
                "one run, images/s": best["one"],
                f"{many} runs at once, images/s": best["many"],
                "at once / one": best["many"] / best["one"],
            }
        )
    return rows


def bench_scores(_: torch.device) -> list[dict]:
    """Each score of 10,000 and 50,000 codes, five factors as they are and in 10 bins, on one thread."""
    rows = []
    for samples in (10_000, 50_000):
        random = np.random.default_rng(0)
        factors = np.stack([random.integers(size, size=samples) for size in (3, 6, 40, 32, 32)], 1)
        codes = (
            (factors - factors.mean(0)) / factors.std(0) @ (np.eye(5) + 0.3 * random.standard_normal((5, 5)))
        )
        for discrete in (True, False):

            def timed(name, discrete=discrete, factors=factors, codes=codes):
                extra = () if name == "sap" else (discrete,)
                return lambda: getattr(metrics, name)(factors, codes, *extra)

            seconds = least({name: timed(name) for name in report.SCORES}, rounds=2)
            rows.append(
                {
                    "codes": samples,
                    "factors": "as they are" if discrete else "10 bins",
                    **{f"{name}, ms": 1e3 * value for name, value in seconds.items()},
                    "all six, ms": 1e3 * sum(seconds.values()),
                }
            )
    return rows


def loss_ways(n: int, d: int, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Ways to get L-VAE's loss of (n, d) logits and uint8 pixels, with its gradients, and bounds."""
    logits = torch.randn(n, d, device=device).to(dtype).requires_grad_()
    x = torch.randint(0, 256, (n, d), dtype=torch.uint8, device=device)
    mu, logvar = (torch.randn(n, 10, device=device).requires_grad_() for _ in range(2))
    sigma = torch.ones(2, device=device, requires_grad=True)
    leaves, out, spare = (logits, mu, logvar, sigma), torch.empty_like(logits), torch.empty_like(x)

    def step(lvae_loss):
        return lambda: torch.autograd.grad(lvae_loss(logits, x, mu, logvar, sigma)[0], leaves)

    def run(function):
        with torch.no_grad():
            function()

    def op():
        return torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, 1 / 255, True)

    ways = {
        "twin": step(losses.lvae_loss),
        "fused": step(fused.lvae_loss),
        "op alone": lambda: run(op),
        "sigmoid": lambda: run(lambda: torch.sigmoid(logits)),
        "memory floor": lambda: run(lambda: (out.copy_(logits), spare.copy_(x))),
    }  # and writes x back
    if device.type == "cpu":  # on a GPU it needs a compiler of its own, Triton
        ways["compiled twin"] = step(torch.compile(losses.lvae_loss, dynamic=False))
    return ways


def loss_row(n: int, d: int, device: torch.device, dtype: torch.dtype, rounds: int) -> dict:
    """Times in us; on a GPU also those of ten calls in one CUDA graph, a call."""
    ways, calls = loss_ways(n, d, device, dtype), CALLS[device.type]
    seconds = least(ways, rounds, calls, device)
    row = {"shape": f"{n} x {d}", "logits": str(dtype).removeprefix("torch.")}
    row |= {name: 1e6 * value for name, value in seconds.items()}
    row["twin / fused"] = seconds["twin"] / seconds["fused"]
    if "compiled twin" in seconds:
        return row | {"twin / compiled": seconds["twin"] / seconds["compiled twin"]}
    graphs = {
        f"{name}, graph": recorded(ways[name], 10, device) for name in ("twin", "fused", "memory floor")
    }
    replayed = {name: value / 10 for name, value in least(graphs, rounds, calls, device).items()}
    row |= {name: 1e6 * value for name, value in replayed.items()}
    return row | {"twin / fused, graph": replayed["twin, graph"] / replayed["fused, graph"]}


def bench_loss(device: torch.device) -> list[dict]:
    """Loss and gradients of Eq. 5 of uint8 pixels, in us: the twin, the op, and what bounds it."""
    if reason := fused.why_not(device):
        print(f"\nloss: nothing to measure: {reason}")
        return []
    if device.type == "cpu":
        cases = [(n, d, torch.float32) for n, d in LOSS_SHAPES]
    else:
        cases = [(n, d, dtype) for n, d in GPU_LOSS_SHAPES for dtype in (torch.float32, torch.bfloat16)]
    return [
        loss_row(n, d, device, dtype, 20 if device.type == "cuda" else max(20, 20_000_000 // (n * d)))
        for n, d, dtype in cases
    ]


def resident() -> float:
    """Memory of this process's own in GB, without the pages of files, which the system takes back at will."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e9


def apart(function: Callable, *given):
    """What a function of this file gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def empty_file(folder: Path, shape: tuple[int, int, int], count: int) -> Pixels:
    """Images in a file, all 0, memory-mapped."""
    channels, height, width = shape
    file = folder / "images.npy"
    np.lib.format.open_memmap(file, "w+", np.uint8, (count, height, width, channels)).flush()
    return Pixels(np.load(file, mmap_mode="r"))


def data_row(name: str, device_name: str) -> dict:
    """How fast a data set makes batches of 64; sets that are not drawn are files of their shape, all 0."""
    spec, device = SPECS[name], torch.device(device_name)
    torch.zeros(1, device=device)  # the context of a GPU is not the data set's
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        if name in ("dsprites", "arm3d"):
            dataset = load(name)
        else:
            dataset = Dataset(
                name,
                "no content",
                spec,
                empty_file(Path(folder), spec.shape, spec.count),
                np.zeros((spec.count, len(spec.factors)), np.int64),
            )
        dataset.to(device)
        order = Batches(Split.of(len(dataset)).training, 64, seed=0, device=device)
        clock = torch.zeros(1, dtype=torch.int64, device=device)
        order.turn(0)

        def batch():
            dataset.batch(order.at(clock.add_(1)))

        seconds = least({"batch": batch}, rounds=3, calls=50, device=device)
        grown = resident() - before
        seconds |= least({"step": make_step(dataset, 64, device)}, rounds=2, calls=3, device=device)
    return {
        "data set": name,
        "as bytes, GB": len(dataset) * int(np.prod(dataset.shape)) / 1e9,
        "resident, GB": grown,
        "images/s": 64 / seconds["batch"],
        "batch, ms": 1e3 * seconds["batch"],
        "step, ms": 1e3 * seconds["step"],
        "batch / step, %": 100 * seconds["batch"] / seconds["step"],
    }


def bench_data(device: torch.device) -> list[dict]:
    """Batches of 64 beside the step that waits for them. Files are all 0: read as from the system's cache."""
    return [apart(data_row, name, str(device)) for name in SPECS]


def bench_evaluation(device: torch.device) -> list[dict]:
    """One evaluation of 10,000 images beside the 10,000 iterations of 64 images between two (Sec. 6.3)."""
    rows = []
    for name in ("dsprites", "arm3d"):
        dataset = load(name).to(device)
        step = make_step(dataset, 64, device)
        index = Split.of(len(dataset)).validation[:SCORED]
        x = dataset.batch(torch.from_numpy(index[:1000]).to(device))

        @torch.no_grad()
        def encode(step=step, x=x):
            step.vae.posterior(x)

        def whole(step=step, dataset=dataset, index=index):
            evaluate(step.vae, dataset, index)

        seconds = least({"evaluation": whole}, rounds=1, device=device)
        seconds |= least({"encode": encode, "step": step}, rounds=4, calls=3, device=device)
        rows.append(
            {
                "network": NETWORKS[name],
                "encoded images/s": len(x) / seconds["encode"],
                "evaluation, s": seconds["evaluation"],
                "step, ms": 1e3 * seconds["step"],
                "evaluation / 10,000 steps, %": seconds["evaluation"] / (1e2 * seconds["step"]),
            }
        )
    return rows


START = """
import sys, time
moments = [time.perf_counter()]
done = lambda: moments.append(time.perf_counter())
from lvae_min import cli as run
done()
dataset = run.data.load("dsprites")
done()
one = run.Run(run.Config(device=sys.argv[1]), sys.argv[2], dataset.to(run.pick_device(sys.argv[1])))
done()
one.step()
one.step.sums.tolist()
done()
print(*moments)
"""


def bench_start(device: torch.device) -> list[dict]:
    """Seconds from the command to the first iteration of dSprites, in a fresh process; the least of three."""
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", START, str(device), folder + "/run"],
                text=True,
                capture_output=True,
                check=True,
                cwd=Path(__file__).resolve().parent,
            )
            moments = [start, *map(float, done.stdout.split()[-5:])]
        found.append(np.diff(moments))
    parts = min(found, key=np.sum)
    names = ("Python", "import", "data", "network and folder", "first iteration")
    return [{**dict(zip(names, parts.tolist(), strict=True)), "all, s": float(parts.sum())}]


def memory(kind: str, count: int) -> float:
    """Memory in GB that `count` images take, while 50 batches are made: bits in memory, or a file of RGB."""
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "bits":
            store = Bits(torch.ones(count, 512, dtype=torch.uint8), (1, 64, 64))
        else:
            store = empty_file(Path(folder), (3, 64, 64), count)
        for start in range(50):
            store.batch(torch.arange(start, count, max(count // 64, 1))[:64])
        return resident() - before


def bench_growth(device: torch.device) -> list[dict]:
    """How cost grows: ms over batch size and width of the MLP, GB over images (figures/cost.py)."""
    dataset = load("dsprites").to(device)
    steps = {("batch size", size): make_step(dataset, size, device) for size in (16, 32, 64, 128, 256, 512)}
    for width in (300, 600, 1200, 2400):
        with mock.patch.object(model, "HIDDEN", width):
            steps["hidden units", width] = make_step(dataset, 64, device)
    seconds = least(steps, rounds=2, calls=4, device=device)
    rows = [
        {"over": over, "value": value, "ms or GB": 1e3 * taken} for (over, value), taken in seconds.items()
    ]
    for kind, title in (("bits", "images, bits in memory"), ("file", "images, RGB in a file")):
        rows += [
            {"over": title, "value": count, "ms or GB": apart(memory, kind, count)}
            for count in (50_000, 200_000, 737_280)
        ]
    return rows


BENCHES = {
    "loss": bench_loss,
    "step": bench_step,
    "parts": bench_parts,
    "means": bench_means,
    "grid": bench_grid,
    "data": bench_data,
    "evaluation": bench_evaluation,
    "scores": bench_scores,
    "start": bench_start,
    "growth": bench_growth,
}


def show(title: str, rows: list[dict]) -> None:
    """A Markdown table of rows that have the same keys."""

    def cell(value) -> str:
        return (
            value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
        )

    print(f"\n{title}\n\n| " + " | ".join(rows[0]) + " |\n|" + "--:|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(cell, row.values())) + " |", flush=True)


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bench.py", description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    given = parser.parse_args(arguments)
    unknown = set(given.bench) - set(BENCHES)
    if unknown:
        parser.error(f"{unknown.pop()}: expected {', '.join(BENCHES)}")
    device, began = pick_device(given.device), time.monotonic()
    results = {**report.machine(device), "threads": torch.get_num_threads()}
    print(
        f"{results['device']}, {results['threads']} threads, torch {torch.__version__}, "
        f"commit {results['commit']}"
    )
    for name in given.bench or BENCHES:
        results[name] = BENCHES[name](device)
        if not results[name]:
            continue
        show(BENCHES[name].__doc__.splitlines()[0], results[name])
    results["seconds"] = round(time.monotonic() - began)
    print(f"\n{results['seconds']} s in all")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        sys.exit(2)
