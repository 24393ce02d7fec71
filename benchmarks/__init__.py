"""Measures meshlang against plain TensorFlow; only ratios on one machine mean anything."""
