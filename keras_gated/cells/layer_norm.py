"""Layer normalization of sums, shared by the cells that have it."""

from keras import ops

from keras_gated.cells.arguments import resolve


class LayerNormalized:
    """Adds a gain and a shift for each sum that a cell normalizes.

    Args:
        norm_gamma_initializer: Initializer of the gains. Default: `ones`.
        norm_beta_initializer: Initializer of the shifts. Default: `zeros`.
        norm_epsilon: Added to the variance.
    """

    def __init__(
        self,
        units: int,
        *args,
        norm_gamma_initializer="ones",
        norm_beta_initializer="zeros",
        norm_epsilon: float = 1e-3,
        **kwargs,
    ):
        super().__init__(units, *args, **kwargs)
        for name, value in (
            ("norm_gamma_initializer", norm_gamma_initializer),
            ("norm_beta_initializer", norm_beta_initializer),
        ):
            setattr(self, name, resolve(self.owner, name, value))
        self.norm_epsilon = float(norm_epsilon)

    def norm_shapes(self, **widths):
        """Returns the shapes of a gain and a shift for each normalization by name."""
        parts = ("gamma", "beta")
        return {f"{name}_norm_{p}": (width,) for name, width in widths.items() for p in parts}

    def initializer_of(self, weight):
        part = weight.rpartition("_norm_")[2]
        return getattr(self, f"norm_{part}_initializer", None) or super().initializer_of(weight)

    def normalized(self, sums, gamma, beta):
        """Returns the rows of `sums` with mean zero and variance one, times gamma, plus beta."""
        centred = sums - ops.mean(sums, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return centred * ops.rsqrt(variance + self.norm_epsilon) * gamma + beta
