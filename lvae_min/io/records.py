"""What a run wrote down, read back: results.json and log.jsonl, checked before anything relies on them.

A form says what a document must hold: a dict of keys, each with a form of its own or with one of the kinds
below; other keys may stand beside them.
"""

import json
from collections.abc import Callable
from pathlib import Path

from lvae_min.io.text import brief, one_line


def whole(value) -> bool:
    return type(value) is int and abs(value) < 2**63


def count(value) -> bool:
    return whole(value) and value >= 0


def number(value) -> bool:
    return type(value) is float or whole(value)


def finite(value) -> bool:
    """A float32: what a loss and a weight are computed in."""
    return number(value) and abs(value) < 3.5e38


def term(value) -> bool:
    """A squared error or a divergence."""
    return finite(value) and value >= 0


def sizes(value) -> bool:
    return isinstance(value, (list, tuple)) and all(map(count, value))


def text(value) -> bool:
    return isinstance(value, str)


def commit(value) -> bool:
    """None outside a checkout."""
    return value is None or text(value)


def truth(value) -> bool:
    return isinstance(value, bool)


def scale(value) -> bool:
    """Of a learned scale, None where a method has none."""
    return value is None or finite(value)


SCALES = {"sigma_0": number, "sigma_1": number}
LINE = {"step": whole, "rec": finite, "kl": finite, "beta": finite, "sigma_0": scale, "sigma_1": scale}
RESULTS = {
    "scores": {"rec": number, "kl": number, "beta": number},
    "rec_mean": number,
    "selected": {"iteration": whole, "score": number, "by": text},
    "settings": {
        "dataset": text,
        "model": text,
        "iterations": whole,
        "schedule": whole,
        "batch_size": whole,
        "seed": whole,
        "beta": number,
        "latents": whole,
    },
    "commit": commit,
    "equilibrium": {},
    "seconds": finite,
    "device": text,
    "threads": whole,
    "versions": {"torch": text},
}


def check(found, form: dict | Callable, name: str = "the document") -> None:
    """Raise ValueError unless what was found has that form."""
    if isinstance(form, dict):
        if not isinstance(found, dict):
            raise ValueError(f"{name} is no table of values")
        for key, kind in form.items():
            if key not in found:
                raise ValueError(f"{key} is missing")
            check(found[key], kind, key)
    elif not form(found):
        raise ValueError(f"{name} is {one_line(repr(found)[:40])}, expected {form.__name__}")


def parse(content: bytes):
    """The document that JSON text holds. Raises ValueError if it is none."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_results(file: Path) -> dict:
    """A results.json. Raises ValueError that says what is wrong, not in which file."""
    results = parse(file.read_bytes())
    check(results, RESULTS, "it")
    check(results["scores"], dict.fromkeys(results["scores"], number))
    check(results.get("began_at_commit"), commit, "began_at_commit")
    if results["settings"]["model"] == "lvae" or results["equilibrium"]:
        check(results["equilibrium"], {"rec": term, "kl": term, "residuals": {}, "transient": truth})
        residuals = results["equilibrium"]["residuals"]
        check(residuals, SCALES if results["settings"]["model"] == "lvae" or residuals else {})
    return results


def read_log(file: Path, size: int | None = None) -> list[dict]:
    """The lines of a log.jsonl, or of its first `size` bytes. Raises ValueError for one that is damaged."""
    return log_lines(file.read_bytes()[:size], file)


def log_lines(content: bytes, file: Path) -> list[dict]:
    """The lines of a log. Raises ValueError, which names `file`, for one that is damaged."""
    lines = []
    if content and not content.endswith(b"\n"):
        raise ValueError(f"{file}: ends in half a line")
    for place, line in enumerate(content.splitlines(), 1):
        try:
            lines.append(parse(line))
            check(lines[-1], LINE, "it")
            for name in {"validation", "test"} & lines[-1].keys():
                check(lines[-1][name], {"rec": number, "kl": number}, name)
                check(lines[-1][name], dict.fromkeys(lines[-1][name], number))
            if lines[-1]["step"] <= (lines[-2]["step"] if len(lines) > 1 else 0):
                raise ValueError(f"step {lines[-1]['step']} comes too late")
        except ValueError as error:
            raise ValueError(f"{file}: line {place} is damaged ({brief(error)})") from None
    return lines
