"""Distributed knowledge distillation for echocardiogram segmentation."""

__version__ = "0.1.0"
