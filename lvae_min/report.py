"""What a run says of itself: its progress, and where its numbers were made."""

import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

SCORES = {"beta_vae": "beta-VAE", "factor_vae": "FactorVAE", "explicitness": "Explicitness",
          "irs": "IRS", "mig": "MIG", "sap": "SAP"}                        # as Table 2 heads them
TERMS = {"rec": "rec", "kl": "kl", "beta": "beta"}
PRINT_EVERY = 1000      # iterations between lines where there is no terminal


def numbers(values: dict[str, float], names: dict[str, str]) -> str:
    return "  ".join(f"{title} {values[name]:.4g}" for name, title in names.items() if name in values)


class Progress:
    """A bar with rate, time left and the live rec, kl and beta; plain lines where stdout is no terminal."""

    def __init__(self, name: str, total: int, done: int):
        self.name, self.total, self.start, self.began = name, total, done, time.monotonic()
        self.bar = tqdm(total=total, initial=done, desc=name, unit="it", file=sys.stdout, dynamic_ncols=True,
                        mininterval=0.5) if sys.stdout.isatty() else None

    def say(self, line: str) -> None:
        if self.bar is None:
            print(line, flush=True)
        else:
            self.bar.write(line)

    def show(self, record: dict) -> None:
        """Bring a line of the log before the reader."""
        step = record["step"]
        if self.bar is not None:
            self.bar.set_postfix_str(numbers(record, TERMS), refresh=False)
            self.bar.update(step - self.bar.n)
        elif step % PRINT_EVERY == 0 or step == self.total:
            rate = (step - self.start) / (time.monotonic() - self.began)
            seconds = round((self.total - step) / rate)
            left = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            self.say(f"{self.name}  step {step}  loss {record['loss']:.4g}  {numbers(record, TERMS)}  "
                     f"{rate:.1f} it/s  {left} left{'  COLLAPSED (kl < 0.1)' * record['collapsed']}")

    def validation(self, step: int, scores: dict[str, float]) -> None:
        self.say(f"{self.name}  validation at {step}: {numbers(scores, TERMS | SCORES)}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def table(scores: dict[str, float]) -> str:
    """The scores of a finished run as two lines, in the order of Table 2."""
    names = TERMS | SCORES
    cells = [(title, f"{scores[name]:.2f}" if name in ("rec", "kl") else f"{scores[name]:.3f}")
             for name, title in names.items() if name in scores]
    widths = [max(map(len, cell)) for cell in cells]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
                     for row in zip(*cells, strict=True))


def commit() -> str | None:
    """Commit of the checkout this code runs from, with a + if files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: torch.device) -> dict:
    """Where a number was made: commit, versions and device."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"commit": commit(), "versions": {"python": platform.python_version(), **packages}, "device": name}
