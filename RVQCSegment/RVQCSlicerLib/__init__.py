"""What both modules need of Slicer: scene and files, the worker process, overlays, review, and the parts of the panel."""
