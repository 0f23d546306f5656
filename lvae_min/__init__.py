"""L-VAE and the five methods it is compared with (arXiv 2507.02619).

`VAE` is the network of Table 1, `load` gives the trained one of a run back; `losses`, `metrics`, `data`,
`render` and `train` are the parts a run is made of.
"""

from pathlib import Path

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "VAE":                           # torch takes a second to import, and the scores do without it
        from lvae_min.model import VAE

        return VAE
    raise AttributeError(f"module 'lvae_min' has no attribute {name!r}")


def load(run: Path | str) -> "VAE":  # noqa: F821
    """The network of a run, the one that its validation score selected, on the CPU: a `VAE` in eval mode.

    run  the folder of a run, finished or not
    Raises ValueError if there is no network in it yet, or a damaged one.
    """
    from torch import nn

    from lvae_min.io import records
    from lvae_min.io.atomic import check_tensors, load_checkpoint
    from lvae_min.io.text import brief
    from lvae_min.model import VAE, layers

    file = Path(run) / "best.pt"
    if not file.exists():
        raise ValueError(f"{file}: not there; {run} is no run, or has not been evaluated yet")
    best = load_checkpoint(file)
    try:
        records.check(best, {"network": {"shape": records.sizes, "latents": records.count}, "vae": {}}, "it")
        networks = layers(**best["network"])            # a file's size bounds what is allocated
        expected = nn.ModuleDict(zip(("encoder", "decoder"), networks, strict=True))
        check_tensors(best["vae"], expected.state_dict())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: not the network of a run ({brief(error)})") from None
    vae = VAE(**best["network"])
    vae.load_state_dict(best["vae"])
    return vae.eval()
