"""The difference of the answers of two models."""

import numpy as np


def difference(received, expected):
    """Returns the largest difference of arrays, divided by the largest number expected.

    It is divided by 1 if that number is smaller. Equal numbers, infinite ones and NaN among them,
    differ by 0. Unequal texts differ by 1.
    """
    largest = 0.0
    for a, b in zip(received, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return np.inf
        if a.dtype == object:
            largest = max(largest, float(np.any(a != b)))
            continue
        a, b = a.astype("float64"), b.astype("float64")
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            differs = np.where(same, 0, np.abs(a - b))
        scale = max(1.0, np.max(np.abs(b), where=np.isfinite(b), initial=0))
        largest = max(
            largest,
            float(np.max(np.nan_to_num(differs, nan=np.inf, posinf=np.inf), initial=0)) / scale,
        )
    return largest
