"""Looking inside while a model trains."""

import csv
import pathlib
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gated.cells.arguments import positive_integer
from keras_gated.inside.flow import flows_of
from keras_gated.inside.trace import named


class GradientFlowLogger(keras.callbacks.Callback):
    """Logs after an epoch how the gradient travels back through time, and warns if it does not.

    The norms of `gradient_flow` go to `directory/gradient_flow.csv`. The file has a row for each
    epoch (from 1), layer and step, with means over the rows of the batch that have this step.
    TensorBoard, started with `--logdir directory`, shows three numbers of each layer: the norm at
    the `first` step of a row, the norm at its `last` step, and `reach`, the first divided by the
    last.

    The callback warns if `reach` of a layer is below `vanishing` or above `exploding`, if a norm is
    not finite, or if all norms are zero. With a loss at every step, every step has a direct
    gradient, and `reach` says little. Use a batch whose only target is at the end.

    Args:
        x, y: One batch, as for `model.train_on_batch`. It is used in every epoch.
        directory: The folder to write into, created if it is missing. The CSV file of an earlier
            training is replaced, unless `fit` continues that training (`initial_epoch`).
        layer: Optional layer, or its name, if only this layer is wanted. Default: all.
        every: Number of epochs between two logs. The first log is after the first epoch.
        vanishing, exploding: The callback warns if `reach` is below or above these limits.

    Raises:
        ValueError: If `every` is no positive integer; as `gradient_flow`, at the end of the first
            epoch.
        OSError: If `directory` cannot be written, before the first epoch.
    """

    def __init__(self, x, y, directory, layer=None, every=1, vanishing=1e-4, exploding=1e4):
        super().__init__()
        self.batch, self.layer = (x, y), layer
        self.every = positive_integer("GradientFlowLogger", "every", every)
        self.directory = pathlib.Path(directory)
        self.vanishing, self.exploding = vanishing, exploding
        self._writer = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._writer is None:  # before the first epoch: a folder that cannot be written shows
            self._open(going_on=epoch > 0)

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.every:
            return
        flows = flows_of(self.model, *self.batch, self.layer, contributions=False)
        for name, flow in named(flows):
            self._log(epoch, name, flow)

    def _open(self, going_on):
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "gradient_flow.csv"
        if not going_on or not path.exists():
            with open(path, "w", newline="") as file:
                csv.writer(file).writerow(["epoch", "layer", "step", "hidden", "memory"])
        self._writer = tf.summary.create_file_writer(str(self.directory))

    def _log(self, epoch, name, flow):
        mask = flow.mask.numpy()
        if not mask.any():  # no step at all
            return
        steps = np.flatnonzero(mask.any(0))
        norms = [norm.numpy() for norm in (flow.hidden, flow.memory) if norm is not None]
        means = [np.sum(np.where(mask, n, 0), 0)[steps] / mask.sum(0)[steps] for n in norms]
        with open(self.directory / "gradient_flow.csv", "a", newline="") as file:
            csv.writer(file).writerows(
                [epoch + 1, name, step, *values]
                for step, *values in zip(steps, *means, strict=True)
            )
        rows = mask[mask.any(1)]
        ends = [rows.argmax(1), rows.shape[1] - 1 - rows[:, ::-1].argmax(1)]
        if flow.backwards:
            ends.reverse()
        first, last = (
            np.mean(np.take_along_axis(norms[0][mask.any(1)], e[:, None], 1)) for e in ends
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = first / last
        with self._writer.as_default(step=epoch + 1):
            for what, value in (("first", first), ("last", last), ("reach", reach)):
                # As `tf.summary.scalar` writes it; that function needs TensorBoard installed.
                kind = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
                tf.summary.write(f"gradient_flow/{name}/{what}", np.float32(value), metadata=kind)
        self._writer.flush()
        steps = int(mask.sum(1).max())
        path = f"over {steps} steps, from the last to the first, {last:.1e} becomes {first:.1e}"
        if not all(np.isfinite(n[mask]).all() for n in norms):
            found, advice = "is not finite", "Clip gradients (`clipnorm=1.0`) and lower the rate"
        elif not any(n[mask].any() for n in norms):
            found, advice = (
                "is zero at every step",
                "The loss of this batch does not change with this layer: look for weights that "
                "are all zero, or activations that let nothing through",
            )
        elif reach < self.vanishing:
            found, advice = (
                f"vanishes: {path}",
                "What comes early can hardly be learned. LSTM and GRU carry it further, most of "
                "all with a forget bias that fits the length",
            )
        elif reach > self.exploding:
            found, advice = f"explodes: {path}", "Clip gradients (`clipnorm=1.0`)"
        else:
            return
        warnings.warn(
            f"Epoch {epoch + 1}: the gradient through time of {name!r} {found}. {advice}.",
            stacklevel=2,
        )

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None
