"""Measurements. Quote results as ratios: two runs on one machine, never numbers from two machines."""
