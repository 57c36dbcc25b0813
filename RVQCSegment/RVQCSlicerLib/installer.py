"""What is missing, installed the Slicer way: on a click, with consent, torch by the PyTorch extension only.

numpy, SimpleITK and VTK are Slicer's own and are never touched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import slicer

from RVQCLib.files import RVQCError

SLICER = (5, 12)
"""The oldest that can run RVQC: 5.10 has no slicer.packaging, 5.8 has Python 3.9."""
TORCH = ">=2.8"
TORCH_NEEDS_GB = 6
OWN = {"safetensors", "jinja2"}
"""Packages, by the name that is imported, that Resources/requirements.txt holds."""


def outdated() -> str:
    """That this application is too old for RVQC, in a sentence; "" where it is not."""
    version = slicer.app.majorVersion, slicer.app.minorVersion
    if version >= SLICER:
        return ""
    here, needed = (".".join(map(str, numbers)) for numbers in (version, SLICER))
    return f"RVQC needs Slicer {needed} or later: this is Slicer {here}."


def install(missing: list[str], requirements: str) -> None:
    """Install what the worker misses, asking first. Blocks: while torch is installed Slicer only lives a moment at every line
    that pip prints, without a progress dialog; in such a moment a user can click, so see that nothing else is started.

    Parameters
    ----------
    requirements : path of the requirements file, without torch.

    Raises
    ------
    RVQCError
        It cannot be installed here, or was not, with what to do.
    """
    if foreign := sorted(set(missing) - OWN - {"torch"}):
        raise RVQCError(
            f"{', '.join(foreign)} belong to Slicer itself and are missing; install Slicer 5.12 or later anew."
        )
    if "torch" in missing:
        _install_torch()
    if OWN & set(missing):
        _install_packages(requirements)


def _install_torch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise RVQCError(
            "torch is missing and so is the extension that installs it; install PyTorch with the Extensions Manager, "
            "restart Slicer, and press Install again."
        ) from error
    free = shutil.disk_usage(sys.prefix).free / 2**30
    if free < TORCH_NEEDS_GB:
        raise RVQCError(
            f"torch needs {TORCH_NEEDS_GB} GB and {sys.prefix} has {free:.1f} GB left; free some space first."
        )
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
    except (subprocess.CalledProcessError, ImportError, RuntimeError) as error:
        raise RVQCError(
            "torch could not be installed, the Python console shows why; look at the network and the free space, and press "
            "Install again."
        ) from error
    if torch is None:
        raise RVQCError("torch was not installed; press Install again, or look into the log of the PyTorch extension.")


def _install_packages(requirements: str) -> None:
    packaging = getattr(slicer, "packaging", None)
    if packaging is None:
        try:
            from slicer import packaging
        except ImportError as error:
            raise RVQCError(
                f"This application has no slicer.packaging (Slicer 5.12 or later has); install what {requirements} lists."
            ) from error
    try:
        packaging.pip_ensure(packaging.load_requirements(requirements), requester="RVQC")
    except RuntimeError as error:
        raise RVQCError(
            "Nothing was installed, because you declined; press Install what is missing to be asked again."
        ) from error
    except subprocess.CalledProcessError as error:
        raise RVQCError(f"pip could not install what {requirements} lists; the Python console shows why.") from error
