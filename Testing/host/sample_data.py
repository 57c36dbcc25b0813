"""``import SampleData``: modules register their sample data and it is made or copied; nothing is downloaded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlparse

import slicer


class SampleDataSource:
    """A sample data set: files at ``file:`` addresses; its button calls `customDownloader`, if any, with this source."""

    def __init__(
        self, sampleName: str | None = None, sampleDescription: str | None = None, uris: Any = None, fileNames: Any = None,
        nodeNames: Any = None, checksums: Any = None, loadFiles: Any = None, customDownloader: Callable | None = None,
        thumbnailFileName: str | None = None, loadFileTypes: Any = None, loadFileProperties: dict | None = None,
        loadFileType: Any = None,
    ) -> None:  # fmt: skip
        if loadFileType is not None and loadFileTypes is not None:
            raise ValueError("loadFileType and loadFileTypes cannot be specified at the same time")
        several = isinstance(uris, list | tuple)
        count = len(uris) if several else 1
        kinds = loadFileTypes if loadFileTypes is not None else loadFileType
        self.sampleName = sampleName
        self.sampleDescription = sampleName if sampleDescription is None else sampleDescription
        self.uris = uris if several or uris is None else [uris]
        self.fileNames = fileNames if several or uris is None else [fileNames]
        self.nodeNames = listed(nodeNames, several, count)
        self.checksums = listed(checksums, several, count)
        self.loadFiles = listed(loadFiles, several, count)
        self.loadFileTypes = [kinds] * count if kinds is None or isinstance(kinds, str) else kinds
        self.loadFileProperties = loadFileProperties or {}
        self.customDownloader = customDownloader
        self.thumbnailFileName = thumbnailFileName
        fields = (self.uris, self.fileNames, self.nodeNames, self.checksums, self.loadFiles, self.loadFileTypes)
        if len({len(field) for field in fields}) != 1:
            raise ValueError("All fields of sample data source must have the same length")


def listed(value: Any, several: bool, count: int) -> Any:
    if value is None and several:
        return [None] * count
    return value if several else [value]


class SampleDataLogic:
    """Registers sources under categories, and downloads by the name of a sample."""

    titles: ClassVar[dict[str, str]] = {}

    def __init__(self, logMessage: Callable | None = None) -> None:
        self._log = logMessage or (lambda message, level=logging.INFO: logging.log(level, message))

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        SampleDataLogic.titles[category] = title

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom", sampleName: str | None = None, uris: Any = None, fileNames: Any = None,
        nodeNames: Any = None, customDownloader: Callable | None = None, thumbnailFileName: str | None = None,
        loadFileTypes: Any = None, loadFiles: Any = None, loadFileProperties: dict | None = None, checksums: Any = None,
        loadFileType: Any = None, sampleDescription: str | None = None,
    ) -> None:  # fmt: skip
        """Make a sample known; the parameters are those of `SampleDataSource`."""
        source = SampleDataSource(
            sampleName=sampleName, sampleDescription=sampleDescription, uris=uris, fileNames=fileNames,
            nodeNames=nodeNames, thumbnailFileName=thumbnailFileName, loadFileTypes=loadFileTypes, loadFiles=loadFiles,
            loadFileProperties=loadFileProperties, checksums=checksums, customDownloader=customDownloader,
            loadFileType=loadFileType,
        )  # fmt: skip
        slicer.modules.sampleDataSources.setdefault(category, []).append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category: str, sampleDataSource: SampleDataSource) -> bool:
        return any(
            vars(source) == vars(sampleDataSource) for source in slicer.modules.sampleDataSources.get(category, [])
        )

    @staticmethod
    def categoryTitle(category: str) -> str:
        return SampleDataLogic.titles.get(category, category)

    def logMessage(self, message: str, logLevel: int = logging.DEBUG) -> None:
        self._log(message, logLevel)

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        everything = (source for sources in slicer.modules.sampleDataSources.values() for source in sources)
        return next((source for source in everything if source.sampleName == sampleName), None)

    def downloadFromSource(
        self, source: SampleDataSource, maximumAttemptsCount: int = 3, forceDownload: bool = False
    ) -> Any:
        """Nodes (or file paths) of a source, its files loaded. As in Slicer its own downloader is not asked: a button does."""
        return [self._fetch(source, index) for index in range(len(source.uris))]

    def _fetch(self, source: SampleDataSource, index: int) -> Any:
        address = urlparse(source.uris[index])
        if address.scheme != "file":
            raise RuntimeError(f"The host downloads nothing, so {source.uris[index]} cannot be had; use Slicer for it.")
        path = Path(slicer.app.cachePath) / source.fileNames[index]
        shutil.copyfile(unquote(address.path), path)
        if source.loadFiles[index] is False:
            return str(path)
        node = slicer.util.loadNodeFromFile(str(path), source.loadFileTypes[index], dict(source.loadFileProperties))
        if node is not None and source.nodeNames[index]:
            node.SetName(source.nodeNames[index])
        return node

    def downloadSamples(self, sampleName: str) -> Any:
        source = self.sourceForSampleName(sampleName)
        if source is None:
            raise RuntimeError(f"No sample named {sampleName!r} is registered")
        return self.downloadFromSource(source)

    def downloadSample(self, sampleName: str) -> Any:
        nodes = self.downloadSamples(sampleName)
        return nodes[0] if isinstance(nodes, list | tuple) else nodes


def downloadSample(sampleName: str) -> Any:
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName: str) -> Any:
    return SampleDataLogic().downloadSamples(sampleName)
