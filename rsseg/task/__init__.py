"""What a head predicts: a class per kind of task, which holds what differs between the kinds."""

from rsseg.task.centres import OBJECT_PLANES, Centres
from rsseg.task.kinds import TASKS, make_task
from rsseg.task.labels import Binary, Multiclass, Multilabel
from rsseg.task.regression import Regression
from rsseg.task.scaling import Scaling
from rsseg.task.task import Task

__all__ = [
    "OBJECT_PLANES",
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
