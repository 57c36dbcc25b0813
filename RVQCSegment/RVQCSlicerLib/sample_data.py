"""Two phantom studies in Slicer's Sample Data module, made on the spot: one sound, one spoilt by noise and ghosting.

Its buttons make them. `SampleData.downloadSample` cannot: it asks no `customDownloader`; in the console call `sound` or `spoilt`.
"""

from __future__ import annotations

from collections.abc import Callable

import slicer

from RVQCSlicerLib.loading import Loaded, add_study

CATEGORY = "RVQC"


def register(thumbnail: str) -> None:
    """Name the studies to the Sample Data module, where the application has one."""
    try:
        import SampleData
    except ImportError:
        return
    for name, made in (("RVQC phantom, sound", sound), ("RVQC phantom, spoilt", spoilt)):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY, sampleName=name, uris="", fileNames="", nodeNames="", thumbnailFileName=thumbnail,
            customDownloader=_downloader(made),
        )  # fmt: skip


def _downloader(made: Callable[[], Loaded]) -> Callable[..., list[slicer.vtkMRMLNode]]:
    def download(source: object = None) -> list[slicer.vtkMRMLNode]:
        volumes = list(made().volumes.values())
        slicer.util.setSliceViewerLayers(background=volumes[0], fit=True, rotateToVolumePlane=True)
        return volumes

    return download


def sound() -> Loaded:
    """A synthetic heart as a scanner gives it, SA and LA at ED and ES."""
    return _add(0)


def spoilt() -> Loaded:
    """The same heart as a failing scan spoils it."""
    return _add(1)


def _add(which: int) -> Loaded:
    from RVQCLib.samples import sample_studies

    return add_study(sample_studies(("SA", "LA"))[which], "a phantom")
