"""Weakly-supervised semantic segmentation by Discriminative Region Suppression."""

__version__ = "0.1.0"
