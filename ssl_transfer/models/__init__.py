"""Backbones (timm, torchvision, our own) with their initialisations, their blocks, and heads."""
