"""Run on one process or many: devices, collectives, consensus, BatchNorm over all."""
