"""Images that are not 8-bit RGB, upright and large enough: each conversion against pixels by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rank_increase.data import decoding
from rank_increase.data.packed import DatasetError

COLORS = np.array([[[250, 10, 20], [0, 90, 200]], [[30, 140, 50], [255, 255, 0]]], dtype=np.uint8)  # (2, 2, 3)
GRAY = np.array([[0, 40], [170, 255]], dtype=np.uint8)
WHITE = 255


def as_file(image, kind="png", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels, alpha):
    return np.dstack([pixels, np.array(alpha, dtype=np.uint8)])


def on_white(pixels, alpha):
    """What a viewer shows of pixels (..., channels) with an alpha of 0 to 255 on a white page."""
    share = np.array(alpha)[..., None] / 255
    return np.rint(pixels * share + WHITE * (1 - share)).astype(int)


def exif(orientation):
    data = Image.Exif()
    data[274] = orientation
    return data


def decoded(encoded, size=2):
    pixels, kinds = decoding._decode("an image", encoded, size)
    return pixels.tolist(), kinds


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bit_gray_is_scaled(kind):
    deep = np.array([[0, 255], [0x1234, 0xFFFF]], dtype=np.uint16)
    pixels, kinds = decoded(as_file(deep, kind))
    assert pixels == np.repeat(np.array([[0, 0], [0x12, 0xFF]])[..., None], 3, axis=2).tolist()
    assert kinds == ["deep", "gray"]


def png_of_16_bit_color(pixels):
    """A PNG with 16 bits per channel, which Pillow cannot write: header, filtered and compressed rows, end."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_16_bit_color_is_scaled_like_gray():
    assert decoded(png_of_16_bit_color(COLORS.astype(int) * 256 + 77)) == (COLORS.tolist(), ["deep"])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused_because_their_range_is_unknown(mode):
    with pytest.raises(DatasetError, match="an image is no readable image: its pixels are 32-bit .* of no known range"):
        decoded(as_file(Image.new(mode, (2, 2), 3), "tiff"))


def test_alpha_is_put_on_white():
    alpha = [[0, 255], [128, 51]]
    assert decoded(as_file(with_alpha(COLORS, alpha))) == (on_white(COLORS, alpha).tolist(), ["transparent"])
    gray = on_white(np.repeat(GRAY[..., None], 3, axis=2), alpha).tolist()
    assert decoded(as_file(with_alpha(GRAY, alpha))) == (gray, ["transparent", "gray"])
    keyed = np.where((COLORS[0, 0] == COLORS).all(axis=2, keepdims=True), WHITE, COLORS).tolist()
    assert decoded(as_file(COLORS, transparency=tuple(COLORS[0, 0].tolist()))) == (keyed, ["transparent"])


def test_palette_gives_its_colors_and_its_transparent_color_is_white():
    image = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8), "L").copy()
    image.putpalette(COLORS.reshape(-1).tolist())
    for kind in ("png", "gif"):
        assert decoded(as_file(image, kind)) == (COLORS.tolist(), ["palette"])
    on_page = COLORS.copy()
    on_page[1, 0] = WHITE
    for kind in ("png", "gif"):
        assert decoded(as_file(image, kind, transparency=2)) == (on_page.tolist(), ["transparent", "palette"])


def test_gray_gives_three_equal_channels():
    assert decoded(as_file(GRAY)) == (np.repeat(GRAY[..., None], 3, axis=2).tolist(), ["gray"])
    bits = np.repeat((GRAY > 100)[..., None] * 255, 3, axis=2).tolist()
    assert decoded(as_file(GRAY > 100)) == (bits, ["gray"])


def test_cmyk_is_converted():
    ink = Image.fromarray(with_alpha(255 - COLORS, np.zeros((2, 2))), "CMYK")
    assert decoded(as_file(ink, "tiff")) == (COLORS.tolist(), ["cmyk"])


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_first_frame_of_several_is_taken(kind):
    first, other = Image.fromarray(COLORS), Image.fromarray(255 - COLORS)
    options = {"lossless": True} if kind == "webp" else {}
    pixels, kinds = decoded(as_file(first, kind, save_all=True, append_images=[other], **options))
    assert pixels == COLORS.tolist()
    assert "frames" in kinds


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_sets_an_image_upright(kind, orientation):
    # As the EXIF standard says what row 0 and column 0 of the stored image are.
    upright = {
        1: COLORS,
        2: COLORS[:, ::-1],
        3: COLORS[::-1, ::-1],
        4: COLORS[::-1],
        5: COLORS.transpose(1, 0, 2),
        6: np.rot90(COLORS, -1),
        7: np.rot90(COLORS, 2).transpose(1, 0, 2),
        8: np.rot90(COLORS),
    }[orientation]
    options = {"lossless": True} if kind == "webp" else {}
    pixels, kinds = decoded(as_file(COLORS, kind, exif=exif(orientation), **options))
    assert pixels == upright.tolist()
    assert kinds == ["rotated"] * (orientation > 1)


def test_damaged_exif_is_no_reason_to_refuse_an_image():
    assert decoded(as_file(COLORS, exif=b"Exif\0\0MM\0*\0\0")) == (COLORS.tolist(), [])


def test_one_pixel_becomes_an_image_of_its_color():
    pixels, kinds = decoded(as_file(COLORS[:1, :1]), size=5)
    assert pixels == np.full((5, 5, 3), COLORS[0, 0]).tolist()
    assert kinds == ["small"]
