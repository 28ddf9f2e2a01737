"""Slow, obvious float64 twins of the native stages. Comparisons only; nothing else may import them."""
