"""Training of wm3dr: labels, face model, weakly supervised stages 1 and 2, export and evaluation."""
