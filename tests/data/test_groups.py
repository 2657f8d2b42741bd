"""Groups of scenes: how they are found, that no split by fractions and no fold cuts one, and what is said of them."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_run import folder_data
from test_run import settings as settings_of
from tiny import compose, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.groups import by_fraction, describe_few_groups, describe_groups, group_names, in_fold
from rsseg.data.scene import Scene, Source
from rsseg.dataset import open_data, training_scenes
from rsseg.dataset_source import Folds, with_fold
from rsseg.describe.report import describe

PLACES = {"b/tile1_p1": 0, "b/tile1_p2": 900, "b/tile2_p1": 1100, "c/tile3_p1": 5000}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four scenes of 8 x 8 pixels of a metre, in two folders, of three tiles; where they lie is their value above."""
    from rasterio.transform import from_origin

    folder = tmp_path_factory.mktemp("grouped")
    for name, east in PLACES.items():
        for kind in ("images", "masks"):
            path = folder / name.replace("/", f"/{kind}/")
            write_tif(path.with_suffix(".tif"), np.ones((1, 8, 8), np.uint8), transform=from_origin(east, 100, 1, 1))
    write_tif(folder / "plain/a.tif", np.ones((1, 8, 8), np.uint8), crs=None)
    return folder


def files(root, group, split=None):
    return Files(str(root), "{area}/images/{tile}_{part}.tif", "{area}/masks/{tile}_{part}.tif", split, group=group)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (None, ["b-tile1-p1", "b-tile1-p2", "b-tile2-p1", "c-tile3-p1"]),
        ("{area}", ["b", "b", "b", "c"]),
        ("{area} {tile}", ["b tile1", "b tile1", "b tile2", "c tile3"]),
        ("(TILE[0-9]+)_", ["tile1", "tile1", "tile2", "tile3"]),
        ("(.*)/", ["b/images", "b/images", "b/images", "c/images"]),
        (r"(.)/images/\w{4}(\d)", ["b-1", "b-1", "b-2", "c-3"]),
        (1000, [f"EPSG:32633 {i} 0" for i in (0, 0, 1, 5)]),
        (50.0, [f"EPSG:32633 {i} 1" for i in (0, 18, 22, 100)]),
    ],
)
def test_the_group_of_a_scene(root, group, expected):
    assert group_names(files(root, group, {"train": 1.0}).scenes("train")) == expected


def test_fields_of_any_language(root):
    source = Files(str(root), "{área}/images/{n}.tif", "{área}/masks/{n}.tif", {"train": 1.0}, group="{área}")
    assert group_names(source.scenes("train")) == ["b", "b", "b", "c"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("{aera}", r"no field aera \(did you mean 'area'\?\); it has area, tile, part"),
        ("tile", "a regular expression with the group in parentheses"),
        ("(tile", "a regular expression with the group in parentheses"),
        ("(tile[12])", "finds no group in the path c/images/tile3_p1.tif"),
        (0, "a number above 0"),
        (True, "a number above 0"),
    ],
)
def test_groups_that_cannot_be_found(root, group, message):
    with pytest.raises(InputError, match=message) as error:
        files(root, group)
    assert "\n" not in str(error.value)


def test_squares_need_coordinates(root):
    with pytest.raises(InputError, match=r"plain/a\.tif has no coordinates"):
        Files(str(root), "plain/{n}.tif", "plain/{n}.tif", group=100)


def test_fractions_deal_groups(root):
    source = files(root, "{tile}", {"train": 0.5, "val": 0.25, "test": 0.25})
    parts = {split: set(group_names(source.scenes(split))) for split in ("train", "val", "test")}
    assert set().union(*parts.values()) == {"tile1", "tile2", "tile3"}
    assert all(not parts[a] & parts[b] for a, b in combinations(parts, 2))
    with pytest.raises(InputError, match=r"which lie in 1 group \(dataset\.source\.group\): fractions never divide a group"):
        files(root, "(images)", {"train": 0.5, "val": 0.5}).scenes("train")


sizes = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 20), min_size=1, max_size=12)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=3).filter(lambda each: sum(each) > 0)


@given(sizes, shares)
def test_shares_are_met_to_half_a_group(sizes, shares):
    shares = [share / sum(shares) for share in shares]
    dealt = by_fraction(sizes, dict(zip("xyz", shares, strict=False)))
    names = [name for part in dealt.values() for name in part]
    assert sorted(names) == sorted(sizes)
    assert sum(not part for part, share in zip(dealt.values(), shares, strict=True) if share) == max(
        0, sum(share > 0 for share in shares) - len(sizes)
    )
    whole, largest = sum(sizes.values()), max(sizes.values())
    for part, share in zip(dealt.values(), shares, strict=True):
        assert abs(sum(sizes[name] for name in part) - share * whole) <= 2 * largest + 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(2, 5))
def test_every_group_validates_once_and_folds_are_balanced(of, folds):
    groups = {f"s{i}": f"g{group}" for i, group in enumerate(of)}
    owner = {name: ("train", "val", "test")[i % 3] for i, name in enumerate(groups)}
    pooled = {name for name in owner if owner[name] != "test"}
    found = {groups[name] for name in pooled}
    if len(found) < folds:
        with pytest.raises(InputError, match="Groups are never split: "):
            in_fold(owner, groups, f"1/{folds}")
        return
    parts = [in_fold(owner, groups, f"{fold}/{folds}") for fold in range(1, folds + 1)]
    scored = [{name for name, split in part.items() if split == "val"} for part in parts]
    assert set().union(*scored) == pooled
    assert sum(map(len, scored)) == len(pooled)
    counts = [len({groups[name] for name in part}) for part in scored]
    assert sum(counts) == len(found)
    assert max(counts) - min(counts) <= 1
    for part, validates in zip(parts, scored, strict=True):
        assert {name for name, split in part.items() if split == "test"} == owner.keys() - pooled
        assert not {groups[name] for name in validates} & {groups[n] for n, split in part.items() if split == "train"}


class Numbered(Source):
    """As torchgeo's: the scenes of every split are called 0, 1, ..."""

    def scenes(self, split):
        return [Scene(str(i), self.path, group=f"{split}-{i}") for i in range({"train": 3, "val": 1, "test": 2}[split])]

    path = None


def test_leave_one_group_out():
    folds = [with_fold(Numbered(), f"{fold}/groups") for fold in (1, 2, 3, 4)]
    assert [group_names(source.scenes("val")) for source in folds] == [["train-0"], ["train-1"], ["train-2"], ["val-0"]]
    assert [scene.name for scene in folds[0].scenes("train")] == ["1", "2", "val-0"]  # both splits have a scene 0
    assert folds[0].scenes("test") == Numbered().scenes("test")
    with pytest.raises(InputError, match=r"dataset\.fold=5/groups: the scenes have 4 groups \("):
        Folds(Numbered(), "5/groups").scenes("val")
    assert isinstance(with_fold(Numbered(), None), Numbered)


def test_blocks_are_dealt_to_folds_with_room_between_them(tmp_path):
    write_tif(tmp_path / "i/a.tif", np.ones((1, 300, 400), np.uint8))
    write_tif(tmp_path / "m/a.tif", np.ones((1, 300, 400), np.uint8))
    split = {"blocks": 100, "buffer": 20, "train": 0.6, "val": 0.2, "test": 0.2}

    def source(fold, **other):
        return with_fold(Files(str(tmp_path), "i/{n}.tif", "m/{n}.tif", split | other), f"{fold}/3")

    plain = Files(str(tmp_path), "i/{n}.tif", "m/{n}.tif", split)
    scored = Counter()
    for fold in (1, 2, 3):
        parts = {part: source(fold).scenes(part) for part in ("train", "val", "test")}
        assert [s.name for s in parts["test"]] == [s.name for s in plain.scenes("test")]
        assert not {s.group for part in parts.values() for s in part} - {""}
        scored.update(scene.name for scene in parts["val"])
        for one, other in combinations(parts, 2):
            for a, b in ((a.region, b.region) for a in parts[one] for b in parts[other]):
                rows = max(a.row_off, b.row_off) - min(a.row_off + a.height, b.row_off + b.height)
                columns = max(a.col_off, b.col_off) - min(a.col_off + a.width, b.col_off + b.width)
                assert max(rows, columns) >= 20
    assert scored == Counter([s.name for part in ("train", "val") for s in plain.scenes(part)])
    with pytest.raises(InputError, match=r"1/3: the scenes have 1 group \(a\), .* Groups are never split: .* finer groups in"):
        source(1, buffer=0).scenes("val")
    assert {s.group for s in Files(str(tmp_path), "i/{n}.tif", "m/{n}.tif", split | {"buffer": 0}).scenes("val")} == {"a"}
    with pytest.raises(InputError, match="blocks with a buffer between them are groups of their own"):
        Files(str(tmp_path), "i/{n}.tif", "m/{n}.tif", split, group="{n}")


def test_what_is_said():
    train = [Scene("a1", None, group="a"), Scene("b1", None)]
    cut = describe_groups(train, [Scene("a2", None, group="a"), Scene("c", None)])
    assert [line.partition(":")[0] for line in cut] == ["Of 2 groups with validation scenes, 1 train too, such as a"]
    assert describe_few_groups("abcdef", "g").endswith("; dataset.fold=1/5,2/5,3/5,4/5,5/5 lets all 7 validate in turn.")
    assert "; dataset.fold=1/groups,2/groups,3/groups lets all 3 validate in turn." in describe_few_groups("ab", "c")
    assert describe_few_groups("a", "a").endswith("from differences between groups.")
    assert not describe_few_groups("", "abcdef")
    assert not describe_few_groups("abcde", "f", in_folds=True)


def test_validation_scenes_of_one_group_are_no_comparison():
    def scenes(*groups):
        return [Scene(f"scene{i}", Path("a.tif"), group=group) for i, group in enumerate(groups)]

    (line,) = describe_groups([], scenes("vienna", "vienna"))
    assert line.startswith("All validation scenes (2) are of one group, vienna: it selects the checkpoint and scores it")
    assert "(1) are of one group, scene0:" in describe_groups([], scenes(""))[0]
    assert not describe_groups([], scenes("vienna", "graz"))
    assert not describe_groups([], scenes("", ""))


def test_groups_are_written_down_and_described(tmp_path, folder_root, caplog):
    split = "dataset.source.split={train: null, val: [tile0_a], test: [tile5_a]}"
    words = folder_data(folder_root, split, 'dataset.source.group="tile(.)"', "dataset.fold=2/2")
    config = settings_of(tmp_path, *words)
    setup = make_setup(config)
    data = open_data(setup.dataset, setup.source(), setup.window).record()
    assert data["groups"] == {split: [name[4] for name in names] for split, names in data["scenes"].items()}
    plain = make_setup(settings_of(tmp_path, *folder_data(folder_root, split))).source()
    pooled = [name for names in data["scenes"].values() for name in names]
    assert sorted(pooled) == sorted(scene.name for split in ("train", "val") for scene in plain.scenes(split))
    caplog.set_level("INFO")
    told = json.loads((describe(config, overrides=words) / "description.json").read_text())
    assert [told["splits"][split]["groups"] for split in data["groups"]] == [len(set(g)) for g in data["groups"].values()]
    assert told["few_groups"].startswith("Only 5 groups of")
    assert told["few_groups"] in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.fold=1"], r"dataset\.fold=1: .* such as 2/5, or 2/groups"),
        (["dataset.fold=1/1"], r"dataset\.fold=1/1: "),
        (["dataset.fold=1/all"], r"dataset\.fold=1/all: "),
        (["dataset.fold=4/3"], r"dataset\.fold=4/3: "),
        (["dataset.fold=0/groups"], r"dataset\.fold=0/groups: "),
        (["dataset.fold=a/5"], r"dataset\.fold=a/5: "),
        (["dataset.fold=-1/5"], r"dataset\.fold=-1/5: "),
        (["dataset.fold=1/2/3"], r"dataset\.fold=1/2/3: "),
    ],
)
def test_folds_that_do_not_work(words, message):
    with pytest.raises(InputError, match=message) as error:
        make_setup(compose(words))
    assert "\n" not in str(error.value)


def test_missing_masks_of_both_splits_are_named_together(tmp_path):
    for name in "abcd":
        write_tif(tmp_path / f"images/{name}.tif", np.zeros((3, 32, 32), np.uint8))
        if name in "ac":
            write_tif(tmp_path / f"masks/{name}.tif", np.zeros((1, 32, 32), np.uint8))
    setup = make_setup(settings_of(tmp_path, *folder_data(tmp_path), "dataset.source.split={train: [a, b], val: [c, d]}"))
    with pytest.raises(InputError, match=r"1 of 2 train images .*, first b: .*; 1 of 2 val images .*, first d: "):
        training_scenes(setup.source(), setup.dataset)
