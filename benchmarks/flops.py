"""How much work a JAX function is, counted from its jaxpr: what every device must do for it.

Counted are matrix products and convolutions, which are nearly all of a network's arithmetic, and
only multiplications with real numbers: not those with padding, nor with the zeros that the gradient
of a strided convolution puts between its inputs. A convolution counts as XLA's own, however a
device does it, so a share of a device's peak is of useful work and may exceed 1 where Winograd's
method saves multiplications. (XLA's `cost_analysis` counts what is done; on a GPU it does not see
into the libraries' convolutions.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from colorjax.extra import winograd


@dataclass(frozen=True)
class Work:
    """Of one call."""

    flops: int  # a multiplication and an addition are two
    bytes: int  # each product's operands read once and its result written once, at least

    def __add__(self, other: "Work") -> "Work":
        """One after the other."""
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        """So many times."""
        return Work(self.flops * times, self.bytes * times)


def count(function: Callable, *args: Any) -> Work:
    """The work of `function(*args)`; the arguments may be `jax.ShapeDtypeStruct`s.

    Of the branches of a condition the dearest counts.

    Raises:
        ValueError: it holds a loop whose number of rounds only its data says.
    """
    with winograd.enabled(False):
        return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Work:
    total = Work(0, 0)
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += Work(_of_product(equation), _moved(equation))
        elif name == "conv_general_dilated":
            total += Work(_of_convolution(equation), _moved(equation))
        elif name == "cond":
            branches = [_of_jaxpr(branch.jaxpr) for branch in parameters["branches"]]
            total += max(branches, key=lambda work: work.flops)
        else:
            inner = sum(map(_of_jaxpr, _inside(parameters)), Work(0, 0))
            if name == "while" and inner.flops:
                raise ValueError("a loop without a fixed number of rounds cannot be counted")
            total += inner * (parameters["length"] if name == "scan" else 1)
    return total


def _inside(parameters: dict[str, Any]) -> list[Any]:
    """The jaxprs that an equation calls."""
    values = [getattr(value, "jaxpr", value) for value in parameters.values()]
    return [value for value in values if hasattr(value, "eqns")]


def _moved(equation: Any) -> int:
    arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    results = math.prod(equation.outvars[0].aval.shape)
    return 2 * results * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    left, kernel, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    meetings = 1  # of a kernel's position with a real pixel, over all the results of a channel
    for axis, (source, window, result) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        place = (
            np.arange(out[result])[:, None] * parameters["window_strides"][axis]
            + np.arange(kernel[window]) * parameters["rhs_dilation"][axis]
            - parameters["padding"][axis][0]
        )
        apart = parameters["lhs_dilation"][axis]
        real = (place >= 0) & (place <= (left[source] - 1) * apart) & (place % apart == 0)
        meetings *= int(real.sum())
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * meetings
