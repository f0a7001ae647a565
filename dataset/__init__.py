"""Pictures and captions as tensors and files; imports neither ``host`` nor ``networks``."""
