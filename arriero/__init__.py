"""Arriero."""
