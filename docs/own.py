"""The 1,797 handwritten digits of scikit-learn as images of your own: writes digits.npz."""

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()  # images (1797, 8, 8), floats from 0 to 16; target (1797,), 0 to 9
np.savez("digits.npz", images=digits.images / 16, factors=digits.target, factor_names=["digit"])
