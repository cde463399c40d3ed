"""Small files that no library at hand writes: PNG of 16 bits a channel, DICOM, false headers."""

import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for grey, grey with opacity, colour, colour with opacity."""


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png_header(width, height, bits=8, colour_type=2):
    fields = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields)


def png16(array, transparent=None):
    """Return a PNG of 16 bits a channel, of an array of shape (H, W, C)."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    head = png_header(width, height, 16, COLOUR_TYPES[channels])
    return head + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_dicom(path, stored, meaning="MONOCHROME2", bits=None, **fields):
    """Write an uncompressed DICOM file; extra keywords are DICOM's own."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    colour = stored.ndim == 3 and stored.shape[-1] == 3
    data.Rows, data.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    if stored.ndim == 3 and not colour:
        data.NumberOfFrames = len(stored)
    data.PhotometricInterpretation = meaning
    data.BitsAllocated = 8 * stored.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    for name, value in fields.items():
        setattr(data, name, value)
    raw = stored.tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OW" if stored.itemsize == 2 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
