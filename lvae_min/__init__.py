"""L-VAE and the five methods it is compared with (arXiv 2507.02619)."""
