"""Every kind of picture file becomes the pixels a viewer shows, or a sentence that names it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.data.names import printable, some
from fl_sim.data.pictures import read_pictures
from tests.fl_sim.data.files import chunk, png16, png_header

RED, BLUE, WHITE, BLACK = [255, 0, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]


def read(path, size=None, mode="RGB"):
    """Return the pixels of one file, shape (H, W, C), and the notes."""
    pictures = read_pictures([path], size, mode)
    return pictures.images[0].permute(1, 2, 0), pictures.notes


def two(mode, left, right, **options):
    """Return a picture of two pixels, in a mode."""
    picture = Image.new(mode, (2, 1), left)
    picture.putpixel((1, 0), right)
    for name, value in options.items():
        picture.info[name] = value
    return picture


def palette(**options):
    picture = two("P", 0, 1, **options)
    picture.putpalette([*RED, *BLUE])
    return picture


MODES = {
    "colour.png": (two("RGB", (255, 0, 0), (0, 0, 255)), RED, BLUE),
    "grey.png": (two("L", 0, 255), BLACK, WHITE),
    "one_bit.png": (two("1", 0, 1), BLACK, WHITE),
    "one_bit.tif": (two("1", 0, 1), BLACK, WHITE),
    "one_bit.bmp": (two("1", 0, 1), BLACK, WHITE),
    "palette.png": (palette(), RED, BLUE),
    "palette.gif": (palette(), RED, BLUE),
    "palette_transparent.png": (palette(transparency=0), WHITE, BLUE),
    "palette_half.png": (palette(transparency=bytes([255, 0])), RED, WHITE),
    "palette_transparent.gif": (palette(transparency=1), RED, WHITE),
    "key.png": (two("RGB", (255, 0, 0), (0, 0, 255), transparency=(255, 0, 0)), WHITE, BLUE),
    "grey_key.png": (two("L", 0, 60, transparency=0), WHITE, [60] * 3),
    "rgba.png": (two("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), RED, WHITE),
    "half.png": (two("RGBA", (255, 0, 0, 51), (0, 0, 0, 255)), [255, 204, 204], BLACK),
    "rgba.tif": (two("RGBA", (255, 0, 0, 255), (0, 0, 255, 0)), RED, WHITE),
    "la.png": (two("LA", (0, 255), (0, 0)), BLACK, WHITE),
    "opaque.png": (two("RGBA", (255, 0, 0, 255), (0, 0, 255, 255)), RED, BLUE),
    "cmyk.tif": (two("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), RED, BLACK),
    "UPPER.PNG": (two("RGB", (255, 0, 0), (0, 0, 255)), RED, BLUE),
    "portable.ppm": (two("RGB", (255, 0, 0), (0, 0, 255)), RED, BLUE),
}
TRANSPARENT = {
    "palette_transparent.png", "palette_half.png", "palette_transparent.gif", "key.png",
    "grey_key.png", "rgba.png", "half.png", "rgba.tif", "la.png",
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_each_mode_shows_as_a_viewer_shows_it(tmp_path, name):
    picture, left, right = MODES[name]
    picture.save(tmp_path / name)
    pixels, notes = read(tmp_path / name)
    assert pixels[0].tolist() == [left, right]
    said = f"Put on white, where transparent: {name}." in notes
    assert said == (name in TRANSPARENT)
    grey, _ = read(tmp_path / name, mode="L")
    luma = [Image.new("RGB", (1, 1), tuple(c)).convert("L").getpixel((0, 0)) for c in (left, right)]
    assert grey[0, :, 0].tolist() == luma


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    pixels, _ = read(tmp_path / "c.jpg")
    assert (pixels.int() - torch.tensor(RED)).abs().max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_read_and_said(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"moving.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    pixels, notes = read(path)
    assert pixels[0, 0].tolist() == RED
    assert f"Read the first of several frames or pages of: moving.{suffix}." in notes


@pytest.mark.parametrize(("orientation", "corner"), [(1, 0), (3, 3), (6, 2), (8, 1), (2, 1)])
def test_pictures_stand_upright(tmp_path, orientation, corner):
    """The stored pixels are 0 1 / 2 3; which of them is shown in the upper left corner?"""
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8) * 60)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tif"):
        picture.save(tmp_path / f"turned.{suffix}", exif=exif)
        pixels, _ = read(tmp_path / f"turned.{suffix}")
        assert pixels[0, 0].tolist() == [corner * 60] * 3


@pytest.mark.parametrize(("orientation", "corner"), [(1, 0), (3, 240), (6, 160), (8, 80)])
def test_photographs_and_deep_colour_stand_upright(tmp_path, orientation, corner):
    blocks = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(blocks).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    raw = png16(blocks[..., None].repeat(3, axis=2))
    start = raw.index(b"IDAT") - 4
    raw = raw[:start] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + raw[start:]
    (tmp_path / "deep.png").write_bytes(raw)
    for name in ("photo.jpg", "deep.png"):
        pixels, _ = read(tmp_path / name)
        assert pixels[0, 0].tolist() == [corner] * 3


def test_cropping_keeps_the_middle_and_the_aspect(tmp_path):
    strip = np.zeros((10, 40), np.uint8)
    strip[:, 10:30] = 200
    Image.fromarray(strip).save(tmp_path / "strip.png")
    pixels, _ = read(tmp_path / "strip.png", size=(10, 10), mode="L")
    assert (pixels == 200).all()


def test_flat_pictures_are_said(tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "blank.png")
    MODES["colour.png"][0].resize((4, 4)).save(tmp_path / "fine.png")
    notes = read_pictures([tmp_path / "blank.png", tmp_path / "fine.png"], None).notes
    assert notes == ["Of one single colour as read: blank.png."]


def test_pictures_of_different_sizes_have_no_common_one(tmp_path):
    Image.new("L", (4, 5)).save(tmp_path / "a.png")
    Image.new("L", (6, 7)).save(tmp_path / "b.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    told = r"a.png has 5 x 4 pixels .*b.png 7 x 6: data.source.size"
    with pytest.raises(ValueError, match=told):
        read_pictures(paths, None)
    assert read_pictures(paths, (3, 3)).images.shape == (2, 3, 3, 3)
    assert read_pictures(paths[:1], None).images.shape == (1, 3, 5, 4)


def test_a_header_that_claims_too_much_is_one_sentence(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000) + chunk(b"IDAT", b"\0" * 100))
    with pytest.raises(ValueError, match=r"bomb.png claims more than 178,956,970 pixels") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("L", (40, 40), 7).save(tmp_path / "large.png")
    assert (read(tmp_path / "large.png", (2, 2))[0] == 7).all()


FORMATS = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}


def refusal(path):
    """Return what is said of a file that cannot be read, "" if it can; nothing else is raised."""
    try:
        read(path, (8, 8))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "jp2"])
def test_a_truncated_file_is_named_wherever_it_is_cut(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(256, size=(24, 24, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, FORMATS.get(suffix, suffix.upper()))
    whole, path = stream.getvalue(), tmp_path / f"cut.{suffix}"
    lengths = range(0, len(whole), max(1, len(whole) // 40))
    told = []
    for length in lengths:
        path.write_bytes(whole[:length])
        told.append(refusal(path))
    refused = [sentence for sentence in told if sentence]
    assert len(refused) >= len(lengths) / 2  # a cut behind the pixels leaves the picture whole
    assert all(s.startswith(f"{path} is not a readable picture: ") for s in refused)
    assert not any("\n" in sentence for sentence in refused)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp"])
def test_a_damaged_byte_is_read_or_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(256, size=(8, 8, 3)).astype(np.uint8)
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    told = []
    for _ in range(60):
        raw = bytearray(whole)
        raw[generator.integers(min(len(raw), 200))] = generator.integers(256)
        path.write_bytes(raw)
        told.append(refusal(path))
    assert any(told)
    assert all(f"damaged.{suffix} " in sentence for sentence in told if sentence)


def test_names_cannot_command_a_terminal(tmp_path):
    path = tmp_path / "\x1b[31mred\n.png"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\\x1b\[31mred\\n.png is not a readable") as error:
        read(path)
    assert "\x1b" not in str(error.value)
    assert printable("naïve <b>x</b> \udcff‮") == "naïve <b>x</b> \\udcff\\u202e"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some([f"{k}" for k in range(1500)]) == "0, 1, 2 and 1,497 more"
