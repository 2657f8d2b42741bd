"""Names of run folders, and how a command line quotes them."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


def run_folder(resume: str | None, parent: str, now: str, overrides: str) -> str:
    """The folder of a single run: the one to resume, or a new one.

    In a SLURM batch job, job number and overrides name the folder, so that a requeued job finds the run that it began.
    """
    job = slurm_job()
    if job is not None:
        now = f"job-{job}-{hashlib.blake2b(overrides.encode(), digest_size=4).hexdigest()}"
    return resume or f"{parent}/{now}"


def slurm_job() -> str | None:
    """The number of the SLURM batch job that this process belongs to; None outside of one, and in an interactive session."""
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "sh", "zsh", "interactive"):
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def folder_name(overrides: str) -> str:
    """A valid folder name for a run's overrides, without path separators; long overrides are cut and a hash is added.

    Example:
        >>> folder_name("loss=ce,seed=1")
        'loss=ce,seed=1'
        >>> folder_name("+loss/term@loss.terms.tversky=tversky")
        '+loss.term@loss.terms.tversky=tversky'
    """
    name = overrides.replace("/", ".") or "default"
    if len(name) <= 150:
        return name
    short = (part if len(part) <= 24 else f"{part[:12]}~{part[-8:]}" for part in name.split(","))
    return f"{','.join(short)[:190]}...{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def sweep_name(dataset: str, sweep: str | None, overrides: Any) -> str:
    """The name of a sweep's folder: its dataset, and the settings that are swept.

    Example:
        >>> sweep_name("inria", "losses", ["sweep=losses", "seed=1,2"]), sweep_name("inria", None, ["loss=ce,dice", "seed=1,2"])
        ('inria_losses', 'inria_loss')
        >>> sweep_name("inria", None, ["loss=ce", "seed=1,2"])
        'inria_seed'
    """
    words: Any = OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_config(overrides) else overrides
    swept = [o.get_key_element() for o in OverridesParser.create().parse_overrides(words) if o.is_sweep_override()]
    names = [key.lstrip("+").rpartition(".")[2] for key in swept if key != "seed"]
    return folder_name("_".join([*[dataset] * ("dataset" not in swept), *([sweep] if sweep else names or ["seed"])]))


def resume_word(folder: Path) -> str:
    """The word ``resume=...`` that continues a run from the command line, in quotes if the folder's name needs them.

    Example:
        >>> print(resume_word(Path("runs/a")), resume_word(Path("runs/sweep/loss=ce,seed=1")))
        resume=runs/a 'resume="runs/sweep/loss=ce,seed=1"'
    """
    return shlex.quote(f"resume={path_text(folder)}")


def path_text(path: Path) -> str:
    """A path as Hydra reads it in a word, in Hydra's quotes if it needs them."""
    return str(path) if re.fullmatch(r"[\w./:-]*", str(path)) else quoted(str(path))


def quoted(text: str) -> str:
    """A text in Hydra's quotes, in which backslashes are escaped only before a quote."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text) + '"'
