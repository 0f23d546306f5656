"""Each of the six scores."""

import numpy as np
import torch

from bench import common
from lvae_min import metrics, report


def measure(_: torch.device) -> list[dict]:
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

            seconds = common.least({name: timed(name) for name in report.SCORES}, rounds=2)
            rows.append(
                {
                    "codes": samples,
                    "factors": "as they are" if discrete else "10 bins",
                    **{f"{name}, ms": 1e3 * value for name, value in seconds.items()},
                    "all six, ms": 1e3 * sum(seconds.values()),
                }
            )
    return rows
