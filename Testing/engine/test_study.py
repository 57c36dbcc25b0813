"""study.py, layouts.py, stack.py: studies found, recognised and read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import true_masks
from test_images import affine_bytes, write_dicom, write_slices

from RVQCLib import study
from RVQCLib.files import RVQCError
from RVQCLib.images import is_exchanged, read_mask, write_mask
from RVQCLib.names import other_view, read_name
from RVQCLib.phantom import write_phantom
from RVQCLib.stack import with_indices_of
from RVQCLib.study import Geometry, Stack, Study, find_studies, read_study, source_of

only_bytes = pytest.mark.skipif(sys.platform != "linux", reason="the file system takes no name that is not UTF-8")
IMAGE = np.arange(2 * 4 * 5, dtype=np.int16).reshape(2, 4, 5)
EXCHANGED = np.array([0, 3, 2, 1], np.uint8)
LABELS = (np.arange(2 * 4 * 5) % 4).reshape(2, 4, 5).astype(np.uint8)
UNEVEN = np.stack([LABELS[0], LABELS[0, ::-1]])  # other than itself with any axis reversed


def put(path: Path, pixels: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels, isVector=False)
    image.SetSpacing((1.5, 1.5, 10.0, 1.0)[: pixels.ndim])
    sitk.WriteImage(image, str(path))
    return path


def put_acdc(root: Path, name: str, *, ed: int = 1, es: int = 12, without: tuple[str, ...] = ()) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    for frame in (ed, es):
        for suffix, pixels in (("", IMAGE + frame), ("_gt", LABELS)):
            file = f"{name}_frame{frame:02d}{suffix}.nii.gz"
            if file not in without:
                put(folder / file, pixels)
    return folder


def put_mnms2(root: Path, name: str, *, without: tuple[str, ...] = ()) -> Path:
    for view, slices in (("SA", 2), ("LA", 1)):
        for phase in ("ED", "ES"):
            for suffix, pixels in (("", IMAGE), ("_gt", LABELS)):
                file = f"{name}_{view}_{phase}{suffix}.nii.gz"
                if file not in without:
                    put(root / name / file, pixels[:slices])
        put(root / name / f"{name}_{view}_CINE.nii.gz", np.stack([IMAGE[:slices]] * 3))
    return root / name


def names(stacks) -> list[str]:
    return [stack.name for stack in stacks]


def refused(words: str, call, *arguments) -> str:
    with pytest.raises(RVQCError, match=words) as caught:
        call(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith("."), sentence
    return sentence


# Types ----------------------------------------------------------------------------------------------------------------


def test_a_stack_cannot_be_built_wrong():
    good = Stack(np.zeros((2, 3, 4), np.float32), Geometry(), "SA", "ED")
    assert good.name == "SA_ED" and good.with_pixels(np.ones((2, 3, 4), np.uint8)).geometry is good.geometry
    for pixels, view, phase in [
        (np.zeros((3, 4), np.float32), "SA", "ED"),
        (np.zeros((0, 3, 4), np.float32), "SA", "ED"),
        (np.zeros((2, 3, 4), np.int16), "SA", "ED"),
        (np.zeros((2, 3, 4), np.float32), "sa", "ED"),
        (np.zeros((2, 3, 4), np.float32), "SA", "MID"),
    ]:
        with pytest.raises(ValueError, match="Stack"):
            Stack(pixels, Geometry(), view, phase)
    with pytest.raises(ValueError, match="do not fit"):
        good.with_pixels(np.ones((2, 3, 5), np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing": (0, 1, 1)},
        {"spacing": (1, -1, 1)},
        {"spacing": (1, 1)},
        {"origin": (0, float("nan"), 0)},
        {"direction": (1, 0, 0, 1, 0, 0, 0, 0, 1)},
    ],
)
def test_a_geometry_cannot_be_built_wrong(wrong):
    with pytest.raises(ValueError, match="Geometry"):
        Geometry(**wrong)


def test_geometries_compare_by_place_and_hide_their_header():
    assert Geometry(nifti_header=b"abc") == Geometry() and "abc" not in repr(Geometry(nifti_header=b"abc"))
    assert Geometry(spacing=(1, 2, 3)).spacing_zyx == (3.0, 2.0, 1.0)


def test_volumes_by_hand():
    pixels = np.zeros((2, 5, 5), np.uint8)
    pixels[0, :2] = 1  # 10 voxels of LV
    pixels[1, 0, :3] = 2  # 3 of MYO
    pixels[1, 4] = 3  # 5 of RV
    mask = Stack(pixels, Geometry(spacing=(2.0, 2.5, 8.0)), "SA", "ED")  # 40 mm3 a voxel
    assert study.structure_volumes_ml(mask) == pytest.approx({"RV": 0.2, "LV": 0.4, "MYO": 0.12})


def test_phases_are_chosen_from_a_cine():
    frames = tuple(Stack(np.full((1, 2, 2), t, np.float32), Geometry(), "LA", "") for t in range(4))
    short = Stack(np.ones((1, 2, 2), np.float32), Geometry(), "SA", "ED")
    chosen = Study("a", (short,), cines=(frames,)).with_phases("LA", ed=0, es=2)
    assert names(chosen.stacks) == ["SA_ED", "LA_ED", "LA_ES"]
    assert chosen.stack("LA", "ES").pixels[0, 0, 0] == 2
    again = chosen.with_phases("LA", ed=1, es=3)
    assert names(again.stacks) == ["SA_ED", "LA_ED", "LA_ES"] and again.stack("LA", "ED").pixels[0, 0, 0] == 1
    assert again.chosen == {"LA": (1, 3)} and Study("a", (short,), cines=(frames,)).chosen == {}
    with pytest.raises(ValueError, match="no SA cine"):
        chosen.with_phases("SA", ed=0, es=1)
    for ed, es in ((-1, 2), (0, 4)):
        with pytest.raises(IndexError, match=f"LA cine of a has the frames 0 to 3, not {ed} and {es}"):
            chosen.with_phases("LA", ed=ed, es=es)


def test_reading_costs_no_torch():
    code = "import sys; import RVQCLib.study; sys.exit('torch' in sys.modules)"
    root = Path(study.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ACDC -----------------------------------------------------------------------------------------------------------------


def test_acdc_layout(tmp_path):
    put_acdc(tmp_path, "patient002")
    put_acdc(tmp_path, "patient001", ed=4, es=14)
    (tmp_path / "MANDATORY_CITATION.md").touch()
    (tmp_path / ".hidden").mkdir()
    first, second = study.find_studies(tmp_path)
    assert (first.name, second.name) == ("patient001", "patient002")
    assert (first.layout, first.group, first.problems) == ("acdc", "DCM", ())
    assert pickle.loads(pickle.dumps(first)) == first
    loaded = first.load(labels=True)
    assert names(loaded.stacks) == names(loaded.labels) == ["SA_ED", "SA_ES"]
    assert loaded.stack("SA", "ED").pixels[0, 0, 0] == 4 and loaded.stack("SA", "ES").pixels[0, 0, 0] == 14
    assert loaded.stack("LA", "ED") is None and loaded.label("LA", "ED") is None
    # ACDC: 1 RV, 2 MYO, 3 LV; ours: 1 LV, 2 MYO, 3 RV.
    assert np.array_equal(loaded.label("SA", "ED").pixels, np.array([0, 3, 2, 1])[LABELS])
    alone = study.read_study(tmp_path / "patient001")
    assert alone.name == "patient001" and alone.labels == () and alone.group == "DCM"


def test_acdc_frames_from_the_cine_where_they_were_not_cut_out(tmp_path):
    folder = put_acdc(tmp_path, "patient001", es=3, without=("patient001_frame01.nii.gz", "patient001_frame03.nii.gz"))
    put(folder / "patient001_4d.nii.gz", np.stack([IMAGE + 100 * frame for frame in range(1, 6)]))
    loaded = study.read_study(folder, labels=True)
    assert loaded.stack("SA", "ED").pixels[0, 0, 0] == 100 and loaded.stack("SA", "ES").pixels[0, 0, 0] == 300
    assert len(loaded.labels) == 2


def test_one_acdc_frame_knows_its_phase_and_convention(tmp_path):
    folder = put_acdc(tmp_path, "patient001")
    loaded = study.read_study(folder / "patient001_frame12.nii.gz", labels=True)
    assert names(loaded.stacks) == names(loaded.labels) == ["SA_ES"] and loaded.name == "patient001"
    assert np.array_equal(loaded.labels[0].pixels, np.array([0, 3, 2, 1])[LABELS])


@pytest.mark.parametrize("phase, file", [("ED", "patient001_frame01.nii.gz"), ("ES", "patient001_frame12.nii.gz")])
def test_acdc_without_a_phase_says_which_file_is_missing(tmp_path, phase, file):
    put_acdc(tmp_path, "patient001", without=(file,))
    put_acdc(tmp_path, "patient002")
    sentence = refused(file, study.read_study, tmp_path / "patient001")
    assert f"the {phase} image" in sentence
    bad, good = study.find_studies(tmp_path)
    assert bad.problems == (sentence,) and good.problems == ()


@pytest.mark.parametrize("content", [None, "", "ED: 1\nGroup: DCM\n", "ED: one\nES: 12\n"])
def test_acdc_without_a_usable_info(tmp_path, content):
    folder = put_acdc(tmp_path, "patient001")
    (folder / "Info.cfg").unlink()
    if content is not None:
        (folder / "Info.cfg").write_text(content)
    refused(r"Info\.cfg does not say", study.read_study, folder)


def test_two_acdc_studies_mixed(tmp_path):
    folder = put_acdc(tmp_path, "patient001")
    put(folder / "patient002_frame01.nii.gz")
    assert "patient001, patient002" in refused("mixes the files of 2 studies", study.read_study, folder)
    put_acdc(tmp_path, "patient003")
    assert [bool(source.problems) for source in study.find_studies(tmp_path)] == [True, False]


def test_real_acdc(acdc, tmp_path):
    sources = study.find_studies(acdc)
    assert len(sources) == 100 and not any(source.problems for source in sources)
    assert {source.group for source in sources} == {"DCM", "HCM", "MINF", "NOR", "RV"}
    source = sources[40]
    loaded = source.load(labels=True)
    for phase in ("ED", "ES"):
        seen = sitk.ReadImage(str(source.images["SA", phase]))
        image = loaded.stack("SA", phase)
        assert np.array_equal(image.pixels, sitk.GetArrayFromImage(seen))
        assert image.geometry == Geometry(seen.GetOrigin(), seen.GetSpacing(), seen.GetDirection())
        study.write_mask(loaded.label("SA", phase), tmp_path / "mask.nii.gz")
        assert affine_bytes(tmp_path / "mask.nii.gz") == affine_bytes(source.labels["SA", phase])
        raw = sitk.GetArrayFromImage(sitk.ReadImage(str(source.labels["SA", phase])))
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz")))
        assert all(np.array_equal(ours == a, raw == b) for a, b in ((1, 3), (2, 2), (3, 1)))
    volumes = {phase: study.structure_volumes_ml(loaded.label("SA", phase)) for phase in ("ED", "ES")}
    assert volumes["ED"]["LV"] > volumes["ES"]["LV"] and volumes["ED"]["RV"] > volumes["ES"]["RV"]


# M&Ms-2 ---------------------------------------------------------------------------------------------------------------


def test_mnms2_layout(tmp_path):
    put_mnms2(tmp_path, "002")
    put_mnms2(tmp_path, "010")
    (tmp_path / "dataset_information.csv").write_text(
        "SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n2,LV,SIEMENS,Avanto,1.5\n10,FALL,Philips,Achieva,3.0\n"
    )
    first, second = study.find_studies(tmp_path)
    assert (first.name, first.layout, first.group, first.vendor) == ("002", "mnms2", "LV", "SIEMENS")
    assert (second.name, second.group, second.vendor, second.problems) == ("010", "FALL", "Philips", ())
    loaded = study.read_study(tmp_path / "010", labels=True)
    assert names(loaded.stacks) == names(loaded.labels) == ["SA_ED", "SA_ES", "LA_ED", "LA_ES"]
    assert loaded.vendor == "Philips" and loaded.cines == ()
    assert loaded.stack("LA", "ED").pixels.shape == (1, 4, 5)
    assert np.array_equal(loaded.label("SA", "ES").pixels, LABELS)


def test_mnms2_table_one_folder_higher_missing_or_broken(tmp_path):
    put_mnms2(tmp_path / "dataset", "002")
    assert study.find_studies(tmp_path)[0].group == ""
    (tmp_path / "dataset_information.csv").write_bytes(b"\xef\xbb\xbfSUBJECT_CODE,DISEASE\r\n002,TRI\r\n")
    source = study.find_studies(tmp_path)[0]
    assert (source.name, source.group, source.vendor) == ("002", "TRI", "")
    (tmp_path / "dataset_information.csv").write_bytes(b"\xff\xff\0")
    assert study.find_studies(tmp_path)[0].group == ""


@pytest.mark.parametrize(
    "content",
    [
        "SUBJECT_CODE;DISEASE;VENDOR\r\n1;NOR;GE\r\n2;TRI;SIEMENS\r\n",
        "subject_code\tdisease\tvendor\n2.0\tTRI\tSIEMENS\n",
        "Subject_Code, Disease , Vendor\n002, TRI, SIEMENS \n",
        'SUBJECT_CODE,VENDOR,"DISEASE"\n\n"2","SIEMENS","TRI"\n',
        "\ufeffSUBJECT_CODE;DISEASE;VENDOR;SCANNER\n1\n 2 ;TRI;SIEMENS;Prisma, 3 T\n",
        "SUBJECT_CODE;DISEASE;VENDOR;NOTE\n2;TRI;SIEMENS;für später\n".encode("cp1252"),
    ],
)
def test_mnms2_table_as_a_spreadsheet_leaves_it(tmp_path, content):
    put_mnms2(tmp_path, "002")
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "dataset_information.csv").write_bytes(content)
    (source,) = study.find_studies(tmp_path)
    assert (source.group, source.vendor) == ("TRI", "SIEMENS")


@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_mnms2_without_a_phase(tmp_path, phase):
    folder = put_mnms2(tmp_path, "002", without=(f"002_LA_{phase}.nii.gz",))
    (folder / "002_LA_CINE.nii.gz").unlink()
    refused(rf"002_LA_{phase}\.nii\.gz is missing, the {phase} image of view LA", study.read_study, folder)


def test_mnms2_with_one_view_only(tmp_path):
    folder = put_mnms2(tmp_path, "002")
    for path in folder.glob("*LA*"):
        path.unlink()
    assert names(study.read_study(folder).stacks) == ["SA_ED", "SA_ES"]


def test_two_mnms2_studies_mixed(tmp_path):
    folder = put_mnms2(tmp_path, "002")
    put(folder / "003_SA_ED.nii.gz")
    refused("mixes the files of 2 studies .002, 003.", study.read_study, folder)
    (only,) = study.find_studies(tmp_path)
    assert only.name == "002" and "mixes" in only.problems[0]


def test_long_axis_files_of_two_dimensions_are_one_slice_each(tmp_path):
    folder = put_mnms2(tmp_path, "002")
    for phase in ("ED", "ES"):
        put(folder / f"002_LA_{phase}.nii.gz", IMAGE[0])
        put(folder / f"002_LA_{phase}_gt.nii.gz", LABELS[0])
    loaded = study.read_study(folder, labels=True)
    assert names(loaded.stacks) == names(loaded.labels) == ["SA_ED", "SA_ES", "LA_ED", "LA_ES"]
    assert np.array_equal(loaded.stack("LA", "ED").pixels, IMAGE[:1])
    assert np.array_equal(loaded.label("LA", "ES").pixels, LABELS[:1])
    assert list(study.source_of(put(tmp_path / "c.mha", IMAGE[0])).images) == [("LA", "ED")]


# Plain folders, files, cines, DICOM -----------------------------------------------------------------------------------


def test_a_flat_folder_holds_a_study_a_name(tmp_path):
    put(tmp_path / "Müller Anna_SAX_ed.nrrd")
    put(tmp_path / "Müller Anna-SAX-ES.nrrd")
    put(tmp_path / "Müller Anna_lax_ED.mha", IMAGE[:1])
    put(tmp_path / "Müller Anna_SA_ED_label.nii", LABELS)
    put(tmp_path / "b7.nii.gz")
    put(tmp_path / "c.nii.gz", IMAGE[:1])
    put(tmp_path / "esther sadler.nii.gz")  # words, not letters: neither ES nor SA
    sources = {source.name: source for source in study.find_studies(tmp_path)}
    assert list(sources) == ["Müller Anna", "b7", "c", "esther sadler"]
    assert list(sources["Müller Anna"].images) == [("SA", "ED"), ("SA", "ES"), ("LA", "ED")]
    assert list(sources["Müller Anna"].labels) == [("SA", "ED")]
    assert list(sources["b7"].images) == list(sources["esther sadler"].images) == [("SA", "ED")]
    assert list(sources["c"].images) == [("LA", "ED")]
    assert {source.layout for source in sources.values()} == {"plain"}
    assert np.array_equal(sources["Müller Anna"].load(labels=True).labels[0].pixels, LABELS)
    refused("mixes the files of 4 studies", study.read_study, tmp_path)


@pytest.mark.parametrize(
    "name, said",
    [
        ("SA_ED_Maria_de_la_Cruz", "Maria_de_la_Cruz SA ED"),
        ("Maria_de_la_Cruz_SA_ED_gt", "Maria_de_la_Cruz SA ED"),
        ("Maria_de_la_Cruz_LA_ED", "Maria_de_la_Cruz LA ED"),
        ("Maria de la Cruz SA", "Maria de la Cruz SA "),
        ("SA_Maria_de_la_Cruz_1_gt", "Maria_de_la_Cruz_1 SA "),
        ("Joao_Sa_LA_ES", "Joao_Sa LA ES"),
        ("Ed-Smith-SA-ES", "Ed-Smith SA ES"),
        ("x_SA_ES_Ed", "x_Ed SA ES"),
        ("ES_001_SA", "001 SA ES"),
        ("SA_ED_sax", " SA ED"),
        ("Anna short axis ED", "Anna SA ED"),
        ("anna-short-axis_es", "anna SA ES"),
        ("Anna_LAX_4-chamber_ED", "Anna LA ED"),
        ("Anna_la_4ch_cine", "Anna LA "),
        ("Joao_Sa_SA_ES", "Joao_Sa SA ES"),
        ("four chamber long axis", " LA "),
        ("p4ch_x", "p4ch_x  "),
        ("shortaxisx_fourchambers", "shortaxisx_fourchambers  "),
        ("A0S001_diastole", "A0S001  ED"),
        ("sa-Systole", " SA ES"),
        ("SA_Anna_LA", "Anna  "),
        ("Ed_SA_ES", " SA "),
        ("Jose\u0301_SA_ED", "Jos\u00e9 SA ED"),
        ("q\u0301_SA", "q\u0301 SA "),
    ],
)
def test_words_of_names(name, said):
    found = read_name(name)
    assert f"{found.study} {found.view} {found.phase}" == said
    assert found.label == ("gt" in name)
    assert found.doubt == {"SA_Anna_LA": "LA and SA", "Ed_SA_ES": "ED and ES"}.get(name, "")


def test_a_name_of_two_views_is_a_problem_of_its_study(tmp_path):
    put(tmp_path / "a" / "SA_Anna_ED.nii.gz")
    path = put(tmp_path / "a" / "SA_Anna_LA.nii.gz")
    sentence = refused("which is meant is not clear; rename it", study.read_study, path)
    assert sentence.startswith(f"{path} says LA and SA in its name")
    (found,) = study.find_studies(tmp_path)
    assert (found.name, found.problems[0]) == ("a", sentence)


def test_a_folder_a_study_is_named_by_the_folder(tmp_path):
    for name in ("b", "a"):
        put(tmp_path / name / "SA_ED.nii.gz")
        put(tmp_path / name / "SA_ES.nii.gz")
    put(tmp_path / "c" / "image_ED.nii.gz")
    assert [source.name for source in study.find_studies(tmp_path)] == ["a", "b", "c"]
    assert study.read_study(tmp_path / "a").name == "a"
    refused("holds 3 studies, not one", study.read_study, tmp_path)


def test_a_folder_around_one_study_is_that_study(tmp_path):
    put_acdc(tmp_path / "export", "patient001")
    assert study.read_study(tmp_path).name == "patient001"


@pytest.mark.parametrize("name", ["a", "002"])
@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_one_phase_is_a_study(tmp_path, name, phase):
    file = put(tmp_path / name / f"{name}_SA_{phase}.nii.gz")
    put(tmp_path / name / f"{name}_SA_{phase}_gt.nii.gz", LABELS)
    for path in (file, file.parent):
        assert names(study.read_study(path).stacks) == [f"SA_{phase}"]
    assert names(study.read_study(file.parent, labels=True).labels) == [f"SA_{phase}"]


def test_a_phase_that_the_other_view_of_mnms2_has_is_missed(tmp_path):
    for stem in ("SA_ED", "SA_ES", "LA_ED"):
        put(tmp_path / "002" / f"002_{stem}.nii.gz")
    refused(r"002_LA_ES\.nii\.gz is missing, the ES image of view LA", study.read_study, tmp_path / "002")


def test_masks_without_their_image(tmp_path):
    put(tmp_path / "a" / "a_SA_ED_gt.nii.gz", LABELS)
    refused("holds no image of a", study.read_study, tmp_path / "a")
    put(tmp_path / "a" / "a_SA_ES.nii.gz")
    refused(r"a_SA_ED\.nii\.gz is missing, the ED image of view SA", study.read_study, tmp_path / "a")


def test_true_masks_in_a_folder_of_their_own(tmp_path):
    for folder in ("images", "labels"):
        for name in ("a", "b"):
            put(tmp_path / folder / f"{name}_SA_ED.nii.gz")
    for found in study.find_studies(tmp_path):
        assert found.problems[0].endswith(
            "mixes the files of 2 studies (a, b); give every study a folder of its own, and true masks beside their images, "
            "named like them with _gt, _mask, _label or _seg at the end."
        )
    put(tmp_path / "images" / "a_SA_ED_gt.nii.gz", LABELS)
    assert "true masks" not in refused("mixes the files", study.read_study, tmp_path / "images")


def test_other_views_beside_a_study_are_left_out(tmp_path, caplog):
    for stem in ("sa_ED", "sa_ES", "la_4ch_ED", "la_2ch_ED", "la_3ch_ES", "seg_la_2ch_ED"):
        put(tmp_path / "1000" / f"{stem}.nii.gz", IMAGE[:1] if "la" in stem else IMAGE)
    (source,) = study.find_studies(tmp_path)
    assert list(source.images) == [("SA", "ED"), ("SA", "ES"), ("LA", "ED")] and not (source.labels or source.problems)
    assert caplog.messages == [
        f"Of {tmp_path / '1000'} these are left out, as they are named as other views: "
        "la_2ch_ED.nii.gz, la_3ch_ES.nii.gz, seg_la_2ch_ED.nii.gz."
    ]


def latin1(path: Path, name: str) -> Path:
    """The path renamed to a name in Latin-1, as archives of old systems leave it."""
    target = os.path.join(os.fsencode(path.parent), name.encode("latin-1"))
    os.rename(os.fsencode(path), target)
    return Path(os.fsdecode(target))


@only_bytes
def test_names_that_are_not_utf8_are_problems_of_their_studies(tmp_path):
    put(tmp_path / "data" / "good" / "good_SA_ED.nii.gz")
    for name in ("folder", "file", "mask", "dicom"):
        put(tmp_path / "data" / name / "x_SA_ED.nrrd")
    latin1(tmp_path / "data" / "folder", "Müller")
    latin1(tmp_path / "data" / "file" / "x_SA_ED.nrrd", "Jürgen.nrrd")  # ITK would have to open it
    latin1(put(tmp_path / "data" / "mask" / "x_SA_ED_gt.nrrd", LABELS), "xü_SA_ED_gt.nrrd")
    latin1(put(tmp_path / "data" / "flat_SA_ES.nii.gz"), "Änne_SA_ED.nii.gz")
    (tmp_path / "data" / "dicom" / "x_SA_ED.nrrd").unlink()
    write_dicom(tmp_path / "data" / "dicom")
    latin1(next((tmp_path / "data" / "dicom").iterdir()), "Bücher.dcm")
    found = {source.name: source for source in study.find_studies(tmp_path / "data")}
    assert list(found) == ["M\ufffdller", "dicom", "file", "good", "mask", "\ufffdnne"]
    assert [name for name, source in found.items() if not source.problems] == ["good"]
    for source in found.values():
        str(source).encode()  # whatever a result, a journal or a page says of it
    for name, wrong in (
        ("M\ufffdller", "M\ufffdller"), ("\ufffdnne", "\ufffdnne_SA_ED.nii.gz"), ("file", "file/J\ufffdrgen.nrrd"),
        ("dicom", "dicom/B\ufffdcher.dcm"),
    ):  # fmt: skip
        said = f"{tmp_path / 'data' / wrong} has a name that is not UTF-8; rename it."
        assert found[name].problems[0] == said
    refused("B\ufffdcher.dcm has a name that is not UTF-8", study.read_study, tmp_path / "data" / "dicom")


@only_bytes
def test_a_place_whose_name_is_not_utf8_is_said_at_once(tmp_path, monkeypatch):
    put(tmp_path / "home" / "data" / "a" / "a_SA_ED.nii.gz")
    home = latin1(tmp_path / "home", "Büro")
    said = "B\ufffdro has a name that is not UTF-8; rename it"
    for path in (home / "data", home / "data" / "a", home / "data" / "a" / "a_SA_ED.nii.gz"):
        refused(said, study.find_studies, path)
        refused(said, study.read_study, path)
    monkeypatch.chdir(home / "data")
    refused(said, study.find_studies, ".")


def test_two_files_for_one_stack(tmp_path):
    put(tmp_path / "a" / "a_SA_ED.nii.gz")
    put(tmp_path / "a" / "a_SA_ED.nrrd")
    refused("both look like SA_ED", study.read_study, tmp_path / "a")


def test_one_bad_study_does_not_stop_the_search(tmp_path):
    put(tmp_path / "good" / "good_SA_ED.nii.gz")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.nii.gz").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    problems = {source.name: source.problems for source in study.find_studies(tmp_path)}
    assert list(problems) == ["broken", "empty", "good"] and problems["good"] == ()
    assert "not a NIfTI" in problems["broken"][0]
    assert "holds no image" in problems["empty"][0]


def test_the_same_name_twice(tmp_path):
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a" / "x.nii.gz")
    assert all("name of 2 studies" in source.problems[0] for source in study.find_studies(tmp_path))


def test_what_holds_no_image_takes_no_study_its_name(tmp_path):
    put(tmp_path / "data" / "001" / "x_SA_ED.nii.gz")
    for folder in ("__MACOSX/data/001", "__MACOSX/002", "notes/001"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "._001_SA_ED.nii.gz").write_bytes(b"of macOS")
    (found,) = study.find_studies(tmp_path)
    assert (found.name, found.problems) == ("001", ())
    assert study.read_study(tmp_path).name == "001"


def test_nothing_to_find(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no DICOM either")
    for folder in (tmp_path, tmp_path / "empty", tmp_path / "text"):
        assert str(folder) in refused("holds no study", study.find_studies, folder)
        refused("holds no study", study.read_study, folder)
    for call in (study.find_studies, study.read_study):
        refused("absent cannot be opened", call, tmp_path / "absent")
    refused("no format", study.read_study, tmp_path / "text" / "readme.txt")


def test_a_mask_of_another_shape(tmp_path):
    folder = put_mnms2(tmp_path, "002")
    put(folder / "002_SA_ES_gt.nii.gz", LABELS[:, :3])
    assert study.read_study(folder).labels == ()
    assert "2 x 3 x 5 and 2 x 4 x 5" in refused(
        r"002_SA_ES_gt\.nii\.gz has not the shape", study.read_study, folder, True
    )


def put_turned(folder: Path, turn) -> Study:
    """A study whose image is oblique and whose mask is that of `UNEVEN` after `turn`, read with its mask."""
    image, mask = (sitk.GetImageFromArray(pixels) for pixels in (IMAGE, UNEVEN))
    for one in (image, mask):
        one.SetSpacing((1.5, 1.25, 10.0))
        one.SetOrigin((-90.0, 30.5, 12.0))
        one.SetDirection((0.6, 0.0, 0.8, 0.0, 1.0, 0.0, -0.8, 0.0, 0.6))
    folder.mkdir()
    sitk.WriteImage(image, str(folder / "a_SA_ED.nii.gz"))
    sitk.WriteImage(turn(mask), str(folder / "a_SA_ED_gt.nii.gz"))
    return study.read_study(folder, labels=True)


@pytest.mark.parametrize("axes", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)])
def test_a_mask_saved_with_reversed_axes_is_turned_back(tmp_path, axes):
    loaded = put_turned(tmp_path / "a", lambda mask: sitk.Flip(mask, axes))
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a" / "a_SA_ED_gt.nii.gz")))
    assert not np.array_equal(raw, UNEVEN), "the file holds the mask in other indices"
    assert np.array_equal(loaded.labels[0].pixels, UNEVEN)
    assert loaded.labels[0].geometry == loaded.stacks[0].geometry
    write_mask(loaded.labels[0], tmp_path / "again.nii.gz")
    assert affine_bytes(tmp_path / "again.nii.gz") == affine_bytes(tmp_path / "a" / "a_SA_ED.nii.gz")


def moved(mask: sitk.Image, voxels: float) -> sitk.Image:
    mask.SetOrigin(mask.TransformContinuousIndexToPhysicalPoint((voxels, 0.0, 0.0)))
    return mask


def without_geometry(mask: sitk.Image) -> sitk.Image:
    return sitk.GetImageFromArray(sitk.GetArrayFromImage(mask))


@pytest.mark.parametrize(
    "turn",
    [
        lambda mask: moved(mask, 3.0),
        lambda mask: moved(sitk.Flip(mask, (True, False, False)), 0.6),
        without_geometry,
    ],
)
def test_a_mask_whose_header_is_elsewhere_is_read_as_it_is(tmp_path, turn):
    loaded = put_turned(tmp_path / "a", turn)
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a" / "a_SA_ED_gt.nii.gz")))
    assert np.array_equal(loaded.labels[0].pixels, raw)


def test_a_mask_with_exchanged_axes_is_refused(tmp_path):
    square = Stack(np.zeros((2, 4, 4), np.uint8), Geometry(), "SA", "ED", "mask")
    exchanged = Stack(square.pixels, Geometry(direction=(0, 1, 0, 1, 0, 0, 0, 0, 1)), "SA", "ED", "turned")
    refused("turned has its axes in another order than mask", with_indices_of, exchanged, square)
    half = Stack(square.pixels, Geometry(spacing=(0.4, 1, 1)), "SA", "ED")
    assert with_indices_of(half, square) is half


def test_masks_of_a_cine_want_the_frames_that_they_are_of(tmp_path):
    folder = put_mnms2(tmp_path, "001")
    assert names(study.read_study(folder, labels=True).labels) == ["SA_ED", "SA_ES", "LA_ED", "LA_ES"]
    for phase in ("ED", "ES"):
        (folder / f"001_SA_{phase}.nii.gz").unlink()
    assert names(study.read_study(folder).cines[0]) == ["SA"] * 3
    sentence = refused(r"001_SA_ED_gt\.nii\.gz is a true mask", study.read_study, folder, True)
    assert "the SA images are a cine; give the frame" in sentence and "(001_SA_ED.nii.gz)" in sentence
    for phase in ("ED", "ES"):
        (folder / f"001_SA_{phase}_gt.nii.gz").unlink()
    assert names(study.read_study(folder, labels=True).labels) == ["LA_ED", "LA_ES"]


def test_a_label_map_given_as_a_study(tmp_path):
    refused(r"a_SA_ED\.nii\.gz is a label map", study.read_study, put(tmp_path / "a_SA_ED.nii.gz", LABELS))


def test_single_files(tmp_path):
    source = study.source_of(put(tmp_path / "Frau Groß_LA_ES.nii.gz"))
    assert (source.name, source.layout, list(source.images)) == ("Frau Groß", "file", [("LA", "ES")])
    assert study.find_studies(tmp_path / "Frau Groß_LA_ES.nii.gz") == [source]
    assert names(study.read_study(put(tmp_path / "SA.nrrd", IMAGE[:1])).stacks) == ["SA_ED"]
    assert study.read_study(tmp_path / "SA.nrrd").name == "SA"


def test_a_cine_waits_for_its_phases(tmp_path):
    frames = np.stack([IMAGE + 10 * frame for frame in range(3)])
    source = study.source_of(put(tmp_path / "heart.nii.gz", frames))
    assert (source.layout, list(source.images)) == ("cine", [("SA", "")])
    loaded = source.load()
    assert loaded.stacks == () and names(loaded.cines[0]) == ["SA"] * 3
    assert loaded.with_phases("SA", ed=0, es=2).stack("SA", "ES").pixels[0, 0, 0] == 20
    put(tmp_path / "folder" / "x_SA_CINE.nii.gz", frames)
    put(tmp_path / "folder" / "x_LA_CINE.nii.gz", frames[:, :1])
    source = study.source_of(tmp_path / "folder")
    assert (source.layout, list(source.images)) == ("cine", [("SA", ""), ("LA", "")])
    assert [len(cine) for cine in source.load().cines] == [3, 3]
    assert study.find_studies(tmp_path)[0].layout == "cine"


def test_dicom_folders(tmp_path):
    write_dicom(tmp_path / "p1", description="cine sax", times=2)
    write_dicom(tmp_path / "p2", description="SA ED", uid="1.2.3.5")
    write_dicom(tmp_path / "p2", description="la es", uid="1.2.3.6", slices=1)
    first, second = study.find_studies(tmp_path)
    assert (first.name, first.layout, list(first.images)) == ("p1", "dicom", [("SA", "")])
    assert len(first.load().cines[0]) == 2
    assert sorted(second.images) == [("LA", "ES"), ("SA", "ED")]
    assert second.load().stack("SA", "ED").pixels.shape == (4, 6, 7)
    file = second.images["SA", "ED"]
    assert names(study.read_study(file).stacks) == ["SA_ED"]
    write_dicom(tmp_path / "p2", description="SA ED again", uid="1.2.3.7")
    refused("two series that look like SA_ED", study.read_study, tmp_path / "p2")


def test_a_dicom_folder_with_a_series_for_each_slice_is_one_study(tmp_path):
    write_slices(tmp_path / "p1")
    write_dicom(tmp_path / "p1", times=3, slices=1, uid="1.2.4", description="cine four chamber")
    write_dicom(tmp_path / "p1", times=3, slices=1, uid="1.2.6", description="vertical long axis")
    (source,) = study.find_studies(tmp_path)
    assert source.problems == () and sorted(source.images) == [("LA", ""), ("SA", "")]
    assert [len(cine) for cine in source.load().cines] == [3, 3]
    assert {cine[0].view: len(cine[0].pixels) for cine in source.load().cines} == {"SA": 4, "LA": 1}
    next((tmp_path / "p1").glob("1.2.5.2-*")).unlink()
    sentence = refused("they have 2 to 3 frames", study.read_study, tmp_path / "p1")
    assert sentence.startswith(f"{tmp_path / 'p1'} has 4 series that look like the slices of one short axis")


def test_two_and_three_chamber_views_are_not_taken_for_four_chambers(tmp_path):
    write_dicom(tmp_path / "p1", description="cine LAX 2-chamber", slices=1)
    write_dicom(tmp_path / "p1", description="cine_3CH", uid="1.2.3.5", slices=1)
    refused(
        "named as another view .(2-ch|3CH)[a-z]*.; RVQC segments short-axis and four-chamber",
        study.read_study,
        tmp_path / "p1",
    )
    write_dicom(tmp_path / "p1", description="cine 4ch", uid="1.2.3.6", slices=1)
    assert list(study.read_study(tmp_path / "p1").stacks) and study.find_studies(tmp_path)[0].problems == ()
    file = tmp_path / "p2" / "p2_2ch.nii.gz"
    put(file, IMAGE[:1])
    (source,) = study.find_studies(tmp_path / "p2")
    assert len(source.problems) == 1 and source.problems[0].startswith(f"{file} is named as another view (2ch)")
    refused("another view", study.read_study, file)
    for name in ("patient2chen_SA_ED", "p12ch_x", "x_4ch"):
        assert other_view(name) == ""


def test_exchanged_labels_are_refused(tmp_path: Path) -> None:
    (folder,) = write_phantom(tmp_path, 1, seed=2, spacing=(2.0, 2.0, 10.0), size=(128, 128))
    path = folder / f"{folder.name}_SA_ES_gt.nii.gz"
    mask = read_mask(path, view="SA", phase="ES")
    write_mask(mask.with_pixels(EXCHANGED[mask.pixels]), path)
    read_study(folder)
    with pytest.raises(RVQCError, match=r"001_SA_ES_gt\.nii\.gz has the myocardium around the RV; .* 1 LV and 3 RV"):
        read_study(folder, labels=True)


def test_no_true_mask_looks_exchanged(acdc: Path) -> None:
    masks = [mask.pixels for mask in true_masks(find_studies(acdc))]
    assert len(masks) == 200 and not any(map(is_exchanged, masks))
    for pixels in masks[::10]:
        assert is_exchanged(EXCHANGED[pixels])


def test_an_image_whose_name_says_no_phase_is_told_to_be_taken_for_ed(tiny_study: Study, tmp_path: Path) -> None:
    image = next(stack for stack in tiny_study.stacks if stack.view == "SA")
    for name in ("case17", "case18_SA_ES", "case19_SA_ED", "case20_end"):
        (tmp_path / name).mkdir()
        write_mask(
            replace(image, pixels=np.clip(image.pixels, 0, 255).astype(np.uint8)), tmp_path / name / f"{name}.nii.gz"
        )
    told = {source.name: source.notes for source in find_studies(tmp_path)}
    assert not told["case18_SA_ES"] and not told["case19_SA_ED"]
    (note,) = told["case17"]
    assert told["case20_end"] == (note,) and note.startswith("SA ED: its name does not say which phase it is")
    file = tmp_path / "case17" / "case17.nii.gz"
    assert source_of(file).notes == read_study(file).notes == (note,)
    file.rename(tmp_path / "case18_SA_ES" / "case18_SA.nii.gz")  # beside an ES that is named, the other one is ED
    assert source_of(tmp_path / "case18_SA_ES").notes == ()
