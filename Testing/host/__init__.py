"""A stand-in for the Slicer application, for tests, screenshots and people without Slicer. Development only."""
