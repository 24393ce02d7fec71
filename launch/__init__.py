"""What people run: training and planning from the command line, with gin, on real text."""
