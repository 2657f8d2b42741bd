"""torch.compile for functions of many small kernels, which take a GPU longer to launch than to run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from rsseg.contract import first_line

log = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])


def is_compiled(x: Tensor) -> bool:
    """Whether a function of a tensor is to be compiled: on a GPU, in training, and not inside a compiled function."""
    return x.is_cuda and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def compiled_on_gpu(function: Function) -> Function:
    """Compile a function as one graph at its first call with logits that are on a GPU and require a gradient.

    If compilation fails, as without Triton or a C compiler, a warning is logged and the function runs uncompiled from then on.
    The function needs a keyword argument `logits`.
    """
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, logits: Tensor, **named: Any) -> Any:
        if not is_compiled(logits):
            return function(*arguments, logits=logits, **named)
        if not compiled:
            # balancing takes several gradients of one graph in turn, and some backward graphs are compiled only then
            torch._functorch.config.donated_buffer = False
            compiled.append(torch.compile(function, fullgraph=True))
        if compiled[0] is not function:
            try:
                return compiled[0](*arguments, logits=logits, **named)
            except Exception as error:  # any error of a compiler; an error of the function itself is raised again below
                said = first_line(error)
                log.warning("losses run without torch.compile, which fails here: %s: %s", type(error).__name__, said)
                compiled[0] = function
        return function(*arguments, logits=logits, **named)

    return call  # type: ignore[return-value]
