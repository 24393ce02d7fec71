"""What a run shows of itself: a log of lines, a progress bar, a plot of the curves."""
