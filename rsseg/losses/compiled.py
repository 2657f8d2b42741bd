"""torch.compile for functions of many small kernels, each of which a GPU takes longer to launch than to run."""

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
    """The function, compiled as one graph by its first call whose logits are on a GPU and learn.

    Where that fails, as without Triton or a C compiler, the function runs as it is from then on, and one line says so. It takes
    the logits by the name `logits`.
    """
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, logits: Tensor, **named: Any) -> Any:
        if not is_compiled(logits):
            return function(*arguments, logits=logits, **named)
        if not compiled:
            # balancing asks for the gradients of one graph in turn; some are compiled when they are first asked for
            torch._functorch.config.donated_buffer = False
            compiled.append(torch.compile(function, fullgraph=True))
        if compiled[0] is not function:
            try:
                return compiled[0](*arguments, logits=logits, **named)
            except Exception as error:  # whatever compilers raise; if it is not theirs, the function raises it again
                said = first_line(error)
                log.warning("losses run without torch.compile, which fails here: %s: %s", type(error).__name__, said)
                compiled[0] = function
        return function(*arguments, logits=logits, **named)

    return call  # type: ignore[return-value]
