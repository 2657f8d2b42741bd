"""Classes of any name, from training to the report."""

import csv
import json

import pytest
from matplotlib.figure import Figure
from test_run import folder_data, settings
from tiny import logged

from rsseg.answer import compare
from rsseg.config.folder import RunFolder
from rsseg.describe.report import describe
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.run import train
from rsseg.savefig import save


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["$\\frac{$", "mean", "=1+1"], ["<b>x</b>", "[red]", "_a|b"], ["NA", "ä中", "$x$, \"y\" 'z'"]]
)
def test_classes_of_any_name(tmp_path, folder_root, capsys, names):
    def named(*words):
        config = settings(tmp_path, *folder_data(folder_root), *words)
        config.dataset.classes = names
        return config

    for loss in ("ce", "dice"):
        words = [f"loss={loss}", "seed=1"]
        train(named(*words), tmp_path / "sweep" / loss, words, loss)
    run = RunFolder(tmp_path / "sweep" / "ce")
    with run.classes_file.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["average"]]
    assert [row["class"].removeprefix("'") for row in rows] == names
    assert all(f"val/iou/{name}" in logged(run.path)[0] for name in names)
    evaluate(run.path, EvaluationOptions(threshold="tuned"))
    out = compare([tmp_path / "sweep"]).folder
    describe(named(), tmp_path / "described")
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    with (out / "classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"].removeprefix("'") for row in rows] == names
    for path in [*out.glob("*.csv"), *run.path.glob("*.csv")]:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], path
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>x" not in page
    told = json.loads((tmp_path / "described" / "description.json").read_text(encoding="utf-8"))
    assert list(told["splits"]["train"]["classes"]) == names


def test_text_in_figures_is_no_formula(tmp_path):
    """Also that of ticks that drawing adds, and of parts of a figure."""
    figure = Figure()
    left, right = figure.subfigures(1, 2)
    for part in (left, right):
        axis = part.subplots()
        axis.set_yticks([0, 1], ["$\\frac{$", "a"])
        axis.plot([0, 1], [0, 1], label="_$b_{$")
        axis.legend(handles=list(axis.lines))
        axis.xaxis.set_major_formatter(lambda *_: "$\\frac{$")
    with pytest.raises(ValueError, match=r"\\frac"):
        figure.savefig(tmp_path / "a.png")
    for name in ("b.png", "b.svg"):
        save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
