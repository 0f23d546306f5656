"""Whether a run's folder is that of a command: its settings, its images, its results."""

import dataclasses
from pathlib import Path

import lvae_min.data
from lvae_min.config import MOVABLE, Config, with_defaults
from lvae_min.data import Dataset, is_path
from lvae_min.io import records
from lvae_min.io.text import brief, one_line

FINISHED = {"collapsed": records.truth, "images": records.count, "bins": records.count}
OTHER_IMAGES = "images that have changed since, or others"


def differences(config: Config, stored: dict) -> list[str]:
    """What a run's stored settings have otherwise, in words. Raises KeyError if one is missing."""
    stored = with_defaults(stored)
    return [
        f"{key} {one_line(stored[key])[:120]}, not {value}"
        for key, value in dataclasses.asdict(config).items()
        if key not in MOVABLE
        and stored[key] != value
        and value is not None
        and not (key == "dataset" and own_images(value) and own_images(stored[key]))
    ]


def own_images(name) -> bool:
    """Whether a data set is of the user's own: it may lie elsewhere now, and its content is compared."""
    return isinstance(name, str) and is_path(name)


def same_content(stored, dataset: Dataset) -> bool:
    """Whether a data set may be the one whose content a run stored; one that was not stored may be any."""
    return all(stored_content(stored).get(name) in (None, crc) for name, crc in dataset.content.items())


def stored_content(stored) -> dict:
    """The content that a run stored; older ones stored that of the pixels alone, or none."""
    return stored if isinstance(stored, dict) else {"pixels": stored}


def refuse(folder: Path, other: list[str]) -> None:
    """Raise ValueError if a folder's run has other settings."""
    if other:
        raise ValueError(f"{folder}: was made with {other[0]}; name another folder with --out")


def finished(config: Config, folder: Path) -> dict | None:
    """The results of a finished run, or None. Raises ValueError if they are damaged or of another run."""
    file = folder / "results.json"
    if not file.exists():
        return None
    try:
        results = records.read_results(file)
        records.check(results, FINISHED, "it")
        if "last" in results:  # not in older ones
            records.check(results["last"], {"iteration": records.whole, "kl": records.number}, "last")
            records.check(results["last"], dict.fromkeys(results["last"], records.number), "last")
        other = differences(config, results["settings"])
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{file}: damaged; remove it, and the same command scores the run again ({brief(error)})"
        ) from None
    refuse(folder, other)
    return results


def compare_images(config: Config, folder: Path, results: dict, data: Path | str) -> None:
    """Raise ValueError if images of the user's own are no longer those of a finished run."""
    if not own_images(config.dataset):
        return
    file, stored = folder / "config.json", results.get("content")
    if stored is None and file.exists():  # an older run has it there alone
        found = records.parse(file.read_bytes())
        stored = found.get("content") if isinstance(found, dict) else None
    if stored is None and config.dataset != results["settings"]["dataset"]:
        refuse(folder, [f"dataset {results['settings']['dataset']}, not {config.dataset}"])
    if Path(config.dataset).exists():
        if not same_content(stored, lvae_min.data.load(config.dataset, data)):
            refuse(folder, [OTHER_IMAGES])
