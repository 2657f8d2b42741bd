"""The commit that a run is said to be of."""

import subprocess

import pytest

from rsseg.config.provenance import git_state

NEITHER = {"commit": None, "changed": None}


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package, its configs and its entry point."""
    for name in ("rsseg/__init__.py", "configs/train.yaml", "train.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    return tmp_path


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_stray_file_changes_no_code(checkout):
    first = {"commit": git(checkout, "rev-parse", "HEAD"), "changed": False}
    (checkout / "notes.txt").write_text("a thought")
    (checkout / "rsseg/stray.txt").write_text("another")
    (checkout / "README.md").write_text("changed")
    assert git_state(checkout / "rsseg") == first
    for name in ("rsseg/__init__.py", "configs/train.yaml", "train.py"):
        (checkout / name).write_text("changed = 1")
        assert git_state(checkout / "rsseg") == {**first, "changed": True}
        git(checkout, "checkout", "-q", name)


def test_a_package_inside_another_repository_has_no_commit(checkout):
    installed = checkout / ".venv/site-packages/rsseg"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) == NEITHER


def test_a_package_outside_any_repository_has_no_commit(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    assert git_state(tmp_path) == NEITHER
