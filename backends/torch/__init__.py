"""Evaluates graphs in torch, on CPU or GPU, so that gradients of anything reach weights, masks and gates."""

from secateur.backends.torch import rules as rules
from secateur.backends.torch.call import Call, Rule, torch_rules
from secateur.backends.torch.program import Program, compile_torch, gated
from secateur.backends.torch.runner import TorchRunner
from secateur.backends.torch.session import Tap

__all__ = ["Call", "Program", "Rule", "Tap", "TorchRunner", "compile_torch", "gated", "torch_rules"]
