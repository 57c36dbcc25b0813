"""NIfTI files read and written byte for byte.

ITK stays out of the way here for three reasons, each tried with SimpleITK 2.5: it reads a truncated or damaged
``.nii.gz`` without a word (the missing voxels are garbage), it refuses an affine that is not quite orthonormal, and
what it writes has not the affine of what it read wherever sform and pixdim disagree, as in every ACDC file.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from RVQCLib.files import RVQCError, whole_file
from RVQCLib.stack import Geometry

_V1 = {
    "sizeof_hdr": (0, "i4"), "dim": (40, "8i2"), "intent_code": (68, "i2"), "datatype": (70, "i2"),
    "bitpix": (72, "i2"), "pixdim": (76, "8f4"), "vox_offset": (108, "f4"), "scl_slope": (112, "f4"),
    "scl_inter": (116, "f4"), "xyzt_units": (123, "u1"), "cal_max": (124, "f4"), "cal_min": (128, "f4"),
    "descrip": (148, "S80"), "aux_file": (228, "S24"), "qform_code": (252, "i2"), "sform_code": (254, "i2"),
    "quatern": (256, "3f4"), "qoffset": (268, "3f4"), "srow": (280, "(3,4)f4"), "intent_name": (328, "S16"),
    "magic": (344, "S4"),
}  # fmt: skip
_V2 = {
    "sizeof_hdr": (0, "i4"), "magic": (4, "S8"), "datatype": (12, "i2"), "bitpix": (14, "i2"), "dim": (16, "8i8"),
    "pixdim": (104, "8f8"), "vox_offset": (168, "i8"), "scl_slope": (176, "f8"), "scl_inter": (184, "f8"),
    "cal_max": (192, "f8"), "cal_min": (200, "f8"), "descrip": (240, "S80"), "aux_file": (320, "S24"),
    "qform_code": (344, "i4"), "sform_code": (348, "i4"), "quatern": (352, "3f8"), "qoffset": (376, "3f8"),
    "srow": (400, "(3,4)f8"), "xyzt_units": (500, "i4"), "intent_code": (504, "i4"), "intent_name": (508, "S16"),
}  # fmt: skip
_PIXELS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_LPS_RAS = np.diag([-1.0, -1.0, 1.0])
_DAMAGED = "is truncated or damaged; copy or export it again."


def _layout(fields: dict[str, tuple[int, str]], size: int) -> np.dtype:
    offsets, formats = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": size})


_HEADERS = {348: _layout(_V1, 348), 540: _layout(_V2, 540)}


def read_nifti(path: str | os.PathLike) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI-1 or NIfTI-2 file of one number a pixel.

    Returns
    -------
    pixels : (slices, rows, columns), or (frames, slices, rows, columns), in the file's type, scaled where it says so.
    geometry : with the file's header. The sform counts where it is invertible, else the qform; the spacing is pixdim
        (`_spacing`). A two-dimensional file is one slice, as thick as pixdim says, else as its pixels are wide.

    Raises
    ------
    RVQCError
        Truncated, damaged, not NIfTI, one row of pixels, several values a pixel, or no positive spacing.
    """
    content = _content(path)
    header = _parse(content, path)
    shape = nifti_shape(header, path)
    kind = _PIXELS.get(int(header["datatype"]))
    if kind is None:
        raise RVQCError(f"{path} holds colours or several values a pixel; give a greyscale image or a label map.")
    count = int(np.prod(shape))
    start = int(header["vox_offset"]) if np.isfinite(header["vox_offset"]) else 0  # which is refused below
    dtype = np.dtype(kind).newbyteorder(header.dtype["dim"].base.byteorder)
    if start < header.dtype.itemsize or len(content) < start + count * dtype.itemsize:
        raise RVQCError(f"{path} {_DAMAGED}")
    pixels = np.frombuffer(content, dtype, count, start).reshape(shape)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite([slope, inter]).all() and slope != 0 and (slope, inter) != (1.0, 0.0):
        pixels = pixels * slope + inter
    return pixels, _geometry(header, path)


def read_nifti_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """The shape that `read_nifti` would give, from the header alone."""
    return nifti_shape(_parse(_content(path, 540), path), path)


def nifti_shape(header: np.ndarray, path: str | os.PathLike) -> tuple[int, ...]:
    """([frames,] slices, rows, columns) of a header; trailing dimensions of length one do not count."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7 or min(header["dim"][1 : count + 1]) < 1:
        raise RVQCError(f"{path} {_DAMAGED}")
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if len(sizes) < 2:
        raise RVQCError(f"{path} is a single row of pixels; give an image.")
    if len(sizes) == 2:
        sizes.append(1)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 4:
        raise RVQCError(f"{path} holds colours or several values a pixel; give a greyscale image or a label map.")
    return tuple(reversed(sizes))


def write_nifti(labels: np.ndarray, geometry: Geometry, path: str | os.PathLike) -> None:
    """Write uint8 labels (slices, rows, columns), whole; the header is the input's own where it was NIfTI.

    Else sform and qform say the same. Where the direction is not orthonormal the sform is exact and the qform is the
    nearest rotation, so that readers without shear (ITK) still open the file.
    """
    header = _reuse(geometry.nifti_header, labels.shape)
    header = _fresh(geometry, labels.shape) if header is None else header
    for name, value in (("datatype", 2), ("bitpix", 8), ("scl_slope", 1), ("scl_inter", 0), ("cal_max", 0),
                        ("cal_min", 0), ("intent_code", 0), ("intent_name", b""), ("descrip", b"RVQC"),
                        ("aux_file", b""), ("vox_offset", header.dtype.itemsize + 4)):  # fmt: skip
        header[name] = value
    content = header.tobytes() + bytes(4) + np.ascontiguousarray(labels, np.uint8).tobytes()
    if str(path).lower().endswith(".gz"):
        content = gzip.compress(content, 6, mtime=0)
    with whole_file(path) as part:
        part.write_bytes(content)


def _content(path: str | os.PathLike, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as stream:
            compressed = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            if not compressed:
                return stream.read(most)
            # In one piece it is a third faster, and the checksum at the end is looked at.
            return gzip.decompress(stream.read()) if most < 0 else gzip.GzipFile(fileobj=stream).read(most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RVQCError(f"{path} {_DAMAGED}") from error


def _parse(content: bytes, path: str | os.PathLike) -> np.ndarray:
    for order in "<>":
        layout = _HEADERS.get(int(np.frombuffer(content[:4].ljust(4, b"\0"), f"{order}i4")[0]))
        if layout is None:
            continue
        if len(content) < layout.itemsize:
            raise RVQCError(f"{path} {_DAMAGED}")
        # A view on bytes of its own: what no field names is kept too.
        header = np.frombuffer(bytearray(content[: layout.itemsize]), layout.newbyteorder(order)).reshape(())
        if bytes(header["magic"]).startswith(b"n+"):
            return header
    raise RVQCError(f"{path} is not a NIfTI file, whatever its name says; give an image that a viewer opens.")


def _geometry(header: np.ndarray, path: str | os.PathLike) -> Geometry:
    columns, lengths, origin = _columns(header)
    flat, unit = header["dim"][0] == 2, _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    spacing = _spacing(header["pixdim"][1:4].astype(np.float64), lengths) * unit
    if flat and spacing[2] == 0:
        spacing[2] = spacing[0]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        values = " x ".join(f"{value:g}" for value in spacing)
        raise RVQCError(f"{path} has the spacing {values} mm, which must be positive; correct its header (pixdim).")
    if columns is None:
        raise RVQCError(f"{path} has an orientation that does not span space; correct its header (sform or qform).")
    origin = origin * unit
    return Geometry(tuple(origin), tuple(spacing), tuple(columns.ravel()), b"" if flat else header.tobytes())


def _spacing(pixdim: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """pixdim without its sign or, where it says nothing, the lengths of the sform's columns.

    Writers leave 0 or 1 x 1 x 1 where they put the spacing into the sform alone; a single 0 is made good only where the
    others agree with the sform, which in ACDC is of unit length whatever the spacing is.
    """
    spacing = np.abs(pixdim)
    if lengths is None:
        return spacing
    told = (spacing != 0) & (spacing != 1).any()
    return np.where(told, spacing, lengths) if np.allclose(spacing[told], lengths[told], rtol=0.01) else spacing


def _columns(header: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Unit columns (LPS) in which the three indices grow, their lengths in the sform, and the origin (LPS).

    The columns are None where the header has none, the lengths where they are not of the sform.
    """
    if header["sform_code"] > 0:
        rows = header["srow"].astype(np.float64)
        lengths = np.linalg.norm(rows[:, :3], axis=0)
        if np.isfinite(rows).all() and lengths.min() > 0:
            columns = rows[:, :3] / lengths
            if abs(np.linalg.det(columns)) > 1e-3:
                return _LPS_RAS @ columns, lengths, _LPS_RAS @ rows[:, 3]
    if header["qform_code"] > 0:
        values = np.concatenate([header["quatern"], header["qoffset"]]).astype(np.float64)
        turn = _rotation(values[:3]) * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
        if np.isfinite(values).all():
            return _LPS_RAS @ turn, None, _LPS_RAS @ values[3:]
        return None, None, values
    return (np.eye(3) if header["sform_code"] <= 0 else None), None, np.zeros(3)


def _rotation(bcd: np.ndarray) -> np.ndarray:
    """Rotation matrix of the unit quaternion (a, b, c, d) whose a >= 0 is left out (nifti1.h, method 2)."""
    b, c, d = bcd / max(1.0, float(np.linalg.norm(bcd)))
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    return np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip


def _quaternion(turn: np.ndarray) -> np.ndarray:
    """(b, c, d) of a rotation matrix: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix, a >= 0."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    matrix = np.array([
        [xx + yy + zz, zy - yz, xz - zx, yx - xy],
        [zy - yz, xx - yy - zz, xy + yx, xz + zx],
        [xz - zx, xy + yx, yy - xx - zz, yz + zy],
        [yx - xy, xz + zx, yz + zy, zz - xx - yy],
    ])  # fmt: skip
    quaternion = np.linalg.eigh(matrix)[1][:, -1]
    return quaternion[1:] * (1.0 if quaternion[0] >= 0 else -1.0)


def _reuse(raw: bytes, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The input's header for one frame of labels; None where there is none or it is of another grid."""
    if not raw:
        return None
    header = _parse(raw, "header")
    if tuple(header["dim"][3:0:-1]) != shape:
        return None
    header["dim"][0], header["dim"][4:] = 3, 1
    return header


def _fresh(geometry: Geometry, shape: tuple[int, int, int]) -> np.ndarray:
    header = np.zeros((), _HEADERS[348].newbyteorder("<"))
    columns = _LPS_RAS @ np.reshape(geometry.direction, (3, 3))
    origin = _LPS_RAS @ np.asarray(geometry.origin)
    left, _, right = np.linalg.svd(columns)
    turn, hand = left @ right, 1.0
    if np.linalg.det(turn) < 0:
        turn, hand = turn * [1, 1, -1], -1.0
    header["sizeof_hdr"], header["magic"], header["xyzt_units"] = 348, b"n+1", 2
    header["dim"] = (3, *reversed(shape), 1, 1, 1, 1)
    header["pixdim"] = (hand, *geometry.spacing, 1, 1, 1, 1)
    header["qform_code"] = header["sform_code"] = 1
    header["quatern"], header["qoffset"] = _quaternion(turn), origin
    header["srow"] = np.column_stack([columns * geometry.spacing, origin])
    return header


def is_nifti(path: str | os.PathLike) -> bool:
    """Whether the name says NIfTI."""
    return Path(path).name.lower().endswith((".nii", ".nii.gz"))
