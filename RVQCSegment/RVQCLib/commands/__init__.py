"""The commands of `rvqc`, one a file: ``add`` describes its options, ``run`` does it."""
