"""Stand-ins for the CTK widgets that scripted modules use: same properties, same signals, plain looks."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from PySide6.QtCore import Property, QDir, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QMessageBox,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)

from . import dialogs, pythonqt

HEADER = 24
MOST_HEIGHT = 16777215  # QWIDGETSIZE_MAX


class ctkCollapsibleButton(QAbstractButton):
    """A header that shows and hides what is laid out below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(arguments[-1] if arguments and isinstance(arguments[-1], QWidget) else None)
        self._hidden: list[QWidget] = []
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, HEADER, 0, 0)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.toggled.connect(self._show)

    def _collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _collapsed, _set_collapsed, notify=contentsCollapsed)

    def _show(self, opened: bool) -> None:
        if opened:
            widgets, self._hidden = self._hidden, []
        else:
            widgets = [w for w in self.children() if isinstance(w, QWidget) and not w.isHidden()]
            self._hidden = widgets
        for widget in widgets:
            widget.setVisible(opened)
        self.setMaximumHeight(MOST_HEIGHT if opened else HEADER)
        self.contentsCollapsed.emit(not opened)

    def hitButton(self, position: QPoint) -> bool:
        return position.y() < HEADER

    def sizeHint(self) -> Any:
        hint = self.layout().sizeHint() if self.layout() else super().sizeHint()
        hint.setHeight(max(hint.height(), HEADER))
        return hint

    def minimumSizeHint(self) -> Any:
        hint = self.layout().minimumSize() if self.layout() else super().minimumSizeHint()
        hint.setHeight(max(hint.height(), HEADER) if self.isChecked() else HEADER)
        return hint

    def paintEvent(self, event: Any) -> None:
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect = QRect(0, 0, self.geometry.width(), HEADER - 2)
        option.state |= QStyle.StateFlag.State_Raised
        painter = QPainter(self)
        self.style().drawControl(QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = QStyle.PrimitiveElement
        option.rect = QRect(6, 6, 10, 10)
        shown = arrow.PE_IndicatorArrowDown if self.isChecked() else arrow.PE_IndicatorArrowRight
        self.style().drawPrimitive(shown, option, painter, self)
        where = QRect(24, 0, self.geometry.width() - 24, HEADER - 2)
        painter.drawText(
            where, Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextShowMnemonic, QAbstractButton.text(self)
        )
        painter.end()


class ctkCollapsibleGroupBox(ctkCollapsibleButton):
    """CTK's has a ``title`` where the button has a ``text``."""

    title = Property(str, lambda self: QAbstractButton.text(self), lambda self, value: self.setText(value))


class ctkSliderWidget(QWidget):
    """A slider and a spin box of one value."""

    valueChanged = Signal(float)
    SIGNATURES: ClassVar = {"valueChanged(double)": "valueChanged"}

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._spin = QSlider(Qt.Orientation.Horizontal), QDoubleSpinBox()
        self._spin.setRange(0, 99)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._moved)
        self._slider.valueChanged.connect(self._slid)
        self._fit()

    def _fit(self) -> None:
        step = self._spin.singleStep or 1.0
        self._slider.blockSignals(True)
        self._slider.setRange(0, round((self._spin.maximum - self._spin.minimum) / step))
        self._slider.setValue(round((self._spin.value - self._spin.minimum) / step))
        self._slider.blockSignals(False)

    def _moved(self, value: float) -> None:
        self._fit()
        self.valueChanged.emit(value)

    def _slid(self, steps: int) -> None:
        self._spin.setValue(self._spin.minimum + steps * self._spin.singleStep)

    def _set(self, name: str, value: Any) -> None:
        pythonqt.write_property(self._spin, name, value)
        self._fit()

    def setValue(self, value: float) -> None:
        self._spin.setValue(value)

    def setRange(self, low: float, high: float) -> None:
        self._spin.setRange(low, high)
        self._fit()

    value = Property(float, lambda self: self._spin.value, setValue, notify=valueChanged)
    minimum = Property(float, lambda self: self._spin.minimum, lambda self, v: self._set("minimum", v))
    maximum = Property(float, lambda self: self._spin.maximum, lambda self, v: self._set("maximum", v))
    singleStep = Property(float, lambda self: self._spin.singleStep, lambda self, v: self._set("singleStep", v))
    pageStep = Property(float, lambda self: self._spin.singleStep, lambda self, v: None)
    decimals = Property(int, lambda self: self._spin.decimals, lambda self, v: self._set("decimals", v))
    suffix = Property(str, lambda self: self._spin.suffix, lambda self, v: self._set("suffix", v))
    prefix = Property(str, lambda self: self._spin.prefix, lambda self, v: self._set("prefix", v))
    tracking = Property(bool, lambda self: self._slider.tracking, lambda self, v: self._slider.setTracking(v))


class ctkPathLineEdit(QWidget):
    """A line for a path with a button that opens the dialog that fits its filters.

    An empty line counts as not valid: `currentPathChanged` is silent about it, as CTK's, and only `validInputChanged` tells.
    """

    Dirs, Drives, Files, Readable = 0x001, 0x004, 0x002, 0x010
    Writable, Executable, NoDot, NoDotDot = 0x020, 0x040, 0x2000, 0x4000
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._filters, self._names, self._label, self._key, self._valid = self.Files, [], "", "", False
        self._line, self._browse = QLineEdit(), QToolButton()
        self._browse.setText("…")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line, 1)
        layout.addWidget(self._browse)
        self._line.textChanged.connect(self._changed)
        self._browse.clicked.connect(self.browse)

    def _changed(self, path: str) -> None:
        was, self._valid = self._valid, bool(path)
        if self._valid != was:
            self.validInputChanged.emit(self._valid)
        if self._valid:
            self.currentPathChanged.emit(path)

    def browse(self) -> None:
        """Ask for a file or a folder and take it over unless the person cancelled."""
        if self._filters & self.Dirs and not self._filters & self.Files:
            path = dialogs.QFileDialog.getExistingDirectory(self, self._label, self.currentPath)
        elif self._filters & self.Writable:
            path = dialogs.QFileDialog.getSaveFileName(self, self._label, self.currentPath, ";;".join(self._names))
        else:
            path = dialogs.QFileDialog.getOpenFileName(self, self._label, self.currentPath, ";;".join(self._names))
        if path:
            self.setCurrentPath(path)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(QDir.fromNativeSeparators(path))

    def addCurrentPathToHistory(self) -> None:
        """CTK remembers paths under ``settingKey``; the host remembers none."""

    def _keep(name: str) -> Any:
        return lambda self, value: self.__dict__.__setitem__(name, value)

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath, notify=currentPathChanged)
    filters = Property(int, lambda self: self._filters, _keep("_filters"))
    nameFilters = Property(list, lambda self: self._names, _keep("_names"))
    label = Property(str, lambda self: self._label, _keep("_label"))
    settingKey = Property(str, lambda self: self._key, _keep("_key"))
    showHistoryButton = Property(bool, lambda self: False, lambda self, value: None)
    del _keep


class ctkComboBox(QComboBox):
    """A combo box that says something when nothing is chosen."""

    defaultText = Property(str, lambda self: self.placeholderText, lambda self, v: self.setPlaceholderText(v))


class ctkMessageBox(QMessageBox):
    """The host has no "don't show again"."""

    dontShowAgainSettingsKey = Property(str, lambda self: "", lambda self, value: None)


STAND_INS = (ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkSliderWidget, ctkPathLineEdit, ctkComboBox, ctkMessageBox)


def make_module() -> ModuleType:
    """The module that ``import ctk`` gives."""
    module = ModuleType("ctk", __doc__)
    for cls in STAND_INS:
        setattr(module, cls.__name__, pythonqt.strict(cls))
    return module
