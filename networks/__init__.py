"""Adapters (LoRA) on the linears of any model; imports neither ``host`` nor ``dataset``."""
