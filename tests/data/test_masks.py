"""Masks as programs write them: palettes, transparency, several bands, white as 0, JPEG: against Pillow and arithmetic."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window
from tiny import make_scene, write_tif

from rsseg.contract import IGNORE, InputError
from rsseg.data.labels import Labels, Values
from rsseg.data.scene import Scene, SceneReader
from rsseg.task import Binary, Multiclass, Multilabel, Regression

N = 32
BUILDING = Binary(("building",))
TWO = Multiclass(("land", "water"))
COLOURS = Labels(TWO, ["#000000", "#ff0000"])
WHOLE = Window(0, 0, N, N)
TRUTH = np.zeros((N, N), np.uint8)
TRUTH[:, : N // 4] = 1


def read(tmp_path, name, mask_reader, pixels=None, threshold=None, image=None, **options):
    """The target of a mask: what Pillow writes of an image, or rasterio of pixels."""
    picture = tmp_path / "image.tif"
    if not picture.is_file():
        write_tif(picture, np.ones((1, N, N), np.uint8))
    path = tmp_path / name
    if image is not None:
        image.save(path, **options)
    elif pixels is not None:
        write_tif(path, pixels, **options)
    reader = SceneReader(make_scene("a", picture, path, settings={"threshold": threshold}), [mask_reader], [1])
    return reader.read_mask(WHOLE)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_transparent_background_has_the_label_that_its_value_says(tmp_path, mode):
    """White buildings on nothing, as drawing programs export them."""
    white = TRUTH * 255
    bands = [white] * (len(mode) - 1) + [white]
    picture = Image.merge(mode, [Image.fromarray(band) for band in bands])
    assert (read(tmp_path, "m.png", Labels(BUILDING, [0, 255]), image=picture) == TRUTH).all()
    assert (read(tmp_path, "c.png", Labels(BUILDING, ["#000000", "#ffffff"]), image=picture) == TRUTH).all()


def test_transparent_pixels_of_no_known_value_are_ignored(tmp_path):
    grey = np.where(TRUTH == 1, 1, 77).astype(np.uint8)
    picture = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(TRUTH * 255)])
    assert (read(tmp_path, "m.png", Labels(BUILDING), image=picture) == np.where(TRUTH == 1, 1, IGNORE)).all()


def test_a_palette_holds_the_colours(tmp_path):
    numbers = np.where(TRUTH == 1, 5, 2).astype(np.uint8)
    picture = Image.fromarray(numbers).convert("P")
    colours = np.zeros((256, 3), np.uint8)
    colours[5] = [255, 0, 0]
    picture.putpalette(colours.ravel().tolist())
    assert (np.asarray(picture.convert("RGB"))[..., 0] == 255 * TRUTH).all()
    assert (read(tmp_path, "m.png", COLOURS, image=picture) == TRUTH).all()
    assert (read(tmp_path, "n.png", Labels(TWO, [2, 5]), image=picture) == TRUTH).all()  # numbers are values, too


def test_colours_may_be_grey_or_in_bands(tmp_path):
    black = Labels(TWO, ["#000000", "#ffffff"])
    assert (read(tmp_path, "grey.png", black, image=Image.fromarray(TRUTH * 255)) == TRUTH).all()
    assert (read(tmp_path, "rgb.png", black, image=Image.fromarray(TRUTH * 255).convert("RGB")) == TRUTH).all()


def test_colours_of_16_bits_are_refused(tmp_path):
    pixels = np.stack([TRUTH, TRUTH * 0, TRUTH * 0]).astype(np.uint16)
    with pytest.raises(InputError, match=r"m\.tif: the mask holds colours of 16 bits, up to 65535: write them with 8"):
        read(tmp_path, "m.tif", COLOURS, pixels * 65535)
    assert (read(tmp_path, "n.tif", COLOURS, pixels * 255) == TRUTH).all()


@pytest.mark.parametrize("name", ["m.png", "m.tif", "w.tif"])
def test_one_bit_may_be_colours(tmp_path, name):
    """As a drawing of 1 bit is seen: black and white, whatever 0 stands for in the file."""
    black = Labels(TWO, ["#000000", "#ffffff"])
    if name == "m.png":
        target = read(tmp_path, name, black, image=Image.fromarray(TRUTH * 255).convert("1"))
    else:
        raw, photometric = (1 - TRUTH, "MINISWHITE") if name == "w.tif" else (TRUTH, "MINISBLACK")
        target = read(tmp_path, name, black, raw[None], nbits=1, photometric=photometric)
    assert (np.asarray(Image.open(tmp_path / name).convert("L")) == 255 * TRUTH).all()
    assert (target == TRUTH).all()


def test_bands_that_are_equal_are_one_and_others_are_refused(tmp_path):
    same = np.stack([TRUTH] * 3)
    assert (read(tmp_path, "m.tif", Labels(TWO), same) == TRUTH).all()
    with pytest.raises(InputError, match=r"h\.tif: its 2 bands differ, but one band is expected: colours are .*multilabel"):
        read(tmp_path, "h.tif", Labels(TWO), np.stack([1 - TRUTH, TRUTH]))
    heights = Regression(("height",))
    with pytest.raises(InputError, match=r"its 2 bands differ.*gdal_translate -b 1 keeps the first"):
        read(tmp_path, "v.tif", Values(heights), np.stack([TRUTH, 1 - TRUTH]).astype(np.float32))
    nan = np.full((2, N, N), np.nan, np.float32)
    assert np.isnan(read(tmp_path, "w.tif", Values(heights), nan)).all()


def test_bands_without_a_meaning_are_refused(tmp_path):
    with pytest.raises(InputError, match="has 3 bands, but a multilabel task needs 2: land, water"):
        read(tmp_path, "m.tif", Labels(Multilabel(("land", "water"))), np.stack([TRUTH] * 3))
    with pytest.raises(InputError, match="has 5 bands, but colours need 3"):
        read(tmp_path, "c.tif", COLOURS, np.stack([TRUTH] * 5))


@pytest.mark.parametrize("bits", [1, 8])
def test_white_may_be_zero(tmp_path, bits):
    """Pillow shows the same pixels white that are the class."""
    one = 2**bits - 1
    raw = np.where(TRUTH == 1, 0, one).astype(np.uint8)
    target = read(tmp_path, "m.tif", Labels(TWO, [0, one]), raw[None], nbits=bits, photometric="MINISWHITE")
    seen = np.asarray(Image.open(tmp_path / "m.tif").convert("L"))
    assert (target == (seen == 255)).all()
    assert (target == TRUTH).all()


def test_images_are_read_as_they_are_seen(tmp_path):
    """A palette's colours are three bands; white as 0 is turned."""
    numbers = np.random.default_rng(0).integers(0, 4, (N, N), dtype=np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    path = write_tif(tmp_path / "p.tif", numbers[None], photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {number: (*colour.tolist(), 255) for number, colour in enumerate(colours)})
    scene = Scene("a", path)
    assert list(scene.named_bands()) == [1, 2, 3]
    pixels, _ = SceneReader(scene, [Labels(TWO)], [3, 1]).read_pixels(WHOLE)
    assert (pixels == colours[numbers][..., [2, 0]].transpose(2, 0, 1)).all()
    white = write_tif(tmp_path / "w.tif", numbers[None], photometric="MINISWHITE")
    pixels, _ = SceneReader(Scene("b", white), [Labels(TWO)], [1]).read_pixels(WHOLE)
    assert (pixels[0] == 255 - numbers).all()
    elsewhere = write_tif(tmp_path / "grid.tif", numbers[None], transform=from_origin(500001, 4000000, 0.5, 0.5))
    with pytest.raises(InputError, match=r"p\.tif holds the numbers of colours in a palette.*gdal_translate -expand rgb"):
        SceneReader(Scene("a", elsewhere, stack=(path,)), [Labels(TWO)], [1, 2])


def test_ranges_and_a_threshold_divide_grey_masks(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (N, N), dtype=np.uint8)
    expected = (grey > 127).astype(np.uint8)
    assert (read(tmp_path, "m.png", Labels(BUILDING, ["0-127", "128-255"]), image=Image.fromarray(grey)) == expected).all()
    assert (read(tmp_path, "m.png", Labels(BUILDING), threshold=127) == expected).all()
    real = grey.astype(np.float32) / 255
    real[0] = np.nan
    target = read(tmp_path, "f.tif", Labels(BUILDING), real[None], threshold=0.5)
    assert (target[1:] == (real[1:] > 0.5)).all()
    assert (target[0] == IGNORE).all()


@pytest.mark.parametrize(("nodata", "dtype"), [(-9999, "float32"), (255, "uint8")])
def test_no_data_is_on_no_side_of_a_threshold(tmp_path, nodata, dtype):
    pixels = np.array([[[nodata, 0], [1, nodata]]], dtype)
    target = read(tmp_path, "n.tif", Labels(BUILDING), pixels, threshold=0.5, nodata=nodata)
    assert target[:2, :2].tolist() == [[IGNORE, 0], [1, IGNORE]]
    black = read(tmp_path, "b.tif", Labels(BUILDING), np.array([[[0, 0], [1, 1]]], dtype), threshold=0.5, nodata=0)
    assert black[:2, :2].tolist() == [[0, 0], [1, 1]]  # the background of most masks


def test_ranges_that_cannot_be():
    for value in ("9-3", "0-99999"):
        with pytest.raises(InputError, match=f"range '{value}': the lower end comes first"):
            Labels(BUILDING, [value, 1])
    with pytest.raises(InputError, match=r"mask_values=\['0-4', 7\] and dataset\.ignore_values=\[255\]"):
        Labels(BUILDING, ["0-4", 7], [255]).decode(np.array([[[9]]], np.uint8))


def test_colours_of_lossy_masks_are_near(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    picture = Image.fromarray(colours[TRUTH])
    with pytest.raises(InputError, match="is neither a label nor ignored"):
        read(tmp_path, "m.jpg", COLOURS, image=picture, quality=60)
    near = Labels(TWO, ["#000000", "#ff0000"], tolerance=60)
    lossy = np.asarray(Image.open(tmp_path / "m.jpg")).astype(int)
    apart = abs(lossy[:, :, None] - colours.astype(int))
    known = apart.max(-1).min(-1) <= 60
    assert known.mean() > 0.9
    expected = (apart**2).sum(-1).argmin(-1)
    decoded = near.decode(lossy.transpose(2, 0, 1), ~known)
    assert (decoded == np.where(known, expected, IGNORE)).all()
    noisy = np.clip(colours[TRUTH] + np.random.default_rng(1).integers(-30, 31, (*TRUTH.shape, 3)), 0, 255)
    farthest = abs(noisy[:, :, None] - colours.astype(int)).max(-1).min(-1).max()
    with pytest.raises(InputError, match=f"is {farthest} from the nearest listed colour"):
        Labels(TWO, ["#000000", "#ff0000"], tolerance=5).decode(noisy.transpose(2, 0, 1), np.zeros_like(known))
    with pytest.raises(InputError, match=r"dataset\.colour_tolerance=5: the masks hold integers"):
        Labels(TWO, tolerance=5)


def test_nan_is_not_labelled(tmp_path):
    values = TRUTH.astype(np.float32)
    values[5] = np.nan
    expected = np.where(np.isnan(values), IGNORE, TRUTH)
    for ignore in ((), (float("nan"),)):
        assert (read(tmp_path, "m.tif", Labels(TWO, None, ignore), values[None]) == expected).all()


def test_colours_have_no_threshold(tmp_path):
    with pytest.raises(
        InputError, match=r"m\.png: dataset\.source\.threshold=127 is for grey masks; dataset\.mask_values lists"
    ):
        read(tmp_path, "m.png", Labels(BUILDING, ["#000000", "#ff0000"]), threshold=127, image=Image.new("RGB", (N, N)))
