"""Backbones (timm) with their initialisations, and heads."""
