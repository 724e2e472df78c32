"""Activations by the names that recurrent and fused operators call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from secateur.backends.torch.lazy import functional, torch
from secateur.ir.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor

Activation: TypeAlias = "Callable[[Tensor], Tensor]"

_DEFAULTS = {
    "leakyrelu": (0.01, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
    "affine": (1.0, 0.0),
}


def activation(name: str, alpha: float | None = None, beta: float | None = None) -> Activation:
    """The function of this name (in any case), with its parameters or their defaults; "" is the identity.

    Raises:
        BackendError: there is no such activation.
    """
    key = name.lower().replace("_", "")
    first, second = _DEFAULTS.get(key, (1.0, 0.0))
    a, b = first if alpha is None else alpha, second if beta is None else beta
    found = _functions(a, b).get(key)
    if found is None:
        raise BackendError(f"torch has no rule for the activation {name!r}", hint="run this model with onnxruntime")
    return found


def _functions(alpha: float, beta: float) -> dict[str, Activation]:
    return {
        "": lambda x: x,
        "identity": lambda x: x,
        "relu": lambda x: torch.relu(x),
        "tanh": lambda x: torch.tanh(x),
        "sigmoid": lambda x: torch.sigmoid(x),
        "silu": lambda x: functional.silu(x),
        "swish": lambda x: functional.silu(x),
        "gelu": lambda x: functional.gelu(x),
        "softsign": lambda x: functional.softsign(x),
        "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: torch.where(x < 0, alpha * x, x),
        "thresholdedrelu": lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
        "hardsigmoid": lambda x: (alpha * x + beta).clamp(0, 1),
        "elu": lambda x: torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0))),
        "clip": lambda x: x.clamp(alpha, beta),
    }
