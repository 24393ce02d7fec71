"""From a program, a mesh and a layout to a plan. Imports no TensorFlow."""
