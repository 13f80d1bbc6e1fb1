"""What is fitted to classes: statistics, gaussians and their fixed point, PCA axes and memory."""
