"""The batch refine dialog: what it reads from and writes to the disk (no Slicer, no torch), and its four pages."""
