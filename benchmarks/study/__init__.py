"""The comparison and the ablations of arXiv:2510.05491, tuned and trained on two cores."""
