import numpy as np
import pytest
from tiny import write_tif

from rsseg.contract import InputError
from rsseg.data.sources import Folder, Inria


def names(source, split):
    return [scene.name for scene in source.scenes(split)]


def touch(root, *paths):
    for path in paths:
        write_tif(root / path, np.ones((1, 4, 4), np.uint8))


def test_inria_splits_by_the_number_in_the_name_alone(inria_root):
    source = Inria(str(inria_root))
    assert names(source, "val") == ["austin1", "austin5", "west-tyrol-w1", "west-tyrol-w5"]
    assert names(source, "train") == ["austin36", "austin6", "west-tyrol-w36", "west-tyrol-w6"]
    assert all(scene.mask is None for scene in source.scenes("test"))
    assert names(Inria(str(inria_root / "AerialImageDataset")), "val") == names(source, "val")


def test_inria_faults(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        Inria(str(tmp_path / "nowhere"))
    (tmp_path / "NEW2-AerialImageDataset.zip").touch()
    with pytest.raises(InputError, match="extract the archive"):
        Inria(str(tmp_path))
    touch(tmp_path, "AerialImageDataset/train/images/austin1.tif", "AerialImageDataset/train/images/austin2.tif")
    with pytest.raises(InputError, match="in part"):
        Inria(str(tmp_path)).scenes("train")
    touch(tmp_path, "AerialImageDataset/train/gt/austin1.tif")
    with pytest.raises(InputError, match="no mask in gt, first austin2"):
        Inria(str(tmp_path)).scenes("train")


def test_folder_by_fraction_is_a_partition(folder_root):
    source = Folder(str(folder_root))
    parts = [names(source, split) for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == [f"tile{i}_a" for i in range(6)]
    assert [len(part) for part in parts] == [4, 1, 1]
    assert parts == [names(Folder(str(folder_root)), split) for split in ("train", "val", "test")]


def test_folder_by_prefix(folder_root):
    source = Folder(str(folder_root), split={"val": ["tile3_"], "test": ["tile4_", "tile5_"]})
    assert names(source, "val") == ["tile3_a"]
    assert names(source, "test") == ["tile4_a", "tile5_a"]
    assert names(source, "train") == ["tile0_a", "tile1_a", "tile2_a"]


def test_folder_by_list(folder_root, tmp_path):
    (tmp_path / "images").symlink_to(folder_root / "images")
    (tmp_path / "masks").symlink_to(folder_root / "masks")
    (tmp_path / "train.txt").write_text("tile1_a\ntile2_a.tif\n\n")
    (tmp_path / "val.txt").write_text("tile3_a\n")
    source = Folder(str(tmp_path), split={"train": "train.txt", "val": "val.txt"})
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
        ({"val": ["nothing_"]}, "starts with 'nothing_'"),
        ({"val": ["tile1_"], "test": ["tile1"]}, "in val and test"),
        ({"valid": 0.5}, "one or more of train, val, test"),
        ({"train": "missing.txt"}, "no file"),
        (0.3, "a mapping"),
    ],
)
def test_folder_bad_splits(folder_root, split, message):
    with pytest.raises(InputError, match=message):
        Folder(str(folder_root), split=split).scenes("train")


def test_folder_faults(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        Folder(str(tmp_path / "nowhere"))
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        Folder(str(tmp_path))
    touch(tmp_path, "images/a.tif", "images/b.tif", "masks/a.tif")
    with pytest.raises(InputError, match=r"1 of 2 images .* no mask .*: b"):
        Folder(str(tmp_path))
    touch(tmp_path, "masks/b.tif", "images/b.tiff")
    with pytest.raises(InputError, match="share a name"):
        Folder(str(tmp_path))
