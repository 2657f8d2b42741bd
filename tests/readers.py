"""What a scene's reader says of a window, put together plainly: what the store is held to."""

import numpy as np
from rasterio.windows import Window

from rsseg.contract import IGNORE


def read_labels(reader, window):
    """The mask, ignored where the image has no data."""
    return np.where(reader.read_pixels(window)[1], np.uint8(IGNORE), reader.read_mask(window))


def read_window(reader, top, left, size):
    """A square window of image and mask; the mask is ignored where there is no image."""
    image, missing = reader.read_image(top, left, size)
    height, width = reader.size
    mask = reader.read_mask(Window(left, top, min(size, width - left), min(size, height - top)))
    whole = np.full((*mask.shape[:-2], size, size), IGNORE, np.uint8)
    whole[..., : mask.shape[-2], : mask.shape[-1]] = mask
    return image, np.where(missing, np.uint8(IGNORE), whole)
