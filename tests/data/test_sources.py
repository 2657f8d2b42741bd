import os
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import compose, mask_file, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.paths import find_files, path_pattern
from rsseg.files import read_text


def names(source, split):
    return [scene.name for scene in source.scenes(split)]


def folder(root, split=None):
    return Files(str(root), "images/{name}.*", "masks/{name}.*", split)


def touch(root, *paths):
    for path in paths:
        write_tif(root / path, np.ones((1, 4, 4), np.uint8))


def test_folder_by_fraction_is_a_partition(folder_root):
    source = folder(folder_root)
    parts = [names(source, split) for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == [f"tile{i}_a" for i in range(6)]
    assert [len(part) for part in parts] == [4, 1, 1]
    assert parts == [names(folder(folder_root), split) for split in ("train", "val", "test")]


def test_folder_by_prefix(folder_root):
    source = folder(folder_root, {"val": ["tile3_*"], "test": ["tile4_*", "tile5_*"]})
    assert names(source, "val") == ["tile3_a"]
    assert names(source, "test") == ["tile4_a", "tile5_a"]
    assert names(source, "train") == ["tile0_a", "tile1_a", "tile2_a"]


def test_null_removes_a_part_of_the_split(folder_root):
    source = folder(folder_root, {"train": None, "val": ["tile3_*"], "test": None})
    assert len(names(source, "train")) == 5
    assert names(source, "test") == []


def test_folder_by_list(folder_root, tmp_path):
    (tmp_path / "images").symlink_to(folder_root / "images")
    (tmp_path / "masks").symlink_to(folder_root / "masks")
    (tmp_path / "train.txt").write_text("tile1_a\ntile2_a.tif\n\n")
    (tmp_path / "val.txt").write_text("tile3_a\n")
    source = folder(tmp_path, {"train": "train.txt", "val": "val.txt"})
    assert names(source, "train") == ["tile1_a", "tile2_a"]
    assert names(source, "test") == []
    (tmp_path / "val.txt").write_text("tile9_a\n")
    with pytest.raises(InputError, match="without an image: tile9_a"):
        source.scenes("val")
    (tmp_path / "val.txt").write_text("tile2_a\n")
    with pytest.raises(InputError, match="tile2_a in train and val"):
        source.scenes("train")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": 0.7, "val": ["a"]}, "mixes"),
        ({"train": 0.7, "val": 0.7}, "add up to 1"),
        ({"val": ["nothing"]}, "name is 'nothing'"),
        ({"val": ["tile1_*"], "test": ["tile1*"]}, "in val and test"),
        ({"valid": 0.5}, "one or more of train, val, test"),
        ({"train": "missing.txt"}, "no file"),
        (0.3, "a mapping"),
    ],
)
def test_folder_bad_splits(folder_root, split, message):
    with pytest.raises(InputError, match=message):
        folder(folder_root, split).scenes("train")


def test_folder_faults(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no image below"):
        folder(tmp_path)
    touch(tmp_path, "images/a.tif", "images/b.tif", "masks/a.tif")
    with pytest.raises(InputError, match=r"1 of 2 train images .* no mask that fits .*, first b: add them"):
        folder(tmp_path, {"train": 1.0}).scenes("train")
    touch(tmp_path, "masks/b.tif", "images/b.tiff")
    with pytest.raises(InputError, match="share a name"):
        folder(tmp_path)


def test_fields_must_agree(folder_root):
    with pytest.raises(InputError, match=r"mask=masks/\{tile\}\.\* has the field tile, which .*; its fields are name$"):
        Files(str(folder_root), "images/{name}.*", "masks/{tile}.*")
    with pytest.raises(InputError, match=r"has the field nane \(did you mean 'name'\?\), which dataset\.source\.image="):
        Files(str(folder_root), "images/{name}.*", "masks/{nane}.*")
    for pattern, wrong in (("images/{na-me}.tif", r"\{na-me\}"), ("images/{1}.tif", r"\{1\}"), ("images/{name", r"\{name")):
        with pytest.raises(InputError, match=rf"{wrong}.* is no field\. A field is a name in braces"):
            Files(str(folder_root), pattern, "masks/{name}.*")
    with pytest.raises(InputError, match="share a name"):
        Files(str(folder_root), "images/*.tif", "masks/*.tif")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a/{x}/{x}.tif", "a/7/7.tif", True),
        ("a/{x}/{x}.tif", "a/7/8.tif", False),
        ("**/b/{x}.tif", "b/7.tif", True),
        ("**/b/{x}.tif", "c/d/b/7.tif", True),
        ("**/b/{x}.tif", "cb/7.tif", False),
        ("*_{x}.TIF", "q_1.tif", True),
        ("{x}.tif", "a/1.tif", False),
        ("{x}_(1).tif", "a_(1).tif", True),
    ],
)
def test_path_pattern(pattern, path, fits):
    assert bool(path_pattern(pattern).fullmatch(path)) == fits


def test_a_listed_scene_that_is_not_there(folder_root, caplog):
    split = {"train": ["tile0_a", "tile1_a", "tile9_a"], "val": ["tile2_a"]}
    assert names(folder(folder_root, split), "train") == ["tile0_a", "tile1_a"]
    assert "1 of 3 scenes in dataset.source.split.train are not there, first tile9_a" in caplog.text
    with pytest.raises(InputError, match="name is 'tile9_a'"):  # without a list of training scenes, it would train
        folder(folder_root, {"val": ["tile2_a", "tile9_a"]}).scenes("train")


def test_what_is_half_written_is_no_scene(tmp_path):
    pixels = np.zeros((1, 8, 8), np.uint8)
    for name in ("a/one.tif", "a/.two.1f.part.tif", ".scenes.1f.part/three.tif"):
        write_tif(tmp_path / name, pixels)
    assert [path.name for path in find_files(tmp_path, "**/{name}.tif").values()] == ["one.tif"]


def test_a_list_of_names_from_another_system(tmp_path):
    for name in ("Köln", "b"):
        write_tif(tmp_path / "images" / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))
        write_tif(tmp_path / "masks" / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))
    split = {"train": "train.txt", "val": "val.txt"}
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + "Köln\r\n".encode())  # as Windows' editors write it

    def source():
        return Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", split)

    assert [scene.name for scene in source().scenes("train")] == ["Köln"]
    written = ["Köln\r\n".encode(encoding) for encoding in ("cp1252", "utf-16", "utf-16-le", "utf-16-be")]
    for content in (*written, unicodedata.normalize("NFD", "Köln").encode()):
        (tmp_path / "train.txt").write_bytes(content)
        assert [scene.name for scene in source().scenes("train")] == ["Köln"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n",
        "tile_1.tif\r\n",
        "Нижний_Новгород_1.tif\r\nŁódź.tif\r\n",
        "東京,train\n大阪,val\n",
        # 一 is the bytes 4e 00, 上 is 4e 0a
        "北京市海淀区中关村大街建筑物影像甲乙丙丁\r\n上海市浦东新区世纪大道一百号影像\r\n",
        "第一图\n",
    ],
)
def test_utf_16_without_a_mark(tmp_path, text, encoding):
    (tmp_path / "list.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "list.txt") == text


@pytest.mark.parametrize(
    "content", ["a\nb\n".encode("utf-32-le"), b"\x00" * 8, b"tile_1\n" * 20 + b"\x00", b"1\x002\x00\n\x003"]
)
def test_zeros_that_are_not_those_of_utf_16(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(
        InputError, match=r"list\.txt can't be read: it is no text in UTF-8, UTF-16 or cp1252; write it in UTF-8$"
    ):
        read_text(tmp_path / "list.txt")


def test_masks_beside_images_are_no_images(tmp_path):
    """Their names fit the images' pattern too."""
    touch(tmp_path, "a.tif", "a_mask.tif", "b.tif", "b_mask.tif", "labels.tif")
    source = Files(str(tmp_path), "{name}.tif", "{name}_mask.tif", {"val": ["b"]}, on_missing="skip")
    assert (names(source, "train"), names(source, "val")) == (["a"], ["b"])
    one_for_all = Files(str(tmp_path), "{name}.tif", "labels.tif", {"train": 1.0})
    assert names(one_for_all, "train") == ["a", "a_mask", "b", "b_mask"]
    itself = Files(str(tmp_path), "{name}.tif", "{name}.tif", {"train": 1.0})
    assert len(names(itself, "train")) == 5


def test_images_without_a_mask_are_counted_and_named(tmp_path):
    touch(tmp_path, *(f"images/{n}.tif" for n in range(9)), "masks/0.tif", "masks/8.tif")
    with pytest.raises(InputError) as refused:
        folder(tmp_path, {"train": 1.0}).scenes("train")
    assert str(refused.value) == (
        f"7 of 9 train images below {tmp_path} have no mask that fits dataset.source.mask=masks/{{name}}.*, first 1, 2, 3, 4, "
        "5: add them, or leave these images out by dataset.source.on_missing=skip"
    )
    left = Files(str(tmp_path), "images/{name}.*", "masks/{name}.*", {"train": 1.0}, on_missing="skip")
    assert names(left, "train") == ["0", "8"]
    (tmp_path / "train.txt").write_text("0\nnowhere\n")
    with pytest.raises(InputError, match=r"1 name without an image: nowhere; dataset\.source\.on_missing=skip leaves them out"):
        folder(tmp_path, {"train": "train.txt"}).scenes("train")


@pytest.mark.parametrize(
    "text",
    [
        "north/1.tif\nnorth/2.tif\n",  # none: two scenes have a file 1.tif, and a name has no slash
        "north-1\nnorth-2\n",
        "north-1.tif\r\nx\\north-2.tif\r\n",
        "2018,north-1\n2019,north-2\n",
        "# two of the north\nnorth-1\nnorth-2\n",
        "a_1.tif\na_2.tif\n",  # the masks'
        "radar/1_s1.tif,a_1.tif\nradar/2_s1.tif,a_2.tif\n",
        "id,split,mask\n7,train,a_1.tif\n8,val,b_1.tif\n9,train,a_2.tif\n",
    ],
)
def test_lists_name_scenes_or_files_of_theirs(tmp_path, text):
    for area, start in (("north", "a"), ("south", "b")):
        for number in (1, 2):
            write_tif(tmp_path / f"{area}/images/{number}.tif", np.zeros((1, 8, 8), np.uint8))
            write_tif(tmp_path / f"{area}/masks/{start}_{number}.tif", np.zeros((1, 8, 8), np.uint8))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.csv").write_text(text)
    source = Files(
        str(tmp_path), "{area}/images/{n}.tif", "{area}/masks/*_{n}.tif", {"train": "**/train.csv", "val": "lists/no"}
    )
    if text.startswith("north/"):
        with pytest.raises(InputError, match=r"train\.csv lists 2 names without an image: north/1\.tif, north/2\.tif"):
            source.scenes("train")
    else:
        with pytest.raises(InputError, match=r"split\.val: there is no file .*lists/no"):
            source.scenes("train")
        source.split.parts.pop("val")
        assert [scene.name for scene in source.scenes("train")] == ["north-1", "north-2"]


@pytest.mark.parametrize(
    "text",
    [
        '"name","split"\n"a","Train"\n"b","validation"\n',
        "id, Split\na ,train\n b, val\n",
        "mask,split\nmasks/a.tif,train\nmasks/b.tif,val\n",
        "name;split\na;train\nb;val\n",
        "name\tsplit\na\ttrain\nb\tval\n",
        "filename,set\na.tif,train\nb.tif,valid\n",
        "training,a\nvalidation,b\n",
    ],
)
def test_tables_as_pandas_and_people_write_them(tmp_path, text):
    for name in "ab":
        write_tif(tmp_path / f"images/{name}.tif", np.zeros((3, 8, 8), np.uint8))
        write_tif(tmp_path / f"masks/{name}.tif", np.zeros((1, 8, 8), np.uint8))
    (tmp_path / "list.csv").write_text(text)
    source = Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", {"train": "list.csv", "val": "list.csv"})
    assert [[scene.name for scene in source.scenes(split)] for split in ("train", "val")] == [["a"], ["b"]]
    (tmp_path / "a.csv").write_text("image\na\n")
    source = Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", {"train": "a.csv", "val": ["b"]} | {"val": "b.txt"})
    (tmp_path / "b.txt").write_text("b\n")
    assert [scene.name for scene in source.scenes("train")] == ["a"]


def test_one_table_for_several_splits_has_a_column_that_says_which(tmp_path, caplog):
    two_folders(tmp_path)
    table = tmp_path / "list.csv"
    table.write_text("filename,set\na,train\nb,val\nc,train\n")
    parts = {"train": "list.csv", "val": "list.csv"}
    source = Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", parts)
    assert [scene.name for scene in source.scenes("train")] == ["a", "c"]
    assert "No list of dataset.source.split names 1 image, first d." in caplog.text
    table.write_text("filename,place\na,north\nb,south\n")
    with pytest.raises(InputError, match=r"list\.csv is the list of several splits, but no column of it says train"):
        source.scenes("train")


def test_a_buffer_is_not_for_rasters(tmp_path):
    two_folders(tmp_path, ("a", "b"))
    with pytest.raises(
        InputError, match=r"dataset\.source\.buffer=2 .* all masks are rasters, such as .*/a\.tif: leave it out"
    ):
        Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", buffer=2)


def test_parquet_lists_and_what_is_wrong_with_them(tmp_path, monkeypatch):
    import pandas as pd

    two_folders(tmp_path, ("a", "b"))
    table = pd.DataFrame({"chip": ["a", "b"], "split": ["val", "train"], "area": [1.5, 2.5]})
    table.to_parquet(tmp_path / "chips.parquet")
    source = Files(str(tmp_path), "images/{name}.tif", "masks/{name}.tif", {"train": "chips.parquet", "val": "chips.parquet"})
    assert [[scene.name for scene in source.scenes(split)] for split in ("train", "val")] == [["b"], ["a"]]
    table.assign(geometry=[b"\x01\x03" * 20] * 2, chip=["a", "zz"]).to_parquet(tmp_path / "chips.parquet")
    with pytest.raises(InputError, match=r"lists 1 name without an image: zz,2\.5;"):
        source.scenes("train")
    (tmp_path / "chips.parquet").write_bytes(b"PAR1 is cut")
    with pytest.raises(InputError, match=r"chips\.parquet can't be read: .* Is it complete\?"):
        source.scenes("train")
    monkeypatch.setattr(pd, "read_parquet", lambda path: (_ for _ in ()).throw(ImportError("pyarrow")))
    with pytest.raises(InputError, match="pip install pyarrow"):
        source.scenes("train")


def two_folders(root, names=("a", "b", "c", "d"), images="images", masks="masks"):
    for name in names:
        write_tif(root / images / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))
        write_tif(root / masks / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))


def names_of(root, split, **options):
    found = Files(str(root), "images/{name}.*", "masks/{name}.*", split, **options)
    return {part: [scene.name for scene in found.scenes(part)] for part in ("train", "val")}


def test_folders_may_begin_with_a_capital(tmp_path):
    two_folders(tmp_path, images="Images", masks="MASKS")
    assert names_of(tmp_path, {"val": ["a"]}) == {"train": ["b", "c", "d"], "val": ["a"]}


def test_names_that_differ_in_upper_and_lower_case_are_paired_unless_that_is_open(tmp_path):
    for image, mask in (("A.PNG", "a.png"), ("b.png", "B.png"), ("c.png", "c.png")):
        for place in (f"images/{image}", f"masks/{mask}"):
            (tmp_path / place).parent.mkdir(exist_ok=True)
            Image.new("L", (8, 8)).save(tmp_path / place)
    own = str(tmp_path), "images/{name}.*", "masks/{name}.*", {"train": 1.0}
    assert {scene.name: mask_file(scene).name for scene in Files(*own).scenes("train")} == {
        "A": "a.png",
        "b": "B.png",
        "c": "c.png",
    }
    Image.new("L", (8, 8)).save(tmp_path / "images/C.png")  # of the two c.png has the mask
    with pytest.raises(InputError, match=r"1 of 4 train images .* have no mask that fits .*, first C: add them"):
        Files(*own).scenes("train")


def test_what_is_there_is_named_where_nothing_fits(tmp_path):
    two_folders(tmp_path, images="photos")
    with pytest.raises(InputError, match=r"no image below .* it holds (photos|masks)/[abcd]\.tif, .*: is it the right folder"):
        Files(str(tmp_path), "images/{name}.*", "masks/{name}.*")


def test_accents_that_are_characters_of_their_own(tmp_path):
    composed, apart = "São", unicodedata.normalize("NFD", "São")
    write_tif(tmp_path / "images" / f"{apart}.tif", np.zeros((1, 8, 8), np.uint8))
    write_tif(tmp_path / "masks" / f"{composed}.tif", np.zeros((1, 8, 8), np.uint8))
    two_folders(tmp_path, ["b"])
    for name in (composed, apart):
        assert names_of(tmp_path, {"val": [name]}) == {"train": ["b"], "val": [composed]}


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    two_folders(tmp_path, ["tile[4]", "tile4", "b"])
    assert names_of(tmp_path, {"val": ["tile[4]"]})["val"] == ["tile[4]"]
    assert names_of(tmp_path, {"val": ["tile[45]"]})["val"] == ["tile4"]
    assert names_of(tmp_path, {"val": ["images/tile[[]*"]})["val"] == ["tile[4]"]
    apart = unicodedata.normalize("NFD", "São")
    dataset = make_setup(compose(["dataset=synthetic"])).dataset
    dataset = replace(dataset, unlabelled={"tile[4]": ("mask/a",), "São": ("mask/b",), "tile*": ("mask/c",)})
    assert dataset.unlabelled_in(["tile[4]", "tile4", apart, "b"]) == {
        "tile[4]": ("mask/a", "mask/c"),
        "tile4": ("mask/c",),
        apart: ("mask/b",),
        "b": (),
    }


@pytest.mark.parametrize("pattern", ["{root}/lists/va*.txt", "lists/**.txt", "**/val.txt"])
def test_list_files_are_found_by_any_pattern(tmp_path, pattern):
    two_folders(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text("c\n")
    assert names_of(tmp_path, {"val": pattern.format(root=tmp_path)})["val"] == ["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\na,train\nb\n", r"list\.csv: the row 'b' has no cell that says its split: add it"),
        ('name,split\na,train\nb,"' + 140_000 * "x", r"list\.csv can't be read as a table \(.*\): is a quotation mark not"),
    ],
)
def test_tables_that_are_broken(tmp_path, text, message):
    two_folders(tmp_path, ("a", "b"))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        names_of(tmp_path, {"train": "list.csv", "val": "list.csv"})


def test_a_row_without_a_name_names_nothing(tmp_path):
    two_folders(tmp_path, ("a", "b"))
    (tmp_path / "list.csv").write_text("name,split\na,train\n# those that validate\n,val\nb,val\n")
    assert names_of(tmp_path, {"train": "list.csv", "val": "list.csv"}) == {"train": ["a"], "val": ["b"]}


def test_the_rest_trains_of_fractions_and_lists_as_of_patterns(tmp_path):
    two_folders(tmp_path)
    (tmp_path / "val.txt").write_text("c\n")
    assert names_of(tmp_path, {"val": "val.txt"}) == {"train": ["a", "b", "d"], "val": ["c"]}
    assert names_of(tmp_path, {"val": 0.25}) == names_of(tmp_path, {"train": 0.75, "val": 0.25})


@pytest.mark.parametrize("pattern", ["/data/{name}.tif", "~/masks/{name}.tif", "../masks/{name}.tif"])
def test_patterns_lead_nowhere_else(tmp_path, pattern):
    two_folders(tmp_path)
    with pytest.raises(InputError, match=r"leads out of dataset\.source\.root.*paths below it"):
        Files(str(tmp_path), "images/{name}.tif", pattern)


def test_scenes_whose_fields_join_to_one_name_have_two(tmp_path):
    for folder, name in (("x", "y-z"), ("x-y", "z"), ("q", "r")):
        for kind in ("images", "masks"):
            write_tif(tmp_path / kind / folder / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))
    source = Files(str(tmp_path), "images/{area}/{name}.*", "masks/{area}/{name}.*", {"val": ["x--y-z"]})
    assert [scene.name for scene in source.scenes("val")] == ["x--y-z"]
    assert [scene.name for scene in source.scenes("train")] == ["q--r", "x-y--z"]


def test_loops_pipes_and_names_that_are_no_text(tmp_path):
    two_folders(tmp_path, ["a", "b"])
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    os.mkfifo(tmp_path / "images" / "pipe.tif")
    source = Files(str(tmp_path), "images/**/{name}.*", "masks/{name}.*", {"val": ["a"]})
    assert [scene.name for scene in source.scenes("train")] == ["b"]
    os.rename(os.fsencode(tmp_path / "images/a.tif"), os.fsencode(tmp_path / "images") + b"/\xff.tif")
    with pytest.raises(InputError, match=r"udcff\.tif' is no text in UTF-8: rename the file"):
        Files(str(tmp_path), "images/{name}.*", "masks/{name}.*")
