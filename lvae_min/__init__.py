"""L-VAE and the five methods it is compared with (arXiv 2507.02619).

Importing the package imports nothing else: PyTorch takes a second, and the scores do without it.
"""

import importlib

__version__ = "0.2.0"
_HOMES = {  # where each public name is defined
    "VAE": "model",
    "load": "train",
    "fit": "train",
    "export": "codes",
    "Config": "config",
    **dict.fromkeys(("PlainVAE", "BetaVAE", "ControlVAE", "DynamicVAE", "SigmaVAE", "LVAE"), "losses"),
    **dict.fromkeys(("OBJECTIVES", "LearnedWeights", "elbo_terms", "kl_term", "lvae_loss"), "losses"),
    **dict.fromkeys(("score", "beta_vae", "factor_vae", "explicitness", "irs", "mig", "sap"), "metrics"),
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'lvae_min' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lvae_min.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
