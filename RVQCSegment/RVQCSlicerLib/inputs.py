"""What is to be judged: volumes for every view and phase, cines, and the way to load a study."""

from __future__ import annotations

from collections.abc import Callable

import ctk
import qt
import slicer

from RVQCLib.stack import PHASES, VIEWS
from RVQCSlicerLib.loading import Loaded
from RVQCSlicerLib.parameters import STACKS, Parameters
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.run import study_of
from RVQCSlicerLib.scene import show_frame
from RVQCSlicerLib.words import PHASES as PHASE_WORDS
from RVQCSlicerLib.words import VIEWS as VIEW_WORDS
from RVQCSlicerLib.words import place, split

_FIND = "find"

BEGIN = "Load a study, or choose volumes that are in the scene."


class InputsBox:
    """Selectors that write straight into the parameters, and only what the user chose: `nodeActivated`, because a selector
    goes to the neighbour of a node that is deleted, and to None while a scene is imported; not while `show` sets them,
    because Slicer's setCurrentNode emits it too.

    Parameters
    ----------
    parameters : Gives the parameters of the scene that is open now.
    changed : Is called after the user changed the name.
    chose : Is called with the stack or the view for which the user chose a volume, a cine, or a frame of it.
    load : Is called with the path of a study that the user wants to load.
    """

    def __init__(
        self,
        parameters: Callable[[], Parameters],
        changed: Callable[[], None],
        chose: Callable[[str], None],
        load: Callable[[str], None],
    ) -> None:
        self._parameters, self._changed, self._chose, self._load = parameters, changed, chose, load
        self._updating = False
        self.widget = ctk.ctkCollapsibleButton()
        self.widget.text = "Study"
        form = qt.QFormLayout(self.widget)
        self._add_loaders(form)
        self.study = qt.QLineEdit()
        self.study.objectName = "RVQCStudy"
        self.study.placeholderText = "names the result, such as patient001"
        self.study.connect("textEdited(QString)", self._on_study)
        form.addRow("Name:", self.study)
        self.volumes = {key: self._volume_selector(key) for key in STACKS}
        for key, selector in self.volumes.items():
            form.addRow(f"{VIEW_WORDS[key[:2]]} {key[3:]}:", selector)
        self.cines, self.frames = {}, {}
        self.cine_box = ctk.ctkCollapsibleButton()
        self.cine_box.text = "Cines, instead of ED and ES"
        inner = qt.QFormLayout(self.cine_box)
        for view in VIEWS:
            self._add_cine(inner, view)
        self.cine_box.collapsed = True
        form.addRow(self.cine_box)

    def show(self) -> None:
        """Show what the parameters say."""
        before, self._updating = self._updating, True
        try:
            self._show(self._parameters())
        finally:
            self._updating = before

    def _show(self, parameters: Parameters) -> None:
        self.study.text = parameters.study
        for key, selector in self.volumes.items():
            selector.setCurrentNode(parameters.volume(key))
        if any(parameters.cine(view) for view in VIEWS):
            self.cine_box.collapsed = False
        for view, selector in self.cines.items():
            cine = parameters.cine(view)
            selector.setCurrentNode(cine)
            for phase in PHASES:
                spin, frame = self.frames[f"{view}_{phase}"], parameters.frame(f"{view}_{phase}")
                spin.enabled = cine is not None
                spin.maximum = (
                    cine.GetNumberOfDataNodes() if cine is not None and cine.IsA("vtkMRMLSequenceNode") else 0
                )
                spin.value = 0 if frame is None else frame + 1

    def take(self, loaded: Loaded) -> None:
        """Choose everything that was loaded, and nothing else."""
        parameters = self._parameters()
        parameters.study = parameters.proposed = loaded.study
        for key in STACKS:
            parameters.choose("volume", key, loaded.volumes.get(key))
            parameters.set_frame(key, None)
        for view in VIEWS:
            parameters.choose("cine", view, loaded.cines.get(view))
        self.recognized.text = loaded.said
        self.show()

    def choose(self, role: str, key: str, node: slicer.vtkMRMLNode | None) -> None:
        """Take the user's choice in a selector: `role` is ``volume`` or ``cine``, `key` its stack or view.

        It names the study, unless the user did, and a cine's ED and ES are to be found anew: nothing of the patient before
        may stay.
        """
        if self._updating:
            return
        parameters = self._parameters()
        if role == "cine" and node is not parameters.cine(key):
            for phase in PHASES:
                parameters.set_frame(f"{key}_{phase}", None)
        parameters.choose(role, key, node)
        if node is not None and parameters.study in ("", parameters.proposed):
            parameters.study = parameters.proposed = study_of([node])
        self.show()
        self._chose(key)

    def image(self, key: str) -> slicer.vtkMRMLVolumeNode | None:
        """What is chosen for a stack, as it can be seen: of a cine the frame, the first where it is to be found."""
        parameters = self._parameters()
        cine = parameters.cine(split(key)[0])
        return parameters.volume(key) if cine is None else show_frame(cine, parameters.frame(key) or 0)

    def forget(self) -> None:
        """The scene is about to close: nothing is recognized any more."""
        self.recognized.text = BEGIN

    def take_frames(self, result: Result) -> None:
        """Remember which frames of the cines were found to be ED and ES, where they are still chosen."""
        parameters = self._parameters()
        for entry in result.quality["cine"]:
            if result.get("cine", view := entry["view"]) is parameters.cine(view):
                for phase in PHASES:
                    parameters.set_frame(f"{view}_{phase}", entry[phase.lower()])

    def _add_loaders(self, form: qt.QFormLayout) -> None:
        row = qt.QHBoxLayout()
        folder, file = qt.QPushButton("Load study folder…"), qt.QPushButton("Load file…")
        folder.objectName, file.objectName = "RVQCLoadFolder", "RVQCLoadFile"
        folder.toolTip = "A folder in the layout of M&Ms-2 or ACDC, a plain folder, or a DICOM series"
        file.toolTip = "One stack or a 4-D cine: NIfTI, NRRD, MetaImage, DICOM"
        folder.connect("clicked(bool)", self._on_folder)
        file.connect("clicked(bool)", self._on_file)
        row.addWidget(folder)
        row.addWidget(file)
        self.recognized = qt.QLabel(BEGIN)
        self.recognized.objectName = "RVQCRecognized"
        self.recognized.wordWrap = True
        form.addRow(row)
        form.addRow(self.recognized)

    def _selector(self, kind: str, name: str, words: str) -> slicer.qMRMLNodeComboBox:
        selector = slicer.qMRMLNodeComboBox()
        selector.objectName = name
        selector.nodeTypes = [kind]
        selector.noneEnabled = True
        selector.addEnabled = False
        selector.removeEnabled = False
        selector.renameEnabled = False
        selector.showChildNodeTypes = False  # no label maps, no colour images
        selector.setMRMLScene(slicer.mrmlScene)
        selector.toolTip = words
        return selector

    def _volume_selector(self, key: str) -> slicer.qMRMLNodeComboBox:
        selector = self._selector("vtkMRMLScalarVolumeNode", f"RVQCVolume_{key}", f"The image of {place(key).lower()}")
        selector.connect("nodeActivated(vtkMRMLNode*)", lambda node, name=key: self.choose("volume", name, node))
        return selector

    def _add_cine(self, form: qt.QFormLayout, view: str) -> None:
        words = "A sequence of all frames, instead of the volumes; ED and ES are found from the volume curve, or chosen"
        selector = self._selector("vtkMRMLSequenceNode", f"RVQCCine_{view}", words)
        selector.connect("nodeActivated(vtkMRMLNode*)", lambda node, name=view: self.choose("cine", name, node))
        row = qt.QHBoxLayout()
        for phase in PHASES:
            spin = qt.QSpinBox()
            spin.objectName = f"RVQCFrame_{view}_{phase}"
            spin.minimum, spin.specialValueText = 0, _FIND
            spin.toolTip = f"Frame of {PHASE_WORDS[phase]}, from 1; “{_FIND}” has it found"
            spin.connect("valueChanged(int)", lambda value, name=f"{view}_{phase}": self._on_frame(name, value))
            row.addWidget(qt.QLabel(f"{phase} frame"))
            row.addWidget(spin, 1)
            self.frames[f"{view}_{phase}"] = spin
        self.cines[view] = selector
        form.addRow(f"{VIEW_WORDS[view]} cine:", selector)
        form.addRow(row)

    def _on_study(self, text: str) -> None:
        self._parameters().study = text
        self._changed()

    def _on_frame(self, key: str, value: int) -> None:
        if not self._updating:
            self._parameters().set_frame(key, value - 1 if value else None)
            self._chose(key)

    def _on_folder(self, checked: bool = False) -> None:
        self._load_if_chosen(qt.QFileDialog.getExistingDirectory(self.widget, "A study's folder", ""))

    def _on_file(self, checked: bool = False) -> None:
        chosen = qt.QFileDialog.getOpenFileName(self.widget, "An image or a cine", "")
        self._load_if_chosen(chosen[0] if isinstance(chosen, tuple) else chosen)

    def _load_if_chosen(self, path: str) -> None:
        if path:
            self._load(path)
