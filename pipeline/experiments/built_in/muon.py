"""Muon: an optimizer whose steps change every direction of a convolution alike."""

from typing import Any

import keras


class Muon(keras.optimizers.SGD):
    """Nesterov's momentum; of convolutions, steps whose singular values are all about one, and filters of one norm.

    Source: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon/, as in airbench94_muon,
    https://github.com/KellerJordan/cifar10-airbench.

    Args:
      learning_rate: of the convolutions, a number that falls to zero over the steps: how large a step's singular values
        are, where those of a convolution's filters are about one.
      steps: over which all rates fall to zero.
      momentum: of the convolutions.
      bias_rate: the first learning rate of vectors.
      head_rate: the first learning rate of matrices.
      vector_momentum: of vectors and matrices.
      weight_decay: of vectors and matrices, at the first step.
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        momentum: float,
        bias_rate: float,
        head_rate: float,
        vector_momentum: float = 0.85,
        weight_decay: float = 0.0,
    ) -> None:
        schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.0)
        super().__init__(schedule, momentum=vector_momentum, nesterov=True)
        self._first_rate, self._filter_momentum, self._decay = learning_rate, momentum, weight_decay
        self._rates = {1: bias_rate, 2: head_rate}

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Changes a variable; called by Keras for each one."""
        if len(variable.shape) != 4:
            first = self._rates[len(variable.shape)]
            gradient = gradient + self._decay / first * variable
            super().update_step(gradient, variable, first * learning_rate / self._first_rate)
            return
        velocity, filters = self.momentums[self._get_variable_index(variable)], variable.shape[-1]
        velocity.assign(self._filter_momentum * velocity + gradient)
        step = orthogonal(keras.ops.reshape(gradient + self._filter_momentum * velocity, (-1, filters)))
        norm = keras.ops.norm(keras.ops.reshape(variable, (-1,)))
        changed = variable * (filters**0.5 / norm) - learning_rate * keras.ops.reshape(step, variable.shape)
        variable.assign(changed)


def orthogonal(matrix: Any, iterations: int = 3) -> Any:
    """Returns a matrix with the same singular vectors, whose singular values are about one.

    Source: the Newton-Schulz iteration of fifth order with the coefficients of Jordan et al.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return keras.ops.transpose(orthogonal(keras.ops.transpose(matrix), iterations))
    x = matrix / (keras.ops.norm(matrix) + 1e-7)
    for _ in range(iterations):
        gram = x @ keras.ops.transpose(x)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
