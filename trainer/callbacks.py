"""What a network's callbacks hear of a training."""

import math

import keras

from trainer import networks
from trainer.settings import TrainingJob


class Callbacks:
    """A network's callbacks, which hear of a training much as they would of `model.fit`.

    To them, a batch is what one call of the compiled loop takes, and an epoch lies between two measurements on `eval`.
    `loss` and `accuracy` are those of the batch that comes next, `val_loss` is the cross-entropy.
    """

    def __init__(self, job: TrainingJob, model: keras.Model) -> None:
        self._every = job.training.eval_every
        self._model = model
        model.stop_training = False
        self._list = keras.callbacks.CallbackList(
            networks.callbacks(job.network),
            model=model,
            epochs=math.ceil(job.training.steps / self._every),
            steps=self._every,
            verbose=0,
        )

    @property
    def are_there(self) -> bool:
        """Whether there are any."""
        return bool(self._list.callbacks)

    @property
    def ask_for_the_end(self) -> bool:
        """Whether a callback has stopped the training."""
        return self._model.stop_training

    def begin(self, step: int) -> None:
        """Tells of the beginning, or that a training is continued from a step."""
        self._list.on_train_begin()
        self._list.on_epoch_begin(step // self._every)

    def trained(self, step: int, count: int, loss: float) -> None:
        """Tells of steps that were taken, so many in one call."""
        self._list.on_train_batch_begin(step - count)
        self._list.on_train_batch_end(step - 1, {"loss": loss})

    def measured(self, entry: dict[str, float], ends: bool) -> bool:
        """Tells of a measurement, where it ends an epoch; returns whether a callback wants the training to end."""
        step = int(entry["step"])
        if step and (ends or step % self._every == 0):
            logs = {name.replace("eval_", "val_"): value for name, value in entry.items() if name != "step"}
            self._list.on_epoch_end(math.ceil(step / self._every) - 1, logs)
            if not ends and not self._model.stop_training:
                self._list.on_epoch_begin(step // self._every)
        return self._model.stop_training

    def end(self) -> None:
        """Tells of the end."""
        self._list.on_train_end()
