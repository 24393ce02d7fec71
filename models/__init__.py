"""Models, written in the language alone: no TensorFlow, no configuration, no mesh axis."""
