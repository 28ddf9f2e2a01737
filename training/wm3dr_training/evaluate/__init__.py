"""Measure encoders through the public `wm3dr` API, so that what is measured is what users get."""
