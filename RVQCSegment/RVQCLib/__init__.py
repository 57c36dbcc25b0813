"""The engine of RVQC: segment, judge and refine cardiac MR. No part of it knows 3D Slicer."""

__version__ = "0.1.0"
