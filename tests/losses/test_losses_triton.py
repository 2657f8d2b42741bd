"""The Triton kernels give what the plain PyTorch reference gives: interpreted here, as no GPU is at hand."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsseg.losses import triton_pass
from rsseg.losses.functional import COUNT, NLL, Sum
from rsseg.losses.onepass import one_pass
from rsseg.losses.statistics import _implementation, reference

KERNELS = ("softmax.forward", "softmax.backward", "sigmoid.forward", "sigmoid.backward", "histogram.levels")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: it is for Linux alone")


@needs_triton
@pytest.mark.slow
def test_interpreted_kernels():
    """In a process of its own: Triton reads the variable when it is imported."""
    cases = Path(__file__).with_name("triton_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-vx", "--tb=short", "--durations=0", str(cases)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cases.parents[2], check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize(
    "kernel", ["softmax.forward", "softmax.backward", "sigmoid.forward", "sigmoid.backward", "histogram.levels"]
)
def test_kernels_compile_for_a_gpu(kernel, tmp_path, monkeypatch):
    """To machine code of compute capability 9.0, which needs no GPU: the interpreter takes what the compiler might refuse."""
    import triton
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, name = kernel.split(".")
    function = getattr(import_module(f"rsseg.losses.kernels.{module}"), name)
    types = {"logits": "*bf16", "target": "*u8", "gradient": "*bf16", "counts": "*i32"}
    types |= dict.fromkeys(("sums", "log_sum", "of_sums", "of_errors"), "*fp32")
    constants = {"C": 7, "CLASSES": 8, "BLOCK": 256, "FOLD": 8, "ADJACENT": True, "IGNORE": 255, "K": 5, "SOFT": 1, "NLL": 2}
    constants |= {"SPREAD": 3, "FOCAL": 4, "GAMMA": 1.5, "KEEP": True, "BINS": 512, "SLOTS": 1024, "EPS": 1e-7}
    constants = {name: constants[name] for name in function.arg_names if name in constants}
    if module == "histogram":
        constants |= {"SOFTMAX": True, "dtype": triton.language.float32}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in function.arg_names}
    assert triton.compile(triton.compiler.ASTSource(function, signature, constants), target=GPUTarget("cuda", 90, 32)).asm[
        "cubin"
    ]


def test_losses_import_without_triton():
    code = "import sys; sys.modules['triton'] = None; from rsseg.losses.triton_pass import _runs; assert not _runs()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_what_the_kernels_leave_to_the_reference():
    x = torch.zeros(1, 300, 2, 2)
    assert not triton_pass.fits(x, (COUNT, NLL))  # too many classes
    assert not triton_pass.fits(x[:, :3], (COUNT, Sum("focal", 1.0), Sum("focal", 2.0)))
    assert not triton_pass.fits(x[:, :3], (COUNT, Sum("levels", 8), Sum("levels", 9)))
    assert not triton_pass.fits(x[:, :3], (COUNT, Sum("levels", 2**13)))
    assert not triton_pass.fits(x[:, :3, :0], (COUNT, NLL))


@pytest.mark.parametrize("fits", [True, False])
def test_who_takes_the_sums(fits, monkeypatch):
    monkeypatch.setattr("rsseg.losses.statistics.fits", lambda logits, wanted: fits)
    gpu, other = (SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in ("cuda", "mps"))
    assert _implementation(gpu, (COUNT,), "auto") is (triton_pass.triton_pass if fits else reference)
    assert _implementation(gpu, (COUNT,), "reference") is reference
    assert _implementation(other, (COUNT,), "auto") is reference
    assert _implementation(torch.zeros(1), (COUNT,), "auto") is one_pass
