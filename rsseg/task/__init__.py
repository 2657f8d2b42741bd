"""Tasks of heads: a class for each kind of task, which implements the differences between the kinds."""

from collections.abc import Sequence

from rsseg.contract import ONE_TARGET, InputError, nearest
from rsseg.task.centres import OBJECT_PLANES, Centres
from rsseg.task.labels import Binary, Multiclass, Multilabel
from rsseg.task.regression import Regression
from rsseg.task.scaling import SCALINGS, Scaling
from rsseg.task.task import Task

__all__ = [
    "OBJECT_PLANES",
    "SCALINGS",
    "TASKS",
    "Binary",
    "Centres",
    "Multiclass",
    "Multilabel",
    "Regression",
    "Scaling",
    "Task",
    "make_task",
]

TASKS: dict[str, type[Task]] = {task.kind: task for task in (Binary, Multiclass, Multilabel, Regression, Centres)}
"""The kinds of tasks by name."""


def make_task(
    kind: str, classes: Sequence[str], soft: bool = False, units: Sequence[str] | None = None, target: str = ONE_TARGET
) -> Task:
    """A task by the name of its kind; the arguments are those of `Task`, and the `units` of `Regression`.

    Example:
        >>> make_task("multiclas", ["land", "water"])
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: there is no task multiclas (did you mean 'multiclass'?): take binary, ... or centres
    """
    if kind not in TASKS:
        *others, last = TASKS
        raise InputError(f"there is no task {kind}{nearest(str(kind), TASKS)}: take {', '.join(others)} or {last}")
    task = TASKS[kind]
    if soft and task.real:
        raise InputError(f"a target of task={kind} holds no class shares: set dataset.fractions=null")
    if issubclass(task, Regression):
        return task(tuple(classes), target=target, units=tuple(units or ()))
    if units:
        raise InputError(f"units={list(units)} are for task=regression; found {kind}: remove them")
    return task(tuple(classes), soft, target)
