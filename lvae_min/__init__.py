"""L-VAE and the five methods it is compared with (arXiv 2507.02619).

Importing the package imports nothing else: PyTorch takes a second, and the scores do without it.
"""

import importlib

__version__ = "0.2.0"
__all__ = [  # written out for type checkers, as are the imports below
    "VAE",
    "load",
    "fit",
    "export",
    "Config",
    "PlainVAE",
    "BetaVAE",
    "ControlVAE",
    "DynamicVAE",
    "SigmaVAE",
    "LVAE",
    "OBJECTIVES",
    "LearnedWeights",
    "elbo_terms",
    "kl_term",
    "lvae_loss",
    "score",
    "beta_vae",
    "factor_vae",
    "explicitness",
    "irs",
    "mig",
    "sap",
]
_HOMES = {  # where each public name is defined, of those that are not in `losses`
    "VAE": "model",
    "load": "train",
    "fit": "train",
    "export": "codes",
    "Config": "config",
    **dict.fromkeys(("score", "beta_vae", "factor_vae", "explicitness", "irs", "mig", "sap"), "metrics"),
}
TYPE_CHECKING = False  # type checkers take it for typing's, which would have to be imported

if TYPE_CHECKING:
    from lvae_min.codes import export
    from lvae_min.config import Config
    from lvae_min.losses import (
        LVAE,
        OBJECTIVES,
        BetaVAE,
        ControlVAE,
        DynamicVAE,
        LearnedWeights,
        PlainVAE,
        SigmaVAE,
        elbo_terms,
        kl_term,
        lvae_loss,
    )
    from lvae_min.metrics import beta_vae, explicitness, factor_vae, irs, mig, sap, score
    from lvae_min.model import VAE
    from lvae_min.train import fit, load
else:

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module 'lvae_min' has no attribute {name!r}")
        return getattr(importlib.import_module(f"lvae_min.{_HOMES.get(name, 'losses')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
