"""Analyse the layers of a network: blocks, execution order, call graph."""
